"""tiktoken in place of tokenizers: the same ids, for every character and over drawn texts, or None."""

import json
import sys
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from finetune_jobs.dataset.byte_pairs import SEPARATOR, BytePairs, Different
from finetune_jobs.splits import LLAMA3_SPLIT, QWEN2_SPLIT

TOO_MUCH = " " * 1_200_000 + "word"
"""Blanks that tiktoken's regular expressions give up on."""
NO_CHARACTER = ("Cn", "Cs", "Co")
pytestmark = pytest.mark.stage

AROUND = ("'{}", "{}a", " {}", "  {}1", "1{} \n{}", "\t\n {}\r\n", "a.{}{}")
"""Each side of every border that the patterns know."""
PIECES = st.sampled_from(
    [" ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "it", " the", "12", "3", ".", "{}", "<|im_end|>", "<|im_start|>user\n",
     "é", "e\u0301", "你好", "🙂", "\x06", "\u1c89", "aaa", "abab", "<repo_", "name>"]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=30).map("".join)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    apart = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([apart, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def every_split(told: dict) -> list[tuple[str, str]]:
    """All pairs that make a token, as tokenizer.json has them where it was made of tiktoken's ranks."""
    special = {one["content"] for one in told["added_tokens"]}
    words = {word: number for word, number in told["model"]["vocab"].items() if word not in special}
    pairs = [
        (number, words[word[:place]], words[word[place:]], word[:place], word[place:])
        for word, number in words.items()
        for place in range(1, len(word))
        if word[:place] in words and word[place:] in words
    ]
    return [(left, right) for *_, left, right in sorted(pairs)]


@dataclass(frozen=True, repr=False)
class Kind:
    tokenizer: Tokenizer

    @cached_property
    def pairs(self) -> BytePairs:
        return BytePairs(self.tokenizer)

    def left(self, texts: list[str]) -> list[str]:
        """The texts that are left to tokenizers; the others must have its ids."""
        found = self.pairs(texts)
        expected = [one.ids for one in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        for text, ids, right in zip(texts, found, expected, strict=True):
            assert ids is None or ids.tolist() == right, text
        return [text for text, ids in zip(texts, found, strict=True) if ids is None]


@pytest.fixture(scope="module", params=["smollm2", "gpt2", "qwen2", "llama3"])
def kind(request: pytest.FixtureRequest, smollm2: Path) -> Kind:
    """The real base model's tokenizer, and its tokens cut and listed as other families do."""
    made = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    if request.param == "gpt2":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if request.param == "qwen2":
        made.pre_tokenizer = split(QWEN2_SPLIT)
        made.normalizer = normalizers.NFC()
    if request.param == "llama3":
        made.pre_tokenizer = split(LLAMA3_SPLIT)
        told = json.loads(made.to_str())
        made.model = models.BPE(told["model"]["vocab"], every_split(told), ignore_merges=True)
    return Kind(made)


def test_every_character_in_every_place(kind):
    """Of the 127,000 ideographs, syllables and letters without case, every eighth."""
    assigned = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in NO_CHARACTER]
    some = [one for one in assigned if ord(one) % 8 == 0 or unicodedata.category(one) != "Lo"]
    assert len(some) > 30_000
    left = kind.left(["".join(form.replace("{}", one) for form in AROUND) for one in some])
    assert len(left) < 0.1 * len(some)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXTS, max_size=4))
@example(texts=[])
@example(texts=["", "a", "", "a" * 5000 + "\n" * 5000])
def test_drawn_texts(kind, texts):
    kind.left(texts)


def test_what_may_differ_is_left_and_its_neighbours_are_not(smollm2):
    kind = Kind(Tokenizer.from_file(str(smollm2 / "tokenizer.json")))
    for text in (f"a{SEPARATOR}b", "a character of Unicode 16: \u1c89", "a byte that this vocabulary lacks: \x06"):
        assert kind.left(["before", text, "", "<|im_end|>", text]) == [text, text]
    kind.tokenizer.normalizer = normalizers.NFC()
    assert Kind(kind.tokenizer).left(["\u00e9", "e\u0301"]) == ["e\u0301"]


def test_a_text_that_is_too_much_for_tiktoken_is_left_with_its_neighbours(smollm2):
    kind = Kind(Tokenizer.from_file(str(smollm2 / "tokenizer.json")))
    assert kind.left(["before", TOO_MUCH]) == ["before", TOO_MUCH]
    assert kind.left(["before"]) == []


def told_with(told: dict, **model: object) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(told | {"model": told["model"] | model}))


def test_a_tokenizer_that_would_differ_is_refused(smollm2):
    told = json.loads((smollm2 / "tokenizer.json").read_text(encoding="utf-8"))
    merges, added = told["model"]["merges"], told["added_tokens"]
    lowercase, unknown = {"type": "Lowercase"}, split(r"\w+|\W+")
    part = added[0] | {"id": 49152, "content": "end|>"}
    for why, tokenizer in (
        ("another order", told_with(told, merges=[merges[1], merges[0], *merges[2:]])),
        ("not merged to", told_with(told, merges=merges[:-1])),
        ("plain BPE", told_with(told, dropout=0.1)),
        ("pre-tokenizer", Tokenizer.from_str(json.dumps(told | {"pre_tokenizer": json.loads(unknown.__getstate__())}))),
        ("pre-tokenizer", Tokenizer.from_str(json.dumps(told | {"pre_tokenizer": None}))),
        ("normalizer Lowercase", Tokenizer.from_str(json.dumps(told | {"normalizer": lowercase}))),
        ("text around", Tokenizer.from_str(json.dumps(told | {"added_tokens": [added[0] | {"lstrip": True}]}))),
        ("part of another", Tokenizer.from_str(json.dumps(told | {"added_tokens": [*added, part]}))),
    ):
        with pytest.raises(Different, match=why):
            BytePairs(tokenizer)


def test_merges_in_another_order_do_make_other_ids(smollm2):
    """What the refusal is for, and that `left` would see it."""
    told = json.loads((smollm2 / "tokenizer.json").read_text(encoding="utf-8"))
    kind = Kind(told_with(told, merges=told["model"]["merges"][::-1]))
    vars(kind)["pairs"] = BytePairs(Tokenizer.from_str(json.dumps(told)))
    with pytest.raises(AssertionError):
        kind.left(["The quick brown fox jumps over the lazy dog."])
