"""What is served is what was trained: the same tokens as XTuner's own map functions and encoding give."""

import numpy as np
import pytest

from finetune_jobs.agent.prompt import Message, prompt_text, prompt_tokens, turns
from finetune_jobs.dataset.conversation import Conversation, Turn
from finetune_jobs.dataset.tokens import Encoder, Vocabulary, ids_of
from finetune_jobs.templates import special_ids, template, template_names

TALK = [
    Message(role="system", content="Use {tools}."),
    Message(role="user", content="Find it. "),
    Message(role="user", content="Please."),
    Message(role="assistant", content='Thought:x\nAction Input:{"query": "y"}'),
    Message(role="user", content='Response:{"content": "z"}\n'),
]


class Words:
    """A tokenizer that cuts at seams: token ids of one text differ from those of its two halves."""

    bos_token_id, eos_token_id, unk_token_id = 1, 2, 0

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [len(text) + 10, *map(ord, text)]


@pytest.mark.parametrize("name", template_names())
def test_prompt_tokens_are_those_that_xtuner_trains_on(name: str):
    from xtuner.dataset.map_fns import openai_map_fn, template_map_fn
    from xtuner.dataset.utils import encode_fn
    from xtuner.utils import PROMPT_TEMPLATE

    if name == "minicpm":
        pytest.skip("XTuner's minicpm has no SYSTEM: its own map function fails on a system message")
    answer = Message(role="assistant", content="done")
    row = template_map_fn(openai_map_fn({"messages": [*TALK, answer]}), PROMPT_TEMPLATE[name])
    trained = encode_fn(row, Words(), 10_000)
    prompt = prompt_tokens(Words(), template(name), TALK)
    assert trained["input_ids"][: len(prompt)] == prompt
    first_of_answer = Words().encode("done" + template(name).suffix, add_special_tokens=False)
    assert trained["input_ids"][len(prompt) :][: len(first_of_answer)] == first_of_answer


class OpensMessages(Words):
    """bos is the token that opens each message of ChatML."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        rest = text.removeprefix("<|im_start|>")
        return [*([self.bos_token_id] if rest != text else []), *super().encode(rest, add_special_tokens=False)]


class Qwen2Tokenizer(Words):
    """XTuner misspells its name."""


@pytest.mark.parametrize("tokenizer", [Words(), OpensMessages(), Qwen2Tokenizer()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("name", ["qwen_chat", "default", "llama2_chat"])
def test_prompt_tokens_are_those_of_the_dataset(name: str, tokenizer: Words):
    def batch(texts: list[str]) -> list[np.ndarray]:
        return [np.array(tokenizer.encode(text, add_special_tokens=False), np.int32) for text in texts]

    written = template(name)
    vocabulary = Vocabulary(batch, *special_ids(tokenizer), 200_000, "Words")
    talk = Conversation((Turn("Use it.", "Find it.", "x", loss=True), Turn("", "Response: z", "done", loss=True)))
    document = Encoder(written, vocabulary, 10_000).encode([talk])[0].document
    prompt = prompt_tokens(
        tokenizer,
        written,
        [
            Message(role="system", content="Use it."),
            Message(role="user", content="Find it."),
            Message(role="assistant", content="x"),
            Message(role="user", content="Response: z"),
        ],
    )
    assert ids_of(document)[: len(prompt)].tolist() == prompt


def test_the_text_is_readable():
    assert prompt_text(template("qwen_chat"), TALK[:2]) == (
        "<|im_start|>system\nUse {tools}.<|im_end|>\n<|im_start|>user\nFind it. <|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_force_stop_prompt_ends_the_question_before_it():
    stop = Message(role="system", content="Answer now.")
    assert turns([*TALK, stop])[-1]["question"] == 'Response:{"content": "z"}\nAnswer now.'
    assert turns([*TALK[:2], stop])[-1]["question"] == "Find it. \nAnswer now."
