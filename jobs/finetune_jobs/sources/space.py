"""Refuses what can't fit on the disk before its first byte is written."""

import shutil
from pathlib import Path

from finetune_jobs.errors import MachineTrouble
from finetune_jobs.sources.digests import MEGABYTE

RESERVE = 4 * MEGABYTE
"""Bytes left for notes, progress and the result."""


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise MachineTrouble(DiskFull) if `needed` bytes don't fit into the folder's file system."""
    free = shutil.disk_usage(folder).free
    if needed + RESERVE > free:
        raise MachineTrouble(
            "DiskFull",
            f"{what} needs {megabytes(needed + RESERVE)} in {folder}, where {megabytes(free)} are free.",
            "Free some space there, or use a larger volume; what is finished is kept.",
        )


def megabytes(count: int) -> str:
    return f"{count / MEGABYTE:,.0f} MB"
