"""The tokenizer of a model folder: loads, gives back what it was given, fits the weights, begins a text once.

XTuner 0.2.0 (xtuner.dataset.utils.encode_fn) writes the bos token before every conversation. Where bos
is the very token that opens each message (ChatML's <|im_start|> in SmolLM2), the template writes it
already, and it would stand there twice. XTuner writes none for the class Qwen2TokenizerFast, which reads
the same tokenizer.json; so such a tokenizer is given that class.
"""

import json
import logging
from pathlib import Path
from typing import Any

from finetune_jobs.errors import UserMistake, first_line
from finetune_jobs.model.assemble import rewrite
from finetune_jobs.trouble import trouble_in

log = logging.getLogger(__name__)

CONFIG = "tokenizer_config.json"
WITHOUT_BOS = "Qwen2TokenizerFast"
PLAIN = 'Thought: search it.\nAction Input: {"query": "InternLM2 Technical Report", "n": 12345}'
FOREIGN = "Grüße, 你好, 🙂"
CONVERSATION = (
    {"role": "user", "content": "What is a shard?"},
    {"role": "assistant", "content": "A part of the weights."},
    {"role": "user", "content": "Thank you."},
)


def check(folder: Path, embedding_rows: int) -> None:
    """Raise UserMistake for a tokenizer that can't be used with these weights; mend a doubled bos."""
    tokenizer = load(folder)
    refuse_foreign_vocabulary(tokenizer, embedding_rows)
    refuse_lossy(tokenizer)
    rendered = render(tokenizer)
    if rendered is None:
        log.warning("the tokenizer has no chat template; the job's own template says how a conversation is written")
    elif opens_every_message(tokenizer, rendered):
        forgo_bos(folder, tokenizer)


def load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 (tokenizers raises no narrower one for a broken file)
        raise trouble_in(error) or UserMistake(
            "TokenizerBroken",
            f"The tokenizer can't be loaded: {type(error).__name__}: {first_line(error)}",
            "Bring the tokenizer's files anew; a tokenizer that needs code of its own can't be used.",
        ) from None


def refuse_foreign_vocabulary(tokenizer: Any, embedding_rows: int) -> None:
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= embedding_rows:
        raise UserMistake(
            "VocabularyTooLarge",
            f"The tokenizer has the token id {largest}, but the weights have embeddings for {embedding_rows} tokens.",
            "Use the tokenizer that belongs to these weights.",
        )
    if tokenizer.eos_token_id is None:
        raise UserMistake(
            "EosMissing",
            "The tokenizer has no eos token, so that nothing says where an answer ends.",
            f"Name it as eos_token in {CONFIG}.",
        )


def refuse_lossy(tokenizer: Any) -> None:
    for text in (PLAIN, FOREIGN):
        back = tokenizer.decode(
            tokenizer.encode(text, add_special_tokens=False), clean_up_tokenization_spaces=False
        ).strip()
        if back == text:
            continue
        if text == FOREIGN:
            log.warning("the tokenizer does not give back all of Unicode: %r became %r", text, back)
            continue
        raise UserMistake(
            "TokenizerLossy",
            f"The tokenizer does not give back what it was given: {text!r} became {back!r}.",
            "Use the tokenizer that belongs to these weights; tool calls need every character.",
        )


def render(tokenizer: Any) -> str | None:
    """A small conversation by the tokenizer's own chat template; None if it has none."""
    if not tokenizer.chat_template:
        return None
    try:
        return str(tokenizer.apply_chat_template(list(CONVERSATION), tokenize=False, add_generation_prompt=True))
    except Exception as error:  # noqa: BLE001 (a template raises what it likes)
        raise UserMistake(
            "ChatTemplateBroken",
            f"The chat template can't write a plain conversation: {type(error).__name__}: {error}",
            "Correct chat_template.jinja (or chat_template in tokenizer_config.json), or remove it.",
        ) from None


def opens_every_message(tokenizer: Any, rendered: str) -> bool:
    """Whether bos is no mark of a text's beginning but of each message's."""
    bos = tokenizer.bos_token
    return bool(bos) and rendered.startswith(bos) and rendered.count(bos) >= len(CONVERSATION)


def forgo_bos(folder: Path, tokenizer: Any) -> None:
    """Give the tokenizer the class for which XTuner writes no bos, if it then still does the same."""
    from transformers import Qwen2TokenizerFast

    if type(tokenizer).__name__ == WITHOUT_BOS:
        return
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"tokenizer_class": WITHOUT_BOS, "add_bos_token": False}
    text = PLAIN + FOREIGN + tokenizer.bos_token
    same = (folder / "tokenizer.json").exists()
    if same:
        other = Qwen2TokenizerFast.from_pretrained(folder, local_files_only=True)
        same = other.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
    if not same:
        log.warning("bos %r opens every message; XTuner will write it twice at the beginning", tokenizer.bos_token)
        return
    rewrite(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    log.info(
        "bos %r opens every message: the tokenizer is now a %s, so that XTuner adds no second",
        tokenizer.bos_token,
        WITHOUT_BOS,
    )
