"""The model stage: brings the base model to the workspace as Hugging Face files, and looks at all of it.

``python -m finetune_jobs model`` runs it. In its folder lie::

    model/           config.json, tokenizer, *.safetensors; links where the source is a linked volume
    SHA256SUMS       one line for each file of model/, as `sha256sum` prints it

Each step can be done again after a kill at any point: what is fetched or converted stays.
"""

import logging
import shutil
from pathlib import Path

from finetune_jobs.contract import MODEL_FOLDER, ModelRequest, ModelResult
from finetune_jobs.model import assemble, convert_gguf, convert_pickle, licence, names, own_code, tokenizer, weights
from finetune_jobs.room import Room, write_atomically
from finetune_jobs.sources import Fetched, fetch
from finetune_jobs.sources.digests import Meter, folder_sha256, sha256_of_file
from finetune_jobs.sources.files import walk

log = logging.getLogger(__name__)

DOWNLOAD = "download"
SUMS_FILE = "SHA256SUMS"


def run(request: ModelRequest, room: Room) -> ModelResult:
    """Fetch, convert where needed, check, count."""
    fetched = fetch(
        request.source, room, room.out / DOWNLOAD, patterns=names.wanted(request.allow_pickle),
        accept=lambda there, others: names.refuse(there, others, allow_pickle=request.allow_pickle),
        narrow=names.needed,
    )  # fmt: skip
    folder = room.out / MODEL_FOLDER
    found = laid_out(fetched, folder, request, room)
    config = weights.read_config(folder)
    shards = weights.read_shards(folder)
    architecture = weights.check_architecture(folder, config, shards)
    tokenizer.check(folder, weights.embedding_rows(shards, config))
    own_code.forgo(folder)
    sums = sha256sums(folder, room)
    write_atomically(room.out / SUMS_FILE, "".join(f"{sums[name]}  {name}\n" for name in sums))
    shutil.rmtree(room.out / DOWNLOAD)
    return ModelResult(
        parameters=weights.count(shards),
        architecture=architecture,
        dtype=weights.dtype(shards),
        bytes=sum((folder / name).stat().st_size for name in sums),
        sha256=folder_sha256(sums),
        license=found,
        revision=fetched.revision,
        source=fetched.description,
    )


def laid_out(fetched: Fetched, folder: Path, request: ModelRequest, room: Room) -> str | None:
    """Make the model folder of what came; return the licence."""
    gguf = names.gguf_of(fetched.path)
    if gguf is not None:
        return convert_gguf.convert(gguf, folder, room) or fetched.license
    assemble.lay_out(fetched.path, folder)
    if request.allow_pickle and not list(folder.glob("*.safetensors")):
        convert_pickle.convert(folder, room)
    return licence.of_folder(folder) or fetched.license


def sha256sums(folder: Path, room: Room) -> dict[str, str]:
    files = walk(folder)
    meter = Meter(room, sum((folder / name).stat().st_size for name in files), "hashing")
    return {name: sha256_of_file(folder / name, meter) for name in files}
