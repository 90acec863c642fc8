"""Chat templates by XTuner's names, and the tokens around them, without importing XTuner: the dataset is written and
the demo is served by the same.

Importing ``xtuner`` takes half a minute of torch, mmengine and DeepSpeed; its ``utils/templates.py`` is a table of
literals, so it is read and nothing is executed.
"""

import ast
import importlib.util
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from finetune_jobs.errors import MachineTrouble, UserMistake

WITHOUT_BOS = ("QWenTokenizer", "QWen2Tokenizer", "Qwen2Tokenizer", "Qwen2TokenizerFast")
"""Tokenizers that XTuner's get_bos_eos_token_ids takes for ones without bos. (It misspells Qwen2Tokenizer.)"""
CHATGLM_BOS = (64790, 64792)
"""[gMASK] and sop."""


class Template(BaseModel):
    """One row of ``xtuner.utils.PROMPT_TEMPLATE``.

    A conversation is SYSTEM + INSTRUCTION, answer + SUFFIX, SEP; then INSTRUCTION, answer + SUFFIX, SEP, and so on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    system: str = "{system}"
    """With {system}; minicpm has none of its own."""
    instruction: str
    """With {input} and, in some, {round} from 1."""
    suffix: str = ""
    suffix_as_eos: bool = False
    """False: the tokenizer's end-of-sequence token follows the suffix."""
    sep: str = ""
    stop_words: tuple[str, ...] = ()

    def render_system(self, text: str) -> str:
        return self.system.format(system=text)

    def render_instruction(self, text: str, number: int) -> str:
        """`number` counts the conversation's turns from 1."""
        return self.instruction.format(input=text, round=number)


def template(name: str) -> Template:
    """The template of that name; UserMistake naming the nearest one when XTuner has none such."""
    row = _rows().get(name)
    if row is None:
        near = get_close_matches(name, _rows(), n=1, cutoff=0.3)
        write = f"Write template: {near[0]}, or" if near else "Write"
        raise UserMistake(
            "TemplateUnknown",
            f"There is no chat template {name!r}.",
            f"{write} one of: {', '.join(sorted(_rows()))}.",
        )
    return Template(name=name, **{field.lower(): value for field, value in row.items()})


def special_ids(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """bos and eos as xtuner.dataset.utils.get_bos_eos_token_ids gives them; empty where the tokenizer has none."""
    name = type(tokenizer).__name__
    eos = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    if name == "ChatGLMTokenizer":
        return CHATGLM_BOS, eos
    if name in WITHOUT_BOS or tokenizer.bos_token_id is None:
        return (), eos
    return (int(tokenizer.bos_token_id),), eos


def bos_before(bos: tuple[int, ...], text: Sequence[int]) -> tuple[int, ...]:
    """bos, or nothing where the text's tokens begin with it: XTuner would double it."""
    return () if tuple(text[: len(bos)]) == bos else bos


def template_names() -> tuple[str, ...]:
    return tuple(_rows())


@cache
def _rows() -> dict[str, dict[str, Any]]:
    package = importlib.util.find_spec("xtuner")
    if package is None or package.origin is None:
        raise MachineTrouble(
            "XTunerMissing", "XTuner, whose chat templates are used, is not installed.", "pip install xtuner==0.2.0"
        )
    path = Path(package.origin).parent / "utils" / "templates.py"
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="PROMPT_TEMPLATE")], value=ast.Call(keywords=rows)):
                return {row.arg: _fields(row.value) for row in rows if row.arg}
    raise MachineTrouble("XTunerMissing", f"{path} holds no PROMPT_TEMPLATE.", "Install xtuner==0.2.0 again.")


def _fields(row: ast.expr) -> dict[str, Any]:
    """``dict(SYSTEM="...", STOP_WORDS=["..."])`` as the dict that it would make."""
    if not isinstance(row, ast.Call):
        raise TypeError(f"not a call of dict: {ast.dump(row)}")
    return {field.arg: ast.literal_eval(field.value) for field in row.keywords if field.arg}
