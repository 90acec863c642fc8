"""What a pass tells as an Event: one, of everything that changed."""

from collections.abc import Sequence

from finetune_jobs.contract import Failure
from finetune_operator.api.status import StageState, StageStatus, Status
from finetune_operator.lifecycle.observed import Told

VERBS = {
    StageState.RUNNING: "started",
    StageState.QUEUED: "is queued",
    StageState.WAITING: "waits",
    StageState.SUSPENDED: "is suspended",
    StageState.REUSED: "is taken from before",
    StageState.SUCCEEDED: "succeeded",
    StageState.FAILED: "failed",
}
LONGEST = 1000
"""Characters of an Event's note (the API's limit is 1024)."""


def changes(before: Status, stages: Sequence[StageStatus], problem: Failure | None) -> tuple[Told, ...]:
    known = {stage.name: (stage.digest, stage.state, stage.reason) for stage in before.stages}
    moved = [s for s in stages if s.state in VERBS and known.get(s.name, ("", None, ""))[:2] != (s.digest, s.state)]
    troubled = [
        s
        for s in stages
        if s not in moved and s.state is StageState.RUNNING and s.message and known[s.name][2] != s.reason
    ]
    told_before = any(
        c.type == "Failed" and problem is not None and c.reason == problem.reason for c in before.conditions
    )
    sentences = [f"{s.name} {VERBS[s.state]}{f': {s.message}' if s.message else ''}" for s in moved]
    sentences += [f"{s.name}: {s.message}" for s in troubled]
    bad = [s.reason for s in moved if s.state is StageState.FAILED] + [s.reason for s in troubled]
    if problem is not None and not told_before:
        sentences.append(f"{problem.message} {problem.cure}")
        bad.append(problem.reason)
    if not sentences:
        return ()
    reason = bad[0] if bad else f"Stage{moved[-1].state.value}"
    return (Told("Warning" if bad else "Normal", reason, "; ".join(sentences)[:LONGEST]),)
