"""Token for token what XTuner 0.2.0's own functions make, over every template that it ships.

The functions are XTuner's, unchanged: openai_map_fn, template_map_fn, encode_fn.
"""

import json
import random
import shutil
from functools import cache, partial
from pathlib import Path

import pytest

from finetune_jobs.contract import DatasetFormat
from finetune_jobs.dataset.conversation import conversation
from finetune_jobs.dataset.tokens import Encoder, ids_of, labels_of, load_vocabulary
from finetune_jobs.templates import template, template_names

pytestmark = pytest.mark.stage

TEXTS = (
    "",
    " ",
    "Hello there, how are you?",
    'Thought: I should search.\nAction: ArxivSearch\nAction Input: {"query": "InternLM2 {input}"}',
    "  leading and trailing  \n\n",
    "多轮对话 — ünïcödé 🙂🇩🇪\t\r\n",
    "text with <|im_end|> and <|im_start|>user\n inside, <s>, [INST] and {system} {round}",
    "1234567890 " * 30,
    "\n",
    "{}",
)


def talk(rng: random.Random, losses: bool) -> list[dict[str, object]]:
    """A conversation in which XTuner loses nothing: system texts only before user messages, one of each in turn."""
    said: list[dict[str, object]] = []
    for turn in range(rng.randint(1, 4)):
        if rng.random() < (0.6 if turn == 0 else 0.15):
            said.append({"role": "system", "content": rng.choice(TEXTS)})
        said.append({"role": "user", "content": rng.choice(TEXTS)})
        said.append({"role": "assistant", "content": rng.choice(TEXTS)})
        if losses:
            said[-1]["loss"] = rng.random() < 0.6
    if losses:
        said[-1]["loss"] = True
    if rng.random() < 0.2:
        said.append({"role": "user", "content": rng.choice(TEXTS)})
    return said


@pytest.fixture(scope="module")
def tokenizers(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base model's tokenizer as it is (without bos for XTuner), and with a bos of its own."""
    made = {"without bos": smollm2, "with bos": tmp_path_factory.mktemp("with-bos")}
    write_tokenizer(smollm2, made["with bos"], bos_token="<|endoftext|>")
    return made


def write_tokenizer(base: Path, into: Path, **changes: str) -> None:
    shutil.copy(base / "tokenizer.json", into)
    config = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    config |= {"tokenizer_class": "PreTrainedTokenizerFast"} | changes
    (into / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def by_xtuner(messages, name, tokenizer, max_length=100_000):
    from xtuner.dataset.map_fns import openai_map_fn
    from xtuner.dataset.map_fns.template_map_fn import template_map_fn
    from xtuner.dataset.utils import encode_fn
    from xtuner.utils import PROMPT_TEMPLATE

    mapped = openai_map_fn({"messages": messages})
    templated = template_map_fn(mapped, template=PROMPT_TEMPLATE[name])
    found = encode_fn(templated, tokenizer, max_length)
    return found["input_ids"], found["labels"]


@cache
def tokenizer_of(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


vocabulary_of = cache(load_vocabulary)


def by_us(messages, name, folder, max_length=100_000):
    encoder = Encoder(template(name), vocabulary_of(folder), max_length)
    rows = [conversation({"messages": one}, DatasetFormat.MESSAGES) for one in messages]
    return [(ids_of(one.document).tolist(), labels_of(one.document).tolist()) for one in encoder.encode(rows)]


@pytest.mark.parametrize("losses", [False, True], ids=["every turn trained", "by loss flags"])
@pytest.mark.parametrize("kind", ["without bos", "with bos"])
@pytest.mark.parametrize("name", template_names())
def test_ids_and_labels_are_xtuners(name, kind, losses, tokenizers):
    rng = random.Random(f"{name} {losses}")
    talks = [talk(rng, losses) for _ in range(40)]
    if template(name).system == "{system}":  # XTuner ends with an AttributeError where it has no SYSTEM
        talks = [[one for one in messages if one["role"] != "system"] for messages in talks]
    tokenizer = tokenizer_of(tokenizers[kind])
    expected = [by_xtuner(messages, name, tokenizer) for messages in talks]
    assert by_us(talks, name, tokenizers[kind]) == expected


def test_the_names_are_all_that_xtuner_ships():
    from xtuner.utils import PROMPT_TEMPLATE

    assert set(template_names()) == set(PROMPT_TEMPLATE)


def test_bos_that_the_template_writes_is_not_doubled(smollm2, tmp_path):
    write_tokenizer(smollm2, tmp_path, bos_token="<|im_start|>")
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    doubled, labels = by_xtuner(messages, "qwen_chat", tokenizer_of(tmp_path))
    assert doubled[:2] == [1, 1]
    assert by_us([messages], "qwen_chat", tmp_path) == [(doubled[1:], labels[1:])]


def test_messages_that_were_repaired_mean_the_same_to_xtuner(smollm2):
    """What a user's own config reads from the messages folder is what the packed folder would hold."""
    rng = random.Random(5)
    tokenizer = tokenizer_of(smollm2)
    compared = 0
    for _ in range(200):
        roles = ["user", "assistant", *rng.choices(["system", "user", "assistant"], k=rng.randint(0, 8))]
        messages = [{"role": role, "content": rng.choice(TEXTS)} for role in roles]
        repaired = conversation({"messages": messages}, DatasetFormat.MESSAGES).messages()
        assert by_us([messages], "llama3_chat", smollm2) == [by_xtuner(repaired, "llama3_chat", tokenizer)]
        compared += 1
    assert compared == 200


def test_a_row_is_cut_where_xtuner_would_cut_an_answer_in_two(smollm2):
    cut = partial(by_xtuner, name="qwen_chat", tokenizer=tokenizer_of(smollm2))
    turn = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "1 2 3 4 5 6 7 8 9"}]
    whole_ids, whole_labels = cut(turn)
    [(ids, labels)] = by_us([turn * 3], "qwen_chat", smollm2, max_length=2 * len(whole_ids) + 9)
    assert (ids, labels) == (whole_ids * 2, whole_labels * 2)
    assert cut(turn * 3, max_length=2 * len(whole_ids) + 9)[0][: len(ids)] == ids
