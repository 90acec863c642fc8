"""How one stage stands, from its Job, its pods and what status has recorded. The policy with the most rows."""

from datetime import datetime

from finetune_jobs.contract import RESULTS, Failure, Outcome, Stage, State
from finetune_operator.api.status import StageState, StageStatus
from finetune_operator.lifecycle import reasons
from finetune_operator.lifecycle.failures import NOT_CREATED, explain_end, explain_wait, found, is_mistake, outcome_of
from finetune_operator.lifecycle.observed import Pod, StageJob
from finetune_operator.lifecycle.sound import sound

DONE = {StageState.SUCCEEDED, StageState.REUSED}
RECORDED = DONE | {StageState.FAILED}
"""What is recorded stays, whatever becomes of the Job."""
PATIENCE = 60.0
"""Seconds that a Job that has begun, or has ended well, may have no such pod before that counts."""


def verdict(stage: Stage, digest: str, before: StageStatus | None, job: StageJob | None, now: datetime) -> StageStatus:
    """The stage's status; `before` is the recorded one, of whatever digest."""
    known = before if before is not None and before.digest == digest else None
    if known is not None and known.state in RECORDED:
        return known
    base = known or StageStatus(name=stage, state=StageState.PENDING, digest=digest)
    if job is None or job.deleting:
        told_still = base.reason == reasons.RESULT_LOST
        return base.model_copy(
            update={"state": StageState.PENDING} | ({} if told_still else {"reason": "", "message": ""})
        )
    base = base.model_copy(
        update={
            "attempts": max(base.attempts, job.failed + (not job.gave_up), 1),
            "started_at": base.started_at or job.started_at or job.created_at,
        }
    )
    won = winner(job)
    if won is not None or (job.complete and not unseen(job, now)):
        return ended_well(base, job, won, now)
    if job.gave_up:
        return ended_badly(base, job, now)
    return under_way(base, job, now)


def winner(job: StageJob) -> Pod | None:
    """The pod that made the result. On one node its own end is enough: the Job's condition only follows it."""
    succeeded = [pod for pod in job.pods if pod.phase == "Succeeded"]
    return succeeded[0] if succeeded and (job.nodes == 1 or job.complete) else None


def unseen(job: StageJob, now: datetime) -> bool:
    """The Job has ended well and its pod, which a watch of its own brings, is not yet seen so: it has the result."""
    late = any(pod.phase not in {"Succeeded", "Failed"} for pod in job.pods)
    fresh = job.finished_at is None or (now - job.finished_at).total_seconds() <= PATIENCE
    return job.complete and winner(job) is None and (late or fresh)


def ended_well(base: StageStatus, job: StageJob, pod: Pod | None, now: datetime) -> StageStatus:
    outcome = outcome_of(pod, job.stage, job.digest) if pod else None
    reused = outcome is not None and outcome.state is State.REUSED
    return base.model_copy(
        update={
            "state": StageState.REUSED if reused else StageState.SUCCEEDED,
            "finished_at": (pod.finished_at if pod else None) or job.finished_at or now,
            "reason": reasons.REUSED if reused else reasons.SUCCEEDED,
            "message": "The workspace held the result already." if reused else "",
            "result": result_of(outcome),
        }
    )


def result_of(outcome: Outcome | None) -> dict[str, object] | None:
    """The stage's result without its curve, and without what is none of it."""
    if outcome is None or outcome.result is None:
        return None
    told = {name: value for name, value in outcome.result.items() if name != "curve"}
    return sound(RESULTS[outcome.stage], told)


def ended_badly(base: StageStatus, job: StageJob, now: datetime) -> StageStatus:
    said = explain_end(job, culprit(job))
    return base.model_copy(
        update={
            "state": StageState.FAILED,
            "finished_at": job.finished_at or now,
            **told(said),
        }
    )


def culprit(job: StageJob) -> Pod | None:
    """The failed pod that tells why: where several nodes train, the one that made a mistake, not those it stopped."""
    failed = [pod for pod in job.pods if pod.phase == "Failed"]
    return next(reversed([pod for pod in failed if is_mistake(pod)] or failed), None)


def under_way(base: StageStatus, job: StageJob, now: datetime) -> StageStatus:
    if job.suspended:
        state = StageState.QUEUED if job.queued else StageState.SUSPENDED
        message = "Kueue has not admitted it yet." if job.queued else ""
        return base.model_copy(
            update={"state": state, "reason": reasons.QUEUED if job.queued else "", "message": message}
        )
    waits = explain_wait(job)
    begun = job.started_at  # by the controller manager, which may be far behind
    if waits is None and not job.pods and begun is not None and (now - begun).total_seconds() > PATIENCE:
        waits = found(NOT_CREATED, job, "")
    if waits is not None:
        return base.model_copy(update={"state": StageState.RUNNING, **told(waits)})
    failed = culprit(job)
    if failed is not None and not is_mistake(failed):  # which the Job's condition follows in a moment
        why = explain_end(job, failed)
        message = f"Attempt {base.attempts - 1 or 1} ended: {why.message} Trying again."
        return base.model_copy(
            update={"state": StageState.RUNNING, "reason": reasons.RETRYING, "message": message[:4096]}
        )
    return base.model_copy(update={"state": StageState.RUNNING, "reason": reasons.STARTED, "message": ""})


def told(failure: Failure) -> dict[str, str]:
    return {"reason": failure.reason[:1024], "message": f"{failure.message} {failure.cure}"[:4096]}
