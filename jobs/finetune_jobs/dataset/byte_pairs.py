"""Byte-level BPE by tiktoken, several times as fast as tokenizers, for the tokenizers where both make the same ids.

Hugging Face merges the pair that stands first in a list, tiktoken the pair whose joint token has the least id. The two
agree where ids rise along the list, and where every token is what its own text is merged to: a pair that is not in the
list but makes a token could stand side by side only on the way to that token, and there the list merges it too.
`require_same` checks this; `split_of` knows how the text is cut before.
"""

import json
import logging
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from tiktoken import Encoding
from tokenizers import Tokenizer, models

from finetune_jobs.splits import DIGITS_GPT2_SPLIT, GPT2_SPLIT, LLAMA3_SPLIT, QWEN2_SPLIT

log = logging.getLogger(__name__)

SEPARATOR = "\ufdd0"
"""Ends each text. Unicode promises that it never becomes a character, so no text that is taken has it."""
UNASSIGNED = "Cn"
DIGITS = {"type": "Digits", "individual_digits": True}


class Different(Exception):
    """tiktoken would, or might, make other ids of a text; says why."""


class BytePairs:
    """Texts -> ids of a tokenizer, without special tokens added; Different when it is not known to be the same."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        told = json.loads(tokenizer.to_str())
        self.composed = is_composed(told["normalizer"])
        special = special_tokens(told["added_tokens"])
        ranks = mergeable_ranks(told["model"], special)
        self.size = 1 + max(chain(ranks.values(), special.values()))
        missing = [bytes([byte]) for byte in range(256) if bytes([byte]) not in ranks]
        self.separator = self.size + len(missing)
        self.encoding = Encoding(
            "of the base model",
            pat_str=split_of(told["pre_tokenizer"]),
            mergeable_ranks=ranks | {byte: self.size + place for place, byte in enumerate(missing)},
            special_tokens=special | {SEPARATOR: self.separator},
        )
        self.known: set[str] = set()
        """Characters that this Python knows, of those that were seen."""

    def __call__(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32] | None]:
        """None for a text whose ids may differ: one with characters younger than this Python's Unicode tables, not
        normalised, or with a byte that the vocabulary lacks; for all where one is too much for tiktoken."""
        taken = [self.takes(text) for text in texts]
        # One call for all: between two calls a thread would wait for its turn in Python.
        joint = "".join((text if good else "") + SEPARATOR for text, good in zip(texts, taken, strict=True))
        try:
            ids = self.encoding.encode_to_numpy(joint, allowed_special="all").astype(np.int32)
        except ValueError as error:  # its regular expressions give up on a million blanks in a row
            log.info("tokenising %d texts by tokenizers: %s", len(texts), error)
            return [None] * len(texts)
        found: list[npt.NDArray[np.int32] | None] = []
        start = 0
        for good, end in zip(taken, np.flatnonzero(ids == self.separator).tolist(), strict=True):
            found.append(ids[start:end] if good else None)
            start = end + 1
        if np.any((ids >= self.size) & (ids != self.separator)):
            return [None if one is None or np.any(one >= self.size) else one for one in found]
        return found

    def takes(self, text: str) -> bool:
        if text.isascii():
            return True
        new = set(text) - self.known
        if any(unicodedata.category(character) == UNASSIGNED for character in new):
            return False
        self.known |= new
        return not self.composed or unicodedata.is_normalized("NFC", text)


def is_composed(normalizer: Mapping[str, Any] | None) -> bool:
    """Whether texts are brought into Unicode's composed form (NFC)."""
    if normalizer is None or normalizer == {"type": "Sequence", "normalizers": []}:
        return False
    if normalizer == {"type": "NFC"}:
        return True
    raise Different(f"the normalizer {normalizer['type']}")


def special_tokens(added: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Tokens that are found in a text before all else."""
    found = {str(one["content"]): int(one["id"]) for one in added}
    for one in added:
        if any(one[way] for way in ("lstrip", "rstrip", "single_word", "normalized")):
            raise Different(f"the added token {one['content']!r} looks at the text around it")
    for token in found:
        if any(token in other for other in found if other != token):
            raise Different(f"the added token {token!r} is a part of another one")
    return found


def split_of(pre_tokenizer: Mapping[str, Any] | None) -> str:
    """The pattern that cuts a text into the pieces that this pre-tokenizer makes."""
    steps = [dict(one) for one in (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {}])]
    *before, last = steps or [{}]
    if last.get("type") == "ByteLevel" and not last["add_prefix_space"]:
        if last["use_regex"] and before in ([], [DIGITS]):
            return DIGITS_GPT2_SPLIT if before else GPT2_SPLIT
        for pattern in (LLAMA3_SPLIT, QWEN2_SPLIT):
            split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            if before == [split] and not last["use_regex"]:
                return pattern
    raise Different("a pre-tokenizer that is not known here")


def mergeable_ranks(model: Mapping[str, Any], special: Mapping[str, int]) -> dict[bytes, int]:
    """The bytes of each token but the special ones, with its id."""
    if model["type"] != "BPE" or model["dropout"] or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        raise Different("a model that is no plain BPE")
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte = {character: byte for byte, character in bytes_to_unicode().items()}
    words = {word: int(number) for word, number in model["vocab"].items() if word not in special}
    if not all(character in byte for word in words for character in word):
        raise Different("a token that is not made of bytes")
    require_same(model, words)
    return {bytes(byte[character] for character in word): number for word, number in words.items()}


def require_same(model: Mapping[str, Any], words: Mapping[str, int]) -> None:
    """Raise Different unless merging by the list and merging by ids come to the same."""
    merges = [(left, right) for left, right in model["merges"]]
    made = [words.get(left + right, -1) for left, right in merges]
    if min(made, default=0) < 0 or made != sorted(made):
        raise Different("merges in another order than the ids of what they make")
    by_list = models.BPE(dict(model["vocab"]), merges)
    listed = set(merges)
    for word in words:
        if [one.value for one in by_list.tokenize(word)] == [word]:
            continue
        splits = ((word[:place], word[place:]) for place in range(1, len(word)))
        if not model["ignore_merges"] or any(a in words and b in words and (a, b) not in listed for a, b in splits):
            raise Different(f"the token {word!r}, which its own text is not merged to")
