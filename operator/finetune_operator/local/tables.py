"""``finetune plan`` and ``finetune status``: a line per stage from what lies in the workspace."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from finetune_jobs.contract import Record, Stage
from finetune_operator.api.status import StageState
from finetune_operator.local.reasons import why_it_runs
from finetune_operator.local.summary import progress_line, result_line
from finetune_operator.local.workspace import StageFolder
from finetune_operator.plan import Plan, PlannedStage


def plan_lines(plan: Plan, workspace: Path) -> Iterator[str]:
    """What a run would take and what it would start, and why."""
    for planned in plan.stages:
        action, why = plan_of(planned, workspace)
        yield row(planned, action, why)


def plan_of(planned: PlannedStage, workspace: Path) -> tuple[str, str]:
    if planned.stage is Stage.DEMO:
        return "serve", "the demo runs as long as the command does"
    record = StageFolder(workspace, planned.stage, planned.digest).record()
    if record is None:
        return "run", why_it_runs(workspace, planned.stage, planned.request)
    return "reuse", made(record)


def status_lines(plan: Plan, workspace: Path) -> Iterator[str]:
    """How far the job is."""
    for planned in plan.stages:
        state, more = status_of(StageFolder(workspace, planned.stage, planned.digest))
        yield row(planned, state, more)


def status_of(folder: StageFolder) -> tuple[str, str]:
    """Its state, in the cluster's words where both have one, and more of it."""
    record = folder.record()
    if record is not None:
        return StageState.SUCCEEDED.value, made(record)
    if folder.is_worked_on():
        address, progress = folder.address(), folder.progress()
        if address:
            return StageState.RUNNING.value, f"open at {address}"
        return StageState.RUNNING.value, progress_line(progress) if progress else ""
    if folder.stage is not Stage.DEMO and folder.log_if_there():
        return "Stopped", "goes on from its checkpoint" if folder.has_checkpoint() else "starts again with the next run"
    return StageState.PENDING.value, ""


def made(record: Record) -> str:
    return f"made {local_time(record.finished_at)}: {result_line(record.stage, record.result)}"


def local_time(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def row(planned: PlannedStage, state: str, more: str) -> str:
    return f"{planned.stage:<9} {planned.digest}  {state:<9} {more}".rstrip()
