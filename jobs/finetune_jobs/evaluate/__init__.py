"""The evaluate stage: ReAct tool calls and whole turns, base against merged, on held-out prompts.

Both models get the same questions through lagent's own protocol, parser and loop, with greedy decoding. ArxivSearch
is the real tool over recorded papers (`recorded`), so that the figures don't depend on the network.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, cast

from finetune_jobs.contract import (
    MERGED_FOLDER,
    MODEL_FOLDER,
    TRANSCRIPTS_FILE,
    EvaluateRequest,
    EvaluateResult,
    Prompt,
    Stage,
)
from finetune_jobs.room import Room, write_atomically

if TYPE_CHECKING:
    from finetune_jobs.agent.engine import Engine
    from finetune_jobs.agent.react import Agent
    from finetune_jobs.evaluate.turns import Desk, Remembered
    from finetune_jobs.evaluate.verdict import Verdict

log = logging.getLogger(__name__)

TABLE_FILE = "evaluation.md"
ROUNDS = 3
"""Model calls in a turn: a call, one more or a repaired one, the final answer."""


def run(request: EvaluateRequest, room: Room) -> EvaluateResult:
    from finetune_jobs.agent.tools import make_executor
    from finetune_jobs.evaluate import questions, report
    from finetune_jobs.evaluate.recorded import recorded
    from finetune_jobs.evaluate.verdict import rates

    prompts = questions.questions(request.prompts)
    tools = questions.tools_of(prompts)
    questions.check(prompts, make_executor(tools).get_actions_info())
    exam = Exam(request, room, prompts, tools)
    with recorded():
        base = exam.take("base", room.input(Stage.MODEL) / MODEL_FOLDER)
        tuned = exam.take("tuned", room.input(Stage.MERGE) / MERGED_FOLDER)
    judged = {"base": base, "tuned": tuned}
    write_atomically(room.out / TRANSCRIPTS_FILE, report.transcripts(judged))
    write_atomically(room.out / TABLE_FILE, report.table(judged))
    log.info("%d prompts, %d followed to the end:\n%s", len(prompts), len(exam.followed), report.table(judged))
    return EvaluateResult(base=rates(base), tuned=rates(tuned), prompts=len(prompts), turns=len(exam.followed))


@dataclass
class Exam:
    """The same questions for one model after the other."""

    request: EvaluateRequest
    room: Room
    prompts: Sequence[Prompt]
    tools: Sequence[str]
    started: float = field(default_factory=monotonic)
    steps: int = 0

    @property
    def followed(self) -> list[int]:
        """Which questions are followed to their end: evenly spread over those that need a tool."""
        need = [number for number, prompt in enumerate(self.prompts) if prompt.tool]
        count = min(self.request.turns, len(need))
        return [need[i * len(need) // count] for i in range(count)]

    def take(self, name: str, folder: Path) -> "list[Verdict]":
        """Load the model, ask it everything, forget it."""
        verdicts = self.ask(name, folder)
        free_memory()
        return verdicts

    def ask(self, name: str, folder: Path) -> "list[Verdict]":
        from finetune_jobs.agent.engine import Engine
        from finetune_jobs.agent.react import Agent
        from finetune_jobs.evaluate.turns import Desk, Remembered

        self.say(name, 0)
        engine = Engine(folder, self.request.template)
        desk = Desk()
        agent = Agent(cast("Engine", desk), self.tools, max_turn=ROUNDS)
        greedy = partial(engine.complete, max_new_tokens=self.request.max_new_tokens)
        answers = Remembered(greedy, self.room.out / f"answers-{name}.jsonl")
        verdicts = self.first_answers(name, agent, answers)
        return self.turns(name, agent, desk, answers, verdicts)

    def first_answers(self, name: str, agent: "Agent", answers: "Remembered") -> "list[Verdict]":
        from finetune_jobs.agent.engine import BATCH
        from finetune_jobs.evaluate.verdict import judge

        asked = [agent.messages(prompt.question) for prompt in self.prompts]
        texts: list[str] = []
        for start in range(0, len(asked), BATCH):
            texts += answers(asked[start : start + BATCH])
            self.say(name, len(asked[start : start + BATCH]))
        return [judge(prompt, text, agent.read(text)) for prompt, text in zip(self.prompts, texts, strict=True)]

    def turns(
        self, name: str, agent: "Agent", desk: "Desk", answers: "Remembered", verdicts: "list[Verdict]"
    ) -> "list[Verdict]":
        """The verdicts with those of the followed questions completed."""
        from finetune_jobs.agent.react import Answer
        from finetune_jobs.evaluate.turns import follow
        from finetune_jobs.evaluate.verdict import is_finished

        asked = [self.prompts[number].question for number in self.followed]
        found = follow(agent, desk, asked, answers, lambda: self.say(name, 1))
        completed = list(verdicts)
        for number, events in zip(self.followed, found, strict=True):
            end = events[-1]
            steps = end.steps if isinstance(end, Answer) else ()
            finished = is_finished(self.prompts[number], events)
            completed[number] = replace(verdicts[number], finished=finished, steps=steps)
        return completed

    def say(self, name: str, more: int) -> None:
        """Report `more` steps done; a question's first answer is one, a turn's end another."""
        self.steps += more
        total = 2 * (len(self.prompts) + len(self.followed))
        spent = monotonic() - self.started
        eta = spent / self.steps * (total - self.steps) if self.steps else None
        self.room.progress(self.steps, total, unit="prompt", message=name, eta_seconds=eta)


def free_memory() -> None:
    """Give back what the last model held on a GPU; the next one may need it all."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
