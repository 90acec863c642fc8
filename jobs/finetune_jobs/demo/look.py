"""Replies as HTML. Pure: whatever a model or a tool wrote is escaped, so that it can only be read."""

import json
from html import escape
from typing import Any, NamedTuple

from finetune_jobs.agent.react import Answer, Call, NoAction
from finetune_jobs.demo.conversation import ENDED, Reply, State, Step
from finetune_jobs.demo.settings import Side

NAMES = {Side.BASE: "Base model", Side.TUNED: "Tuned model"}
SUBTITLES = {Side.BASE: "before fine-tuning", Side.TUNED: "after fine-tuning"}

STYLE = """
.side { display: flex; align-items: baseline; gap: .6rem; flex-wrap: wrap; margin-bottom: .4rem; }
.side b { font-size: 1.15rem; }
.side small { opacity: .6; }
.verdict { margin-left: auto; padding: .1rem .7rem; border-radius: 1rem; font-weight: 600; font-size: .9rem; }
.verdict.good { background: rgba(22, 140, 90, .16); color: #0f7a4d; }
.verdict.bad { background: rgba(205, 50, 50, .14); color: #c02b2b; }
.verdict.busy { background: rgba(60, 110, 200, .13); color: #2f62b5; }
.verdict.plain { background: rgba(120, 120, 120, .15); color: #777; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0; }
.thought { opacity: .75; font-style: italic; }
.card { border-left: 4px solid; border-radius: .35rem; padding: .5rem .8rem; margin: .5rem 0; }
.card.good { border-color: #168c5a; background: rgba(22, 140, 90, .08); }
.card.bad { border-color: #cd3232; background: rgba(205, 50, 50, .07); }
.card.seen { border-color: #8a94a6; background: rgba(120, 130, 150, .09); }
.card h6 { margin: 0 0 .3rem 0; padding: 0; font-size: .78rem; letter-spacing: .04em; text-transform: uppercase;
           opacity: .7; }
.card code { font-weight: 600; overflow-wrap: anywhere; font-size: .9rem; background: none; padding: 0;
             color: inherit; }
.card pre { margin: .35rem 0 0 0; padding: .5rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem;
            background: rgba(120, 120, 120, .1); border-radius: .3rem; max-height: 9.5rem; overflow-y: auto; }
.card pre.prose { font-family: inherit; }
.card .error { color: #c02b2b; font-weight: 600; margin-top: .35rem; }
.final { white-space: pre-wrap; overflow-wrap: anywhere; margin: .6rem 0 .2rem 0; font-size: 1.08rem;
         font-weight: 500; }
.final.bad { opacity: .75; font-weight: 400; }
.block-container, .stMainBlockContainer { padding-top: 5rem; }
h2 { font-size: 1.5rem !important; }
h1 { font-size: 2rem !important; padding-top: 0 !important; }
.hint { opacity: .65; font-size: .85rem; margin: .3rem 0; }
.cursor { animation: blink 1s steps(2) infinite; }
@keyframes blink { to { visibility: hidden; } }
"""


class Verdict(NamedTuple):
    """A reply at a glance."""

    tone: str
    """good, bad, busy or plain."""
    text: str


BUSY = {
    State.LOADING: "loading the weights",
    State.WRITING: "writing",
    State.CALLING: "calling the tool",
}
UNCALLED = {State.STOPPED: Verdict("plain", "stopped"), State.FAILED: Verdict("bad", "failed")}


def verdict(reply: Reply) -> Verdict:
    if reply.state is State.WAITING:
        return Verdict("busy", f"waiting, {reply.ahead} ahead")
    if reply.state in BUSY:
        return Verdict("busy", BUSY[reply.state])
    called = next((call for call in reply.calls if call.error is None), None)
    if called is not None:
        return Verdict("good", f"✓ called {called.name.partition('.')[0]}")
    if reply.state in UNCALLED:
        return UNCALLED[reply.state]
    if reply.answer is not None and reply.answer.finished:
        return Verdict("plain", "answered without a tool")
    return Verdict("bad", "✗ broken tool call" if reply.calls else "✗ no tool call")


