"""Adds the adapter to the base weights: a model like any other, in safetensors.

``python -m finetune_jobs merge``. Reads the model stage's weights and the export stage's adapter, chunk by chunk;
adds in fp32 and rounds once, to the wanted type. The draft folder becomes the merged one by a rename, when
it has been opened and checked: a run that was killed leaves nothing that the next one would believe.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_jobs.contract import ADAPTER_FOLDER, MERGED_FOLDER, MODEL_FOLDER, MergeRequest, MergeResult, Stage
from finetune_jobs.merge.card import write_card
from finetune_jobs.merge.check import check_merged
from finetune_jobs.merge.files import (
    CARD_FILE,
    CONFIG_FILE,
    copy_file,
    merged_config,
    read_model_config,
    side_files,
    write_file,
)
from finetune_jobs.merge.plan import INDEX_FILE, Plan, make_index, make_plan
from finetune_jobs.merge.stream import write_shards
from finetune_jobs.room import Room
from finetune_jobs.sources.digests import MEGABYTE, folder_sha256, sha256_of_file
from finetune_jobs.sources.space import require_space

DRAFT_FOLDER = f".{MERGED_FOLDER}"

log = logging.getLogger(__name__)


def run(request: MergeRequest, room: Room) -> MergeResult:
    """Merge. Raises UserMistake (an adapter that fits not, ...) before a byte is written, and MachineTrouble."""
    base_folder = room.input(Stage.MODEL) / MODEL_FOLDER
    adapter_folder = room.input(Stage.EXPORT) / ADAPTER_FOLDER
    config = read_model_config(base_folder)
    plan = make_plan(base_folder, adapter_folder, config, request)
    if plan.untied:
        log.warning("the adapter moves the embedding and the output layer apart; the merged model has both")
    with draft(room.out) as folder:
        copied = side_files(base_folder)
        size = plan.size + sum((base_folder / name).stat().st_size for name in copied)
        require_space(folder, size, "The merged model")
        sha256s = write_weights(plan, folder, room)
        for name in copied:
            copy_file(base_folder / name, folder / name)
        write_texts(plan, folder, config, request, room)
        check_merged(plan, folder, base_folder)
        sha256s |= {name: sha256_of_file(folder / name) for name in names_in(folder) if name not in sha256s}
    return MergeResult(
        dtype=request.dtype,
        shards=len(plan.shards),
        bytes=plan.size,
        sha256=folder_sha256(sha256s),
        merged_tensors=plan.merged,
    )


@contextmanager
def draft(out: Path) -> Iterator[Path]:
    """A new folder beside the merged one, which it becomes if all goes well, and which else is removed."""
    folder, merged = out / DRAFT_FOLDER, out / MERGED_FOLDER
    for left in (folder, merged):
        if left.exists():
            log.info("removing what an interrupted run left: %s", left.name)
            shutil.rmtree(left)
    folder.mkdir()
    try:
        yield folder
        folder.chmod(0o755)
        folder.replace(merged)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_weights(plan: Plan, folder: Path, room: Room) -> dict[str, str]:
    total = max(1, plan.size // MEGABYTE)
    log.info("merging %d of %d weights into %d shards", plan.merged, len(plan.weights), len(plan.shards))
    return write_shards(plan, folder, lambda done: room.progress(done // MEGABYTE, total, unit="MB", message="merging"))


def write_texts(plan: Plan, folder: Path, config: dict[str, object], request: MergeRequest, room: Room) -> None:
    """Config, index and model card."""
    merged = merged_config(config, request.dtype, untied=plan.untied)
    write_file(folder / CONFIG_FILE, json.dumps(merged, indent=2, sort_keys=True) + "\n")
    if len(plan.shards) > 1:
        write_file(folder / INDEX_FILE, json.dumps(make_index(plan), indent=2) + "\n")
    write_file(folder / CARD_FILE, write_card(plan, request, room))


def names_in(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
