"""The outcome for people: a table, and every transcript."""

import json
from collections.abc import Callable, Mapping, Sequence

from finetune_jobs.agent.prompt import Message
from finetune_jobs.evaluate.verdict import Verdict, rate

Measure = Callable[[Verdict], bool | None]

MEASURES: dict[str, Measure] = {
    "well-formed calls": lambda verdict: verdict.valid,
    "exact arguments": lambda verdict: verdict.exact,
    "finished turns": lambda verdict: verdict.finished,
    "answered without a tool where none is needed": lambda verdict: verdict.direct,
}
"""What a row of the table counts; None leaves a question out."""


def table(verdicts: Mapping[str, Sequence[Verdict]]) -> str:
    """Markdown, a column a model; below each measure the same by tool, where there are several."""
    lines = ["| | " + " | ".join(verdicts) + " |", "|---|" + "---|" * len(verdicts)]
    tools = list(dict.fromkeys(v.prompt.tool for judged in verdicts.values() for v in judged if v.prompt.tool))
    for name, of in MEASURES.items():
        lines.append(_row(name, [_count(judged, of) for judged in verdicts.values()]))
        for tool in tools if len(tools) > 1 and name != list(MEASURES)[-1] else ():
            own = [[v for v in judged if v.prompt.tool == tool] for judged in verdicts.values()]
            lines.append(_row(f"- {tool}", [_count(judged, of) for judged in own]))
    return "\n".join(lines) + "\n"


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def _count(judged: Sequence[Verdict], of: Measure) -> str:
    said = [found for v in judged if (found := of(v)) is not None]
    share = rate(judged, of)
    return "-" if share is None else f"{sum(said)} of {len(said)} ({share:.0%})"


def transcripts(verdicts: Mapping[str, Sequence[Verdict]]) -> str:
    """JSON lines, question by question, the models in turn."""
    lines = []
    for each in zip(*verdicts.values(), strict=True):
        lines += [_line(model, verdict) for model, verdict in zip(verdicts, each, strict=True)]
    return "".join(lines)


def _line(model: str, verdict: Verdict) -> str:
    asked = verdict.prompt
    counted = {
        "validCall": verdict.valid,
        "exactArguments": verdict.exact,
        "finishedTurn": verdict.finished,
        "noToolAnswer": verdict.direct,
    }
    steps: Sequence[Message] = verdict.steps or ({"role": "assistant", "content": verdict.first},)
    line = {
        "model": model,
        "question": asked.question,
        "tool": asked.tool,
        "arguments": asked.arguments,
        **{name: value for name, value in counted.items() if value is not None},
        "steps": steps,
    }
    return json.dumps(line, ensure_ascii=False) + "\n"