def reply_html(side: Side, reply: Reply) -> str:
    """The whole card of one side."""
    judged = verdict(reply)
    title = f"<b>{NAMES[side]}</b> <small>{SUBTITLES[side]}</small>"
    badge = f'<span class="verdict {judged.tone}">{escape(judged.text)}</span>'
    parts = [f'<div class="side">{title}{badge}</div>']
    parts += [step_html(step) for step in reply.steps]
    if reply.error:
        parts.append(card("bad", "Error", f'<div class="error">{escape(reply.error)}</div>'))
    if reply.answer is not None and not reply.answer.finished:
        parts.append(f'<div class="final bad">{escape(reply.answer.text)}</div>')
    if reply.state in ENDED:
        stopped = "Stopped. " if reply.state is State.STOPPED else ""
        parts.append(f'<div class="hint">{stopped}{reply.seconds:.1f} s, {counted(len(reply.steps))}</div>')
    return f'<div class="reply" data-side="{side}" data-state="{reply.state}">{"".join(parts)}</div>'


def counted(calls: int) -> str:
    return f"{calls} model call{'' if calls == 1 else 's'}"


def step_html(step: Step) -> str:
    match step.outcome:
        case None:
            return f'<div class="said">{escape(step.text)}<span class="cursor">▌</span></div>'
        case NoAction():
            reply = f'<div class="error">lagent replied: “{escape(step.outcome.reply)}”</div>'
            return card(
                "bad", "Neither a tool call nor a final answer", f'<pre class="prose">{escape(step.text)}</pre>{reply}'
            )
        case Answer():
            return f'{thought(step.text)}<div class="final">{escape(step.outcome.text)}</div>'
        case Call():
            return call_html(step.outcome) + observation_html(step)


def thought(text: str) -> str:
    said = text.partition("Final Answer:")[0].strip().removeprefix("Thought:").strip()
    return f'<div class="said thought">{escape(said)}</div>' if said else ""


def call_html(call: Call) -> str:
    tone = "bad" if call.error else "good"
    raw = json.dumps(call.arguments, ensure_ascii=False, indent=2) if call.arguments is not None else call.raw
    body = f"<code>{escape(call.name)}</code><pre>{escape(raw)}</pre>"
    if call.error:
        body += f'<div class="error">{escape(call.error)}</div>'
    head = f'<div class="said thought">{escape(call.thought)}</div>' if call.thought else ""
    return head + card(tone, "Tool call", body)


def observation_html(step: Step) -> str:
    if step.observation is None:
        return '<div class="hint">waiting for the tool <span class="cursor">▌</span></div>'
    if step.observation.failed:
        return card("bad", "The tool's answer", f'<div class="error">{escape(step.observation.text)}</div>')
    return card("seen", "The tool's answer", f"<pre>{escape(readable(step.observation.text))}</pre>")


def readable(observation: str) -> str:
    """The text inside {"content": ...}, with its line ends, or the observation as it is."""
    try:
        value = json.loads(observation)
    except json.JSONDecodeError:
        return observation
    if isinstance(value, dict) and list(value) == ["content"] and isinstance(value["content"], str):
        return value["content"]
    return observation


def card(tone: str, title: str, body: str) -> str:
    return f'<div class="card {tone}"><h6>{title}</h6>{body}</div>'


MARKS = {
    "validCall": "well-formed call",
    "exactArguments": "exact arguments",
    "finishedTurn": "finished turn",
    "noToolAnswer": "answered without a tool",
}
"""What the evaluate stage noted of a transcript."""


def transcript_html(line: dict[str, Any]) -> str:
    """One line of the evaluate stage's transcripts."""
    marks = [(name, line[key]) for key, name in MARKS.items() if key in line]
    tone = "good" if all(met for _, met in marks) else "bad"
    noted = " · ".join(f"{'✓' if met else '✗'} {name}" for name, met in marks)
    said = "".join(f"<pre>{escape(step['content'])}</pre>" for step in line["steps"])
    return card(tone, f"{escape(str(line['model']))}: {noted}", said)
