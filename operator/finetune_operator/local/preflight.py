"""What can be refused before the first stage starts."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from finetune_jobs.contract import Stage, TrainRequest
from finetune_operator.local.events import refuse
from finetune_operator.local.runner import Runner
from finetune_operator.local.volumes import check_given, claims, known_volumes, volume_sources, written_after


def check_one_machine(runner: Runner) -> None:
    """CannotRun when the training needs other machines."""
    for planned in runner.missing():
        request = planned.request
        if isinstance(request, TrainRequest) and request.nodes > 1:
            raise refuse(
                "SeveralNodes",
                f"spec.training.nodes is {request.nodes}, and this command runs on one machine.",
                "Write nodes: 1 and this machine's number of GPUs as gpus, or apply the job to a cluster.",
            )


def check_port(runner: Runner) -> None:
    """CannotRun when the demo could not listen; not when another run serves this very demo: that is waited for."""
    demo = next((planned for planned in runner.wanted if planned.stage is Stage.DEMO), None)
    if demo is not None and not runner.folder(demo).is_worked_on():
        runner.address.check_free()


def volumes_for(runner: Runner, given: Mapping[str, Path], beside: Path) -> dict[str, Path]:
    """Folders of the claims that the missing stages read, and those given; CannotRun when one is nowhere."""
    check_given(given, claims(planned.request for planned in runner.plan.stages))
    return known_volumes(given, beside, claims(planned.request for planned in runner.missing()))


def unseen_changes(runner: Runner, given: Mapping[str, Path], beside: Path) -> Iterator[str]:
    """A sentence for each result that is taken although files of its volume are newer: a digest covers only names."""
    for planned in runner.wanted:
        record = runner.folder(planned).record()
        sources = [source for source in volume_sources(planned.request) if source.sha256 is None]
        if record is None or not sources:
            continue
        folders = {claim: given.get(claim, beside / claim) for claim in claims([planned.request])}
        for newer in filter(None, (written_after(source, folders, record.started_at) for source in sources)):
            yield (
                f"{planned.stage}: {newer} was written after the result that is taken was made. "
                f"To make it anew, remove {runner.folder(planned).path}; a sha256 in the source would have told."
            )
