"""The demo: when it moves to a new model, when it stays on the last good one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from finetune_jobs.contract import Failure, Stage
from finetune_operator.api.status import StageState, StageStatus
from finetune_operator.lifecycle import reasons
from finetune_operator.lifecycle.failures import explain_demo
from finetune_operator.lifecycle.gate import below_gate, rates
from finetune_operator.lifecycle.observed import Make, Observed, Want
from finetune_operator.lifecycle.verdict import DONE, told
from finetune_operator.lifecycle.walk import recorded

UNREADABLE = Failure(
    reason=reasons.EVALUATION_UNREADABLE,
    message="The evaluation's rates can't be read, so the gate stays shut and the demo where it is.",
    cure="Change the spec (spec.suspend true, then false) to judge again, "
    "or leave out spec.evaluation.minimumValidCalls.",
)


@dataclass(frozen=True)
class Demo:
    """What becomes of the demo in this pass."""

    status: StageStatus | None
    """None where the job has none."""
    apply: tuple[Want, ...] = ()
    drop: bool = False
    """Take it down: the job no longer has one."""
    scale: int | None = None
    """So many pods for what stands, which is of an earlier plan and can't be applied anew."""
    verify: bool = False
    """Apply what stands once more."""


def serve(seen: Observed, stages: Sequence[StageStatus], now: datetime) -> Demo:
    demo = move(seen, stages, now)
    wanted = 0 if seen.job.spec.suspend else seen.job.spec.demo.replicas
    stands = bool(seen.served.revision) and not demo.apply and not demo.drop
    return replace(demo, scale=wanted) if stands and seen.served.replicas != wanted else demo


def move(seen: Observed, stages: Sequence[StageStatus], now: datetime) -> Demo:
    planned = seen.plan.of(Stage.DEMO) if seen.plan else None
    if planned is None:
        return Demo(None, drop=bool(seen.served.revision))
    before = recorded(seen, Stage.DEMO)
    known = before if before is not None and before.digest == planned.digest else None
    base = known or StageStatus(name=Stage.DEMO, state=StageState.PENDING, digest=planned.digest)
    if not all(stage.state in DONE for stage in stages):
        return Demo(base.model_copy(update={"state": StageState.PENDING, "reason": "", "message": ""}))
    shut = gate(seen, stages)
    if shut is not None:
        return Demo(base.model_copy(update={"state": StageState.FAILED, **told(shut)}))
    moved = seen.served.revision == planned.digest
    as_said = moved and not seen.served.stale
    requests = () if seen.requests else (Want(Make.REQUESTS),)
    apply = requests if as_said else (*requests, Want(Make.DEMO, Stage.DEMO))
    if apply and seen.refusal is not None:
        return Demo(base.model_copy(update={"state": StageState.PENDING, **told(seen.refusal)}))
    status = served(seen, base, now, open_=as_said and seen.served.available)
    return Demo(status, apply, verify=as_said and seen.served.unverified)


def served(seen: Observed, base: StageStatus, now: datetime, *, open_: bool) -> StageStatus:
    if seen.job.spec.suspend:
        return base.model_copy(update={"state": StageState.SUSPENDED, "reason": reasons.SUSPENDED, "message": ""})
    goes_on = base.state is StageState.RUNNING or (open_ and base.state is StageState.SUCCEEDED)
    return base.model_copy(
        update={
            "state": StageState.SUCCEEDED if open_ else StageState.RUNNING,
            "attempts": max(base.attempts, 1),
            # A page that opens again has taken the time since it closed, not since it opened first.
            "started_at": (base.started_at if goes_on else None) or now,
            "finished_at": ((base.finished_at if goes_on else None) or now) if open_ else None,
            **(opened(seen) if open_ else closed(seen, base.digest, now)),
        }
    )


def closed(seen: Observed, digest: str, now: datetime) -> dict[str, object]:
    trouble = explain_demo(seen.served, digest, now)
    said = told(trouble) if trouble else {"reason": reasons.DEMO_STARTING, "message": ""}
    return {**said, "result": None}


def opened(seen: Observed) -> dict[str, object]:
    """What is told of a demo that stands as it is wanted: open, or of no pods."""
    if seen.job.spec.demo.replicas:
        return {"reason": reasons.DEMO_AVAILABLE, "message": "", "result": {"url": seen.demo_url}}
    message = "spec.demo.replicas is 0, so nothing serves the page; write 1 to open it."
    return {"reason": reasons.SCALED_TO_ZERO, "message": message, "result": None}


def gate(seen: Observed, stages: Sequence[StageStatus]) -> Failure | None:
    """Why the demo may not move; None when it may."""
    minimum = seen.plan.gate if seen.plan else None
    judged = next((stage for stage in stages if stage.name is Stage.EVALUATE), None)
    if minimum is None or judged is None:
        return None
    result = rates(judged)
    return below_gate(result.model_dump(by_alias=True), minimum) if result else UNREADABLE
