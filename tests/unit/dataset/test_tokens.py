"""Token ids without a real tokenizer: a vocabulary in which each character is its code point."""

import numpy as np
import pytest

from finetune_jobs.dataset.conversation import Conversation, NotUnderstood, Turn
from finetune_jobs.dataset.tokens import IGNORE_INDEX, Encoder, Vocabulary, document_of, ids_of, labels_of
from finetune_jobs.errors import UserMistake
from finetune_jobs.templates import Template

BOS, EOS = 1, 2
PLAIN = Template(name="plain", system="[{system}]", instruction="<{input}>", suffix="!", suffix_as_eos=True, sep="_")
WITH_EOS = PLAIN.model_copy(update={"suffix_as_eos": False})


def encoder(template=PLAIN, bos=(BOS,), eos=(EOS,), max_length=100):
    return Encoder(
        template,
        Vocabulary(lambda texts: [np.array([ord(c) for c in t], np.int32) for t in texts], bos, eos, 128, "x"),
        max_length,
    )


def encode(turns, **more):
    return encoder(**more).encode([Conversation(tuple(Turn(*turn) for turn in turns))])[0]


def shown(array) -> str:
    return "".join({BOS: "^", EOS: "$", IGNORE_INDEX: "."}.get(int(one)) or chr(one) for one in array)


def both(encoded) -> tuple[str, str]:
    return shown(ids_of(encoded.document)), shown(labels_of(encoded.document))


def test_one_bos_at_the_start_where_the_suffix_ends_a_turn():
    found = encode([("s", "a", "b", True), ("", "c", "d", True)])
    assert both(found) == ("^[s]<a>b!_<c>d!_", ".......b!....d!.")


def test_bos_and_eos_around_each_turn_otherwise():
    found = encode([("", "a", "b", True), ("", "c", "d", True)], template=WITH_EOS)
    assert both(found) == ("^<a>b!$_^<c>d!$_", "....b!$.....d!$.")


def test_a_turn_without_loss_has_no_labels():
    found = encode([("", "a", "b", False), ("", "c", "d", True)], template=WITH_EOS)
    assert both(found) == ("^<a>b!$_^<c>d!$_", "............d!$.")


def test_bos_is_not_doubled_where_the_template_writes_it():
    template = PLAIN.model_copy(update={"instruction": chr(BOS) + "<{input}>"})
    assert encoder(template).writes_bos()
    assert not encoder().writes_bos()
    assert both(encode([("", "a", "b", True)], template=template))[0] == "^<a>b!_"


def test_no_bos_where_the_tokenizer_has_none():
    assert both(encode([("", "a", "b", True)], bos=()))[0] == "<a>b!_"


def test_a_template_that_needs_eos_is_refused_without_one():
    with pytest.raises(UserMistake, match="eos token") as caught:
        encoder(template=WITH_EOS, eos=())
    assert caught.value.failure.reason == "EosMissing"


@pytest.mark.parametrize(
    ("max_length", "kept", "turns"),
    [(14, "^<a>b!_<cc>d!_", 2), (13, "^<a>b!_<cc>d!", 2), (12, "^<a>b!_", 1), (7, "^<a>b!_", 1), (6, "^<a>b!", 1)],
)
def test_a_long_conversation_is_cut_after_its_last_whole_turn(max_length, kept, turns):
    found = encode([("", "a", "b", True), ("", "cc", "d", True)], max_length=max_length)
    assert (both(found)[0], found.turns, found.length) == (kept, turns, 14)


@pytest.mark.parametrize("first_loss", [True, False])
def test_a_conversation_without_a_whole_trained_turn_says_what_it_needs(first_loss):
    found = encode([("", "a", "b", first_loss), ("", "cc", "d", True)], max_length=5 if first_loss else 12)
    assert isinstance(found, NotUnderstood)
    assert (found.reason, found.why.split(",")[0]) == (
        "too_long",
        f"its first trained turn ends at token {6 if first_loss else 13}",
    )


def test_conversations_of_a_chunk_do_not_mix():
    both_at_once = encoder().encode([Conversation((Turn("", x, x, True),)) for x in "pq"])
    assert [shown(ids_of(one.document)) for one in both_at_once] == ["^<p>p!_", "^<q>q!_"]


def test_a_tokenised_row_becomes_the_same_ids_and_labels():
    document = document_of([5, 0, 7], [-100, -100, 7], 10)
    assert ids_of(document).tolist() == [5, 0, 7]
    assert labels_of(document).tolist() == [-100, -100, 7]
    assert document.dtype == np.int32


@pytest.mark.parametrize(
    ("ids", "labels", "reason"),
    [
        ([1, 2], [1], "bad_tokens"),
        ([], [], "bad_tokens"),
        ([1, 10], [1, 10], "bad_tokens"),
        ([1, -5], [1, -100], "bad_tokens"),
        ([1, 2], [2, -100], "bad_tokens"),
        ([1, 2], [-100, -100], "nothing_supervised"),
    ],
)
def test_a_tokenised_row_that_does_not_fit_is_refused(ids, labels, reason):
    with pytest.raises(NotUnderstood) as caught:
        document_of(ids, labels, 10)
    assert caught.value.reason == reason
