"""Conversations -> token ids, as XTuner's ``template_map_fn`` and ``encode_fn`` (0.2.0) make them.

A document is one int32 array in which the tokens that the loss is taken over stand as they are and the others as
``~id`` (below zero): ids and labels in four bytes a token.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from finetune_jobs.dataset.byte_pairs import BytePairs, Different
from finetune_jobs.dataset.conversation import Conversation, NotUnderstood, Turn
from finetune_jobs.errors import UserMistake, first_line
from finetune_jobs.templates import Template, bos_before, special_ids
from finetune_jobs.trouble import trouble_in

log = logging.getLogger(__name__)

IGNORE_INDEX = -100
"""torch's and XTuner's label of a token without loss."""

Array: TypeAlias = npt.NDArray[np.int32]
Batch = Callable[[list[str]], list[Array]]
"""Texts -> ids without special tokens added."""


def ids_of(document: Array) -> Array:
    return np.where(document < 0, ~document, document)


def labels_of(document: Array) -> Array:
    return np.where(document < 0, np.int32(IGNORE_INDEX), document)


def document_of(ids: Sequence[int], labels: Sequence[int], vocabulary: int) -> Array:
    """A row that is tokenised already; NotUnderstood if labels are neither the ids nor IGNORE_INDEX."""
    if len(ids) != len(labels) or not len(ids):
        raise NotUnderstood("bad_tokens", f"{len(ids)} input_ids and {len(labels)} labels")
    found, wanted = np.asarray(ids, np.int64), np.asarray(labels, np.int64)
    if found.min() < 0 or found.max() >= vocabulary:
        raise NotUnderstood("bad_tokens", f"an id is outside of the tokenizer's 0 to {vocabulary - 1}")
    trained = wanted != IGNORE_INDEX
    if not np.array_equal(wanted[trained], found[trained]):
        raise NotUnderstood("bad_tokens", f"a label is neither {IGNORE_INDEX} nor its own input id")
    if not trained.any():
        raise NotUnderstood("nothing_supervised", f"every label is {IGNORE_INDEX}")
    return np.where(trained, found, ~found).astype(np.int32)


class Vocabulary(NamedTuple):
    """What is needed of a tokenizer."""

    batch: Batch
    bos: tuple[int, ...]
    eos: tuple[int, ...]
    size: int
    name: str


def load_vocabulary(folder: Path) -> Vocabulary:
    """The tokenizer of a model folder; UserMistake when there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        raise trouble_in(error) or UserMistake(
            "TokenizerMissing",
            f"No tokenizer can be loaded from {folder}: {first_line(error)}",
            "Use a model source that has its tokenizer's files, tokenizer.json or tokenizer.model among them.",
        ) from None
    bos, eos = special_ids(tokenizer)
    return Vocabulary(batch_encoder(tokenizer), bos, eos, len(tokenizer), type(tokenizer).__name__)


def batch_encoder(tokenizer: Any) -> Batch:
    """Texts -> ids: outside of Python where the tokenizer is a fast one, by tiktoken where that makes the same ids."""
    if not tokenizer.is_fast:
        return lambda texts: [np.array(tokenizer.encode(text, add_special_tokens=False), np.int32) for text in texts]
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()

    def by_tokenizers(texts: list[str]) -> list[Array]:
        return [np.array(one.ids, np.int32) for one in backend.encode_batch_fast(texts, add_special_tokens=False)]

    try:
        pairs = BytePairs(backend)
    except Different as why:
        log.info("tokenising by tokenizers, not by the faster tiktoken: %s", why)
        return by_tokenizers

    def by_tiktoken(texts: list[str]) -> list[Array]:
        found = pairs(texts)
        rest = iter(by_tokenizers([text for text, ids in zip(texts, found, strict=True) if ids is None]))
        return [next(rest) if ids is None else ids for ids in found]

    return by_tiktoken


