"""What a pass adds to the metrics: stage times, loss and speed, jobs by stage."""

from collections import Counter
from contextlib import suppress

from finetune_operator.api.status import StageState, Status
from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.metrics import JOBS_BY_STAGE, LOSS, STAGE_SECONDS, TOKENS
from finetune_operator.cluster.observe import Look
from finetune_operator.lifecycle.verdict import DONE

ENDED = {StageState.SUCCEEDED, StageState.FAILED}
DONE_VALUES = {state.value for state in DONE}


def note_pass(look: Look, status: Status) -> None:
    known = {stage.name: stage.state for stage in look.status.stages}
    for stage in status.stages:
        if stage.state in ENDED and known.get(stage.name) != stage.state and stage.started_at and stage.finished_at:
            seconds = (stage.finished_at - stage.started_at).total_seconds()
            STAGE_SECONDS.labels(stage.name.value, stage.state.value).observe(max(seconds, 0))
    training = status.training
    if training is not None and training.loss:
        with suppress(ValueError):  # a user may have written anything into status
            LOSS.labels(*look.key).set(float(training.loss))
            TOKENS.labels(*look.key).set(float(training.tokens_per_second or 0))


def forget(namespace: str, name: str) -> None:
    """A job that is gone is told of no more."""
    for gauge in (LOSS, TOKENS):
        if (namespace, name) in gauge._metrics:  # noqa: SLF001 - remove() warns for what was never set
            gauge.remove(namespace, name)


def forget_all() -> None:
    """The end of a reign: from now on another operator tells of the jobs."""
    for gauge in (LOSS, TOKENS, JOBS_BY_STAGE):
        gauge.clear()


def count_jobs(cache: Cache) -> None:
    """Jobs by the first stage that is not done, when /metrics is read."""
    counts: Counter[tuple[str, str]] = Counter()
    for record in cache.records.values():
        at = ((stage, state) for stage, (_, state) in record.standing.items() if state not in DONE_VALUES)
        counts[next(at, ("ready" if record.standing else "new", "Succeeded" if record.standing else "Pending"))] += 1
    JOBS_BY_STAGE.clear()
    for labels, count in counts.items():
        JOBS_BY_STAGE.labels(*labels).set(count)
