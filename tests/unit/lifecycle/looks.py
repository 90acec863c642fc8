"""Looks at one job, for tables: `look(model="done", train="running")`."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.specs import JOB

from finetune_jobs.contract import Outcome, Stage, State
from finetune_operator.api import read_job
from finetune_operator.api.status import StageState, StageStatus, Status
from finetune_operator.lifecycle.observed import Observed, Pod, StageJob
from finetune_operator.plan import make_plan

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVALUATION = {"base": {"validCalls": 0.0}, "tuned": {"validCalls": 0.98}, "prompts": 50, "turns": 20}


def outcome(stage: str, digest: str, state: State = State.SUCCEEDED, **more: Any) -> str:
    return Outcome(stage=Stage(stage), digest=digest, state=state, **more).to_json()


def stage_job(stage: Stage, digest: str, **values: Any) -> StageJob:
    base = StageJob(
        name=f"react-{stage}-{digest}",
        uid=f"uid-{stage}",
        stage=stage.value,
        digest=digest,
        placement="here",
        created_at=NOW - timedelta(seconds=5),
    )
    return replace(base, **values)


JOBS: dict[str, dict[str, Any]] = {
    "new": {},
    "running": {"pods": (Pod("p", "Running"),)},
    "suspended": {"suspended": True},
    "queued": {"suspended": True, "queued": True},
    "deleting": {"deleting": True},
    "complete": {"complete": True},
    "failed": {"gave_up": "BackoffLimitExceeded", "failed": 3},
}
"""How a stage's Job stands, by a word."""


def look(extra: str = "", generation: int = 1, observed: int = 1, **stages: str) -> Observed:
    """`done`, `taken` and `lost` are what status has recorded; any other word is a Job as in JOBS."""
    job = read_job(JOB + extra).job
    plan = make_plan(job, {})
    recorded, jobs = [], {}
    names = {p.stage: f"react-{p.stage}-{p.digest}" for p in plan.stages if p.stage is not Stage.DEMO}
    words = {"done": StageState.SUCCEEDED, "taken": StageState.REUSED, "lost": StageState.FAILED}
    for planned in plan.stages:
        word = stages.get(planned.stage.value)
        if word in words:
            result = EVALUATION if planned.stage is Stage.EVALUATE else None
            row = StageStatus(name=planned.stage, state=words[word], digest=planned.digest, attempts=1, result=result,
                              finished_at=NOW)  # fmt: skip
            recorded.append(row)
        elif word is not None:
            jobs[names[planned.stage]] = stage_job(planned.stage, planned.digest, **JOBS[word])
    return Observed(
        job=job,
        generation=generation,
        status=Status(observed_generation=observed, stages=tuple(recorded)),
        plan=plan,
        jobs=jobs,
        names=names,
        placements={planned.stage: "here" for planned in plan.stages},
        workspace=True,
        requests=True,
        progress_ready=True,
    )


def with_reason(seen: Observed, stage: Stage, reason: str) -> Observed:
    """The look with another reason in what status has recorded of the stage."""
    stages = (s.model_copy(update={"reason": reason}) if s.name is stage else s for s in seen.status.stages)
    return replace(seen, status=seen.status.model_copy(update={"stages": tuple(stages)}))


UP_TO_TRAIN = {"model": "done", "dataset": "done"}
ALL_DONE = dict.fromkeys(["model", "dataset", "train", "export", "merge", "evaluate"], "done")
