"""What is counted: one verdict a question, rates over many. Pure; the texts were read by lagent's parser before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from finetune_jobs.agent.prompt import Message
from finetune_jobs.agent.react import Answer, Call, NoAction, Observation
from finetune_jobs.contract import Prompt, Rates


@dataclass(frozen=True)
class Verdict:
    """One question's answer, judged."""

    prompt: Prompt
    first: str
    """What the model wrote at once."""
    valid: bool | None = None
    """Right tool, a JSON object, the right keys; None where no tool is needed."""
    exact: bool | None = None
    """The very arguments; None where none are given."""
    direct: bool | None = None
    """A final answer without a call; None where a tool is needed."""
    finished: bool | None = None
    """Right call, what the tool found, final answer; None where the turn was not followed."""
    steps: tuple[Message, ...] = ()
    """The whole turn, where it was followed."""


def judge(prompt: Prompt, text: str, read: Call | NoAction | Answer) -> Verdict:
    """`read` is what lagent's parser made of `text`, the model's first answer."""
    if prompt.tool is None:
        return Verdict(prompt, text, direct=isinstance(read, Answer) and bool(read.text))
    valid = is_right(prompt, read)
    if not prompt.arguments:
        return Verdict(prompt, text, valid)
    exact = valid and isinstance(read, Call) and _same(prompt.arguments, read.arguments or {})
    return Verdict(prompt, text, valid, exact)


def is_right(prompt: Prompt, event: object) -> bool:
    """A call of the prompt's tool that this can take."""
    return isinstance(event, Call) and event.error is None and event.name == prompt.tool


def _same(wanted: dict[str, str], given: dict[str, object]) -> bool:
    """Compared without case and blanks: 12*3 is 12 * 3."""
    return {name: _plain(value) for name, value in wanted.items()} == {k: _plain(v) for k, v in given.items()}


def _plain(value: object) -> str:
    return "".join(str(value).casefold().split())


def is_finished(prompt: Prompt, events: Sequence[object]) -> bool:
    """A turn's events: a right call, an observation that is no failure, and at the end an answer of the model's own."""
    found = any(
        is_right(prompt, event) and isinstance(seen, Observation) and not seen.failed
        for event, seen in pairwise(events)
    )
    last = events[-1] if events else None
    return found and isinstance(last, Answer) and last.finished and bool(last.text)


def rates(verdicts: Sequence[Verdict]) -> Rates:
    """Each over the questions that it is asked of."""
    valid = rate(verdicts, lambda verdict: verdict.valid)
    return Rates(
        valid_calls=valid or 0.0,
        exact_arguments=rate(verdicts, lambda verdict: verdict.exact),
        finished_turns=rate(verdicts, lambda verdict: verdict.finished),
        no_tool_answers=rate(verdicts, lambda verdict: verdict.direct),
    )


def rate(verdicts: Sequence[Verdict], of: Callable[[Verdict], bool | None]) -> float | None:
    said = [found for found in map(of, verdicts) if found is not None]
    return sum(said) / len(said) if said else None
