"""ttlSecondsAfterFinished: the Jobs of a finished FineTuneJob go, and with them their pods. What is recorded stays."""

from collections.abc import Sequence
from datetime import datetime

from finetune_operator.api.status import StageState, StageStatus
from finetune_operator.lifecycle.observed import Observed, Remove
from finetune_operator.lifecycle.verdict import DONE


def finished_at(stages: Sequence[StageStatus]) -> datetime | None:
    """When the last stage ended; None while something is still to do."""
    failed = any(stage.state is StageState.FAILED for stage in stages)
    if not stages or not (failed or all(stage.state in DONE for stage in stages)):
        return None
    ends = [stage.finished_at for stage in stages if stage.finished_at is not None]
    return max(ends) if ends else None


def expire(seen: Observed, stages: Sequence[StageStatus], now: datetime) -> tuple[tuple[Remove, ...], float | None]:
    """What goes now, and in how many seconds to look again."""
    ttl, end = seen.job.spec.ttl_seconds_after_finished, finished_at(stages)
    over = tuple(Remove(job.name, job.uid) for job in seen.jobs.values() if job.over and not job.deleting)
    if ttl is None or end is None or not over:
        return (), None
    left = ttl - (now - end).total_seconds()
    # In this very pass the last end may be recorded for the first time: its evidence goes only in a later one.
    fresh = finished_at(seen.status.stages) != end
    return ((), max(left, 1.0)) if left > 0 or fresh else (over, None)
