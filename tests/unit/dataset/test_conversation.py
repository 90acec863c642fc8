"""What the reader makes of a row: the same as XTuner where XTuner loses nothing, repaired or refused where it does."""

import pytest

from finetune_jobs.contract import DatasetFormat
from finetune_jobs.dataset.conversation import DROPS, NOTES, REPAIRS, Conversation, NotUnderstood, Turn, conversation

ROLES = {"s": "system", "u": "user", "a": "assistant"}


def message(short, content, **more):
    return {"role": ROLES[short], "content": content, **more}


def read(*messages, form=DatasetFormat.MESSAGES) -> Conversation:
    column = "conversation" if form is DatasetFormat.AGENT_FLAN else "messages"
    return conversation({column: list(messages)}, form)


def talk(pattern: str) -> list[dict[str, str]]:
    """Messages of the roles in `pattern`; each says its role's letter and its place."""
    return [message(letter, f"{letter}{place}") for place, letter in enumerate(pattern, start=1)]


@pytest.mark.parametrize(
    ("pattern", "turns", "repaired", "noted"),
    [
        ("ua", [("", "u1", "a2")], set(), set()),
        ("sua", [("s1", "u2", "a3")], set(), set()),
        ("suaua", [("s1", "u2", "a3"), ("", "u4", "a5")], set(), set()),
        ("uasua", [("", "u1", "a2"), ("s3", "u4", "a5")], set(), {"system_in_conversation"}),
        ("uasa", [("", "u1", "a2"), ("", "s3", "a4")], {"system_turned_user"}, set()),
        ("usa", [("", "u1\ns2", "a3")], {"system_turned_user"}, set()),
        ("ssua", [("s1\ns2", "u3", "a4")], {"system_messages_joined"}, set()),
        ("uua", [("", "u1\nu2", "a3")], {"user_turns_joined"}, set()),
        ("uaa", [("", "u1", "a2\na3")], {"assistant_turns_joined"}, set()),
        ("aua", [("", "u2", "a3")], {"leading_assistant_dropped"}, set()),
        ("saua", [("s1", "u3", "a4")], {"leading_assistant_dropped"}, set()),
        ("uau", [("", "u1", "a2")], {"trailing_turns_dropped"}, set()),
        ("uas", [("", "u1", "a2")], {"trailing_turns_dropped"}, set()),
    ],
)
def test_every_order_of_roles_keeps_its_words_in_order_and_is_named(pattern, turns, repaired, noted):
    found = read(*talk(pattern))
    assert [turn[:3] for turn in found.turns] == turns
    assert (found.repaired, found.noted) == (repaired, noted)


@pytest.mark.parametrize(
    ("row", "reason", "said"),
    [
        ([], "not_a_row", "a JSON list"),
        ({"conversations": []}, "no_messages", "the row's keys: conversations"),
        ({"messages": "hello"}, "no_messages", "'messages' is not a list"),
        ({"messages": []}, "no_messages", "'messages' is not a list"),
        ({"messages": ["hello"]}, "not_a_message", "message 1 is a str"),
        ({"messages": [{"from": "human", "value": "x"}]}, "not_a_message", "its keys: from, value"),
        ({"messages": [message("u", "x"), {"role": "tool", "content": "x"}]}, "unknown_role", "message 2 has the role"),
        ({"messages": [message("u", None)]}, "content_not_text", "message 1 is missing"),
        ({"messages": [message("u", 7)]}, "content_not_text", "message 1 is a int"),
        ({"messages": [message("u", [{"type": "image_url"}])]}, "content_not_text", "message 1 is a list"),
        ({"messages": [message("u", "\ud800")]}, "not_utf8", "message 1"),
        ({"messages": [message("a", None, tool_calls=[{}])]}, "tool_calls", "message 1"),
        ({"messages": [message("u", "x"), message("a", "y", loss="maybe")]}, "bad_loss", "message 2 is 'maybe'"),
        ({"messages": [message("u", "x"), message("a", "y", weight=0.5)]}, "bad_loss", "weight of message 2 is 0.5"),
        ({"messages": talk("us")}, "no_assistant_turn", "no assistant message"),
        ({"messages": talk("sa")}, "no_assistant_turn", "no assistant message"),
        ({"messages": [message("u", "x"), message("a", "y", loss=False)]}, "nothing_supervised", "loss: false"),
        (
            {"messages": [message("u", "x"), message("a", "y", loss=False), message("a", "z", loss=True)]},
            "assistant_turns_disagree",
            "different",
        ),
    ],
)
def test_a_row_that_cannot_be_read_in_one_way_is_refused_with_the_reason(row, reason, said):
    with pytest.raises(NotUnderstood) as caught:
        conversation(row, DatasetFormat.MESSAGES)
    assert caught.value.reason == reason
    assert said in caught.value.why


@pytest.mark.parametrize(
    ("given", "loss", "repaired"),
    [
        ({"loss": True}, True, set()),
        ({"loss": "true"}, True, {"loss_as_text"}),
        ({"loss": 1}, True, {"loss_as_number"}),
        ({"loss": None}, True, {"missing_loss"}),
        ({"weight": 1}, True, set()),
        ({"weight": 0}, False, set()),
        ({"loss": "False"}, False, {"loss_as_text"}),
        ({"loss": 0}, False, {"loss_as_number"}),
        ({"loss": False, "weight": 1}, False, set()),
    ],
)
def test_a_loss_flag_is_taken_in_whatever_form_it_comes(given, loss, repaired):
    trained = [message("u", "again"), message("a", "yes", loss=True)]
    found = read(message("u", "x"), message("a", "y", **given), *trained)
    assert found.turns[0].loss is loss
    assert found.repaired == repaired
    assert found.noted == (set() if loss else {"loss_false"})


def test_agent_flan_rows_without_loss_are_trained_and_reported():
    found = read(*talk("ua"), form=DatasetFormat.AGENT_FLAN)
    assert found.turns[0].loss
    assert found.repaired == {"missing_loss"}


def test_openai_rows_without_any_loss_are_as_they_should_be():
    assert read(*talk("uaua")).repaired == set()


def test_one_missing_loss_among_others_is_reported():
    found = read(message("u", "x"), message("a", "y", loss=True), message("u", "z"), message("a", "w"))
    assert [turn.loss for turn in found.turns] == [True, True]
    assert found.repaired == {"missing_loss"}


def test_loss_on_a_user_message_is_reported():
    assert read(message("u", "x", loss=True), message("a", "y")).repaired == {"loss_outside_assistant"}


def test_content_in_text_parts_is_put_together():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert read(message("u", parts), message("a", "y")).turns[0].input == "ab"


def test_messages_have_every_loss_filled_and_read_back_the_same():
    found = read(message("s", "be kind"), *talk("ua"), message("u", "x"), message("a", "y", loss=False))
    written = found.messages()
    assert all(isinstance(one["loss"], bool) for one in written)
    again = read(*written)
    assert again.turns == found.turns == (Turn("be kind", "u1", "a2", True), Turn("", "x", "y", False))
    assert again.repaired == set()


def test_every_reason_that_is_given_is_explained():
    from pathlib import Path

    import finetune_jobs.dataset as room

    code = "".join(path.read_text(encoding="utf-8") for path in Path(room.__file__).parent.glob("*.py"))
    for reason in (*DROPS, *REPAIRS, *NOTES):
        assert code.count(f'"{reason}"') >= 2, f"{reason} is explained but never given"
