"""From what was fetched to the model folder, without copying a byte where the disk allows it."""

import os
import shutil
from pathlib import Path

from finetune_jobs.model import names
from finetune_jobs.room import write_atomically
from finetune_jobs.sources.files import walk, wanted

READABLE = 0o644


def lay_out(fetched: Path, folder: Path) -> None:
    """Put the model's files into `folder` anew: links to a linked volume, hard links to a download."""
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    draft.chmod(0o755)
    for name in names.needed(wanted(walk(fetched), names.wanted(allow_pickle=True))):
        lay(fetched / name, draft / name)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def rewrite(path: Path, text: str) -> None:
    """By rename: the file may be a link to a volume, which is not ours to change."""
    write_atomically(path, text)
    path.chmod(READABLE)


def lay(file: Path, target: Path) -> None:
    if file.is_symlink() and not file.resolve().is_relative_to(file.parent.resolve()):
        target.symlink_to(file.readlink())
        return
    file.resolve().chmod(READABLE)
    try:
        os.link(file.resolve(), target)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, target)
        target.chmod(READABLE)
