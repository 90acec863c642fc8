"""From one look at a job to all that happens next. Pure: the same look gives the same decision."""

from datetime import datetime

from finetune_operator.api.status import Status
from finetune_operator.lifecycle.conditions import conditions
from finetune_operator.lifecycle.events import changes
from finetune_operator.lifecycle.expiry import expire
from finetune_operator.lifecycle.observed import Decision, Make, Observed, Want
from finetune_operator.lifecycle.serve import serve
from finetune_operator.lifecycle.summary import (
    demo_of,
    evaluation_of,
    gpus_held,
    headline,
    model_line,
    progress_of,
    training_of,
)
from finetune_operator.lifecycle.verdict import PATIENCE, unseen
from finetune_operator.lifecycle.walk import superseded, walk

LOOK_AGAIN = 30.0
"""Seconds until a job that can't go on is looked at again: what it lacks may not be watched."""

AFTER_APPLYING = 1.0
"""Seconds until a demo is looked at again that was applied: where nothing changed by it, no watch will tell."""


def decide(seen: Observed, now: datetime) -> Decision:
    """What to make, suspend and remove, the whole status, and when to look again."""
    steps = walk(seen, now)
    made = tuple(step.status for step in steps)
    demo = serve(seen, made, now)
    stages = (*made, demo.status) if demo.status else made
    problem = seen.problem or seen.refusal
    gone, later = expire(seen, stages, now)
    status = Status(
        observed_generation=seen.generation,
        stage=headline(stages) if seen.problem is None else seen.problem.reason,
        progress=progress_of(seen, stages) if stages else "",
        gpus=gpus_held(seen, stages),
        model=model_line(seen.job.spec.model),
        conditions=conditions(seen, stages, problem, now),
        stages=stages if seen.plan else seen.status.stages,
        training=training_of(seen, stages),
        evaluation=evaluation_of(stages),
        demo=demo_of(seen),
    )
    return Decision(
        status=status,
        apply=tuple(want for step in steps for want in step.apply) + demo.apply + kept(seen),
        switch=tuple(switch for step in steps for switch in step.switch),
        mend=tuple(mend for step in steps for mend in step.mend),
        remove=tuple(r for step in steps for r in step.remove) + (superseded(seen) if seen.plan else ()) + gone,
        drop_demo=demo.drop and seen.plan is not None,
        scale_demo=demo.scale,
        verify_demo=demo.verify,
        events=changes(seen.status, stages, problem),
        look_again_after=AFTER_APPLYING if demo.apply else look_again(seen, later, now),
    )


def kept(seen: Observed) -> tuple[Want, ...]:
    """The workspace's claim follows an edit of its size or reclaimPolicy, whatever stage is at work."""
    return (Want(Make.WORKSPACE),) if seen.plan and seen.workspace_stale and seen.refusal is None else ()


def look_again(seen: Observed, later: float | None, now: datetime) -> float | None:
    if seen.problem is not None or seen.refusal is not None:
        return LOOK_AGAIN
    podless = any(not job.pods and not job.suspended and not job.over for job in seen.jobs.values())
    late = any(job.finished_at is not None and unseen(job, now) for job in seen.jobs.values())
    waits = [seconds for seconds in (later, PATIENCE + 1 if podless or late else None) if seconds is not None]
    return min(waits) if waits else None
