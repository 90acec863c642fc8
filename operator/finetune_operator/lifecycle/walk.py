"""The stages in their order: which are done, which one is next, and what has to happen for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from finetune_jobs.contract import INPUT_MISSING, Stage
from finetune_operator.api.status import StageState, StageStatus
from finetune_operator.lifecycle import reasons
from finetune_operator.lifecycle.gate import rates
from finetune_operator.lifecycle.observed import Make, Mend, Observed, Remove, StageJob, Switch, Want
from finetune_operator.lifecycle.peers import settle
from finetune_operator.lifecycle.verdict import DONE, told, verdict
from finetune_operator.plan import PlannedStage

LOST = "Its result is gone or can't be read; it is run again, and takes what is still there."


@dataclass(frozen=True)
class Step:
    """One stage with what is done about it now."""

    status: StageStatus
    apply: tuple[Want, ...] = ()
    switch: tuple[Switch, ...] = ()
    mend: tuple[Mend, ...] = ()
    remove: tuple[Remove, ...] = ()


def walk(seen: Observed, now: datetime) -> list[Step]:
    """Every stage but the demo. At most one of them, the first that is not done, is acted on."""
    steps: list[Step] = []
    for planned in seen.plan.stages if seen.plan else ():
        if planned.stage is Stage.DEMO:
            continue
        clear = all(step.status.state in DONE for step in steps)
        steps.append(step_of(seen, planned, now, clear=clear))
    return steps


def step_of(seen: Observed, planned: PlannedStage, now: datetime, *, clear: bool) -> Step:
    """`clear`: every stage before it is done."""
    before = recorded(seen, planned.stage)
    job = seen.jobs.get(seen.names[planned.stage])
    if before is not None and before.digest == planned.digest and tried_anew(seen, before):
        before = before.model_copy(update=anew(before))
        if job is not None:
            return Step(verdict(planned.stage, planned.digest, before, None, now), remove=removal(job))
    status = verdict(planned.stage, planned.digest, before, job, now)
    if not clear or status.state in DONE or status.state is StageState.FAILED:
        return Step(status)
    if job is None:
        return start(seen, planned, settle(status, seen.peers.get(planned.stage, ()), now), now)
    return steer(seen, planned, status, job, now)


def recorded(seen: Observed, stage: Stage) -> StageStatus | None:
    return next((status for status in seen.status.stages if status.name == stage), None)


def tried_anew(seen: Observed, before: StageStatus) -> bool:
    """A stage that failed, or whose result is lost, is started again when the user has changed the spec since."""
    edited = seen.generation > seen.status.observed_generation
    return edited and (before.state is StageState.FAILED or (before.state in DONE and before.name in lost(seen)))


def lost(seen: Observed) -> set[Stage]:
    """Stages whose recorded result nobody can use. One whose folder is there takes it and ends in seconds."""
    order = [planned.stage for planned in seen.plan.stages] if seen.plan else []
    hungry = (status.name for status in seen.status.stages if status.reason == INPUT_MISSING)
    gone = {needed for stage in hungry for needed in before_it(order, stage)}
    judged = recorded(seen, Stage.EVALUATE)
    unreadable = seen.plan is not None and seen.plan.gate is not None and rates(judged) is None
    return gone | ({Stage.EVALUATE} if unreadable else set())


def before_it(order: Sequence[Stage], stage: Stage) -> Sequence[Stage]:
    return order[: order.index(stage)] if stage in order else ()


def anew(before: StageStatus) -> dict[str, object]:
    """As it stands before it is started again."""
    told = {"reason": reasons.RESULT_LOST, "message": LOST} if before.state in DONE else {}
    return {"state": StageState.PENDING, "finished_at": None, "result": None, **told}


def start(seen: Observed, planned: PlannedStage, status: StageStatus, now: datetime) -> Step:
    """Make the Job and, before it, what it needs and is not there."""
    if status.state is not StageState.PENDING:
        return Step(status)
    if seen.job.spec.suspend:
        return Step(status.model_copy(update={"state": StageState.SUSPENDED}))
    if seen.refusal is not None:
        return Step(status.model_copy(update=told(seen.refusal)))
    begun = status.model_copy(
        update={
            "state": StageState.QUEUED if seen.job.spec.queue_name else StageState.RUNNING,
            "reason": reasons.QUEUED if seen.job.spec.queue_name else reasons.STARTED,
            "attempts": status.attempts + 1,
            "started_at": now,
            "message": "",
        }
    )
    return Step(begun, apply=(*missing(seen, planned), Want(Make.STAGE, planned.stage)))


def missing(seen: Observed, planned: PlannedStage) -> tuple[Want, ...]:
    """What the stage's pod needs and is not there, or no longer as it was made."""
    there = {Make.WORKSPACE: seen.workspace, Make.REQUESTS: seen.requests}
    if planned.stage is Stage.TRAIN:
        there[Make.PROGRESS] = seen.progress_ready
    return tuple(Want(make) for make, done in there.items() if not done)


def steer(seen: Observed, planned: PlannedStage, status: StageStatus, job: StageJob, now: datetime) -> Step:
    """A Job that is not over: suspend it, let it go on, make it anew as the job now says, undo what others did."""
    if job.deleting or job.complete:
        return Step(status)
    if seen.job.spec.suspend:
        held = status.model_copy(update={"state": StageState.SUSPENDED, "reason": "", "message": ""})
        if job.queued:  # Kueue would let it go again
            return Step(held, remove=removal(job))
        return Step(held, switch=() if job.suspended else (Switch(job.name, job.uid, suspend=True),))
    unpulled = status.reason == reasons.IMAGE_PULL_FAILED and job.image != seen.image
    if (job.placement != seen.placements[planned.stage] or unpulled) and not job.busy:
        return Step(status.model_copy(update={"state": StageState.PENDING}), remove=removal(job))
    if job.suspended and not job.queued:
        return resume(seen, planned, status, job, now)
    return Step(status, apply=missing(seen, planned), mend=mended(seen, planned, job))


def resume(seen: Observed, planned: PlannedStage, status: StageStatus, job: StageJob, now: datetime) -> Step:
    """Let a suspended Job go on, unless another job has made the same meanwhile or is about to."""
    settled = settle(status, seen.peers.get(planned.stage, ()), now)
    if settled is not status:
        return Step(settled, remove=removal(job))
    resumed = status.model_copy(update={"state": StageState.RUNNING, "reason": reasons.STARTED})
    return Step(resumed, switch=(Switch(job.name, job.uid, suspend=False),))


def mended(seen: Observed, planned: PlannedStage, job: StageJob) -> tuple[Mend, ...]:
    """Limits that were edited by hand: a Job without pods, or with a time to live, would stall or lose its result."""
    wanted = seen.limits.get(planned.stage, {})
    strayed: dict[str, int | None] = {name: n for name, n in wanted.items() if job.limits.get(name) != n}
    strayed |= dict.fromkeys(job.limits.keys() - wanted.keys()) if wanted else {}
    return (Mend(job.name, job.uid, strayed),) if strayed else ()


def removal(job: StageJob) -> tuple[Remove, ...]:
    return () if job.deleting else (Remove(job.name, job.uid),)


def superseded(seen: Observed) -> tuple[Remove, ...]:
    """Jobs of an earlier spec that still work: nobody waits for them. Their pods save first."""
    current = set(seen.names.values())
    old = (job for name, job in seen.jobs.items() if name not in current)
    return tuple(Remove(job.name, job.uid) for job in old if not job.over and not job.deleting)