class Encoded(NamedTuple):
    document: Array
    """Up to and with the last turn that fits into max_length."""
    length: int
    """Tokens of the whole conversation."""
    turns: int
    """Turns in the document; fewer than the conversation's when it was cut."""


@dataclass(frozen=True)
class Encoder:
    """Applies one template with one tokenizer."""

    template: Template
    vocabulary: Vocabulary
    max_length: int

    def __post_init__(self) -> None:
        if not self.template.suffix_as_eos and not self.vocabulary.eos:
            raise UserMistake(
                "EosMissing",
                f"The template {self.template.name} ends answers with the tokenizer's eos token, but it has none.",
                "Use the model's own template, or a tokenizer_config.json with an eos_token.",
            )

    def texts(self, conversation: Conversation) -> list[str]:
        """Input and output of each turn in order: what is encoded, piece by piece as XTuner does it."""
        found = []
        for number, turn in enumerate(conversation.turns, start=1):
            found += [self.input_text(turn, number), turn.output + self.template.suffix]
        return found

    def input_text(self, turn: Turn, number: int) -> str:
        system = self.template.render_system(turn.system) if turn.system else ""
        return system + self.template.render_instruction(turn.input, number)

    def encode_chunk(self, chunk: Sequence[tuple[Any, Conversation]]) -> list[Encoded | NotUnderstood]:
        """`encode` of the conversations that stand beside their rows."""
        return self.encode([conversation for _, conversation in chunk])

    def encode(self, conversations: Sequence[Conversation]) -> list[Encoded | NotUnderstood]:
        """Token for token as XTuner, with two differences.

        - A conversation that is longer than max_length is cut after its last turn that fits. XTuner cuts at the
          token: the answer there would lose its end, and with it its end-of-turn token. If no trained turn fits, it
          is NotUnderstood as too_long.
        - bos is not put before an input that begins with it: XTuner doubles it.
        """
        texts = [self.texts(conversation) for conversation in conversations]
        ids = iter(self.vocabulary.batch([text for one in texts for text in one]))
        return [self.assemble(one, [next(ids) for _ in text]) for one, text in zip(conversations, texts, strict=True)]

    @cached_property
    def separator(self) -> Array:
        return self.vocabulary.batch([self.template.sep])[0]

    def assemble(self, conversation: Conversation, ids: list[Array]) -> Encoded | NotUnderstood:
        eos = np.array(() if self.template.suffix_as_eos else self.vocabulary.eos, np.int32)
        sep = ~self.separator
        pieces: list[Array] = []
        length = kept = end = 0
        needs_bos = True
        for number, turn in enumerate(conversation.turns):
            before, answer = ids[2 * number], ids[2 * number + 1]
            bos = bos_before(self.vocabulary.bos, before) if needs_bos else ()
            given = ~np.concatenate([np.array(bos, np.int32), before])
            said = np.concatenate([answer, eos])
            pieces += [given, said if turn.loss else ~said, sep]
            length += len(given) + len(said)
            if length <= self.max_length:
                kept, end = number + 1, min(length + len(sep), self.max_length)
            length += len(sep)
            needs_bos = not self.template.suffix_as_eos
        if not any(turn.loss for turn in conversation.turns[:kept]):
            return NotUnderstood("too_long", self.too_long(conversation, pieces))
        return Encoded(np.concatenate(pieces)[:end], length, kept)

    def too_long(self, conversation: Conversation, pieces: list[Array]) -> str:
        first = next(number for number, turn in enumerate(conversation.turns) if turn.loss)
        needed = sum(map(len, pieces[: 3 * first + 2]))
        return f"its first trained turn ends at token {needed}, after max_length {self.max_length}"

    def writes_bos(self) -> bool:
        """Whether the template's own text begins with bos."""
        start = self.vocabulary.batch([self.input_text(Turn("", "", "", loss=True), 1)])[0]
        return bool(self.vocabulary.bos) and bos_before(self.vocabulary.bos, start) == ()
