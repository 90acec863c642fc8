"""Several jobs that want one result of one workspace: one makes it, the others wait and take it."""

from collections.abc import Iterable
from datetime import datetime

from finetune_operator.api.status import StageState, StageStatus
from finetune_operator.lifecycle import reasons
from finetune_operator.lifecycle.observed import Peer


def settle(base: StageStatus, peers: Iterable[Peer], now: datetime) -> StageStatus:
    """For a stage that has no Job yet: taken, waiting, or PENDING when it is this job's to make.

    No dead lock: a job that runs it, or is the first to be about to, waits for nobody. What a peer has recorded of a
    result that was found lost is no better.
    """
    found = list(peers)
    known = () if base.reason == reasons.RESULT_LOST else found
    made = next((peer for peer in known if peer.result is not None), None)
    if made is not None:
        return base.model_copy(
            update={
                "state": StageState.REUSED,
                "finished_at": now,
                "reason": reasons.TAKEN_FROM_PEER,
                "message": f"Made by the FineTuneJob {made.name} in this workspace.",
                "result": dict(made.result or {}) or None,
            }
        )
    ahead = next((peer for peer in found if peer.runs), None) or next((peer for peer in found if peer.wants), None)
    if ahead is not None:
        return base.model_copy(
            update={
                "state": StageState.WAITING,
                "reason": reasons.WAITS_FOR_PEER,
                "message": f"The FineTuneJob {ahead.name} makes the same in this workspace.",
            }
        )
    return base
