"""How a run is shown."""

import io
import json
from datetime import UTC, datetime

import pytest

from finetune_jobs.contract import Failure, Progress, Stage, State
from finetune_operator.local.displays import Bars, JsonLines, PlainLines, display_for
from finetune_operator.local.events import Event

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def event(state=State.RUNNING, **more):
    return Event(stage=Stage.TRAIN, state=state, digest="0" * 12, **more)


def progress(step=12, **more):
    return Progress(step=step, total_steps=72, updated_at=NOW, **more)


FAILED = event(
    State.FAILED, failure=Failure(reason="DiskFull", message="No space left.", cure="Free some."), log="/w/stage.log"
)


def test_json_is_one_object_a_line_and_leaves_out_what_is_not_known():
    out = io.StringIO()
    display = JsonLines(out, io.StringIO())
    display.show(event())
    display.show(FAILED)
    first, second = [json.loads(line) for line in out.getvalue().splitlines()]
    assert first == {"stage": "train", "state": "Running", "digest": "0" * 12}
    assert second["failure"] == {"reason": "DiskFull", "message": "No space left.", "cure": "Free some."}


def test_sentences_stay_out_of_the_json():
    out, err = io.StringIO(), io.StringIO()
    JsonLines(out, err).say("Stopping.")
    assert (out.getvalue(), err.getvalue()) == ("", "Stopping.\n")


def test_a_plain_line_has_step_loss_rate_and_time_left():
    out = io.StringIO()
    PlainLines(out).show(event(progress=progress(loss=0.4321, tokens_per_second=130.4, eta_seconds=130)))
    assert out.getvalue() == "train: Running: 12/72 steps, loss 0.4321, 130 tokens/s, 2 min 10 s left\n"


def test_plain_progress_comes_now_and_then_and_at_the_end():
    out, times = io.StringIO(), iter([0.0, 1.0, 11.0, 12.0])
    display = PlainLines(out, clock=lambda: next(times))
    for step in (1, 2, 3, 72):
        display.show(event(progress=progress(step)))
    assert [line.split()[2] for line in out.getvalue().splitlines()] == ["1/72", "3/72", "72/72"]


def test_a_plain_failure_has_its_cure_and_log():
    out = io.StringIO()
    PlainLines(out).show(FAILED)
    assert out.getvalue() == (
        "train: Failed: DiskFull: No space left.\n  Free some.\n  The stage's log: /w/stage.log\n"
    )


def test_a_terminal_gets_a_bar_with_step_and_loss():
    out = Terminal()
    display = Bars(out)
    display.show(event(progress=progress(loss=0.5)))
    display.close()
    assert "━" in out.getvalue()
    assert "12/72 steps, loss 0.5" in out.getvalue()


def test_a_terminal_gets_the_failure_in_full():
    out = Terminal()
    display = Bars(out)
    display.show(FAILED)
    display.close()
    for line in ("train: Failed: DiskFull: No space left.", "  Free some.", "  The stage's log: /w/stage.log"):
        assert line + "\n" in out.getvalue()


def test_what_is_said_after_the_bars_is_plain():
    out = Terminal()
    display = Bars(out)
    display.close()
    display.show(FAILED)
    assert out.getvalue().endswith("The stage's log: /w/stage.log\n")


@pytest.mark.parametrize(
    ("out", "as_json", "kind"),
    [
        (Terminal, True, JsonLines),
        (io.StringIO, True, JsonLines),
        (io.StringIO, False, PlainLines),
        (Terminal, False, Bars),
    ],
)
def test_json_wins_then_the_terminal(out, as_json, kind):
    display = display_for(out(), io.StringIO(), as_json=as_json)
    display.close()
    assert isinstance(display, kind)
