"""Errors of the operating system and of libraries: which of them are this machine's trouble, and what to do about it.

The frame asks it for an error that nobody foresaw; who reads what a user gave asks it before calling that wrong, since
a full disk is no mistake of the user's and is tried again.
"""

import errno
import re
from collections.abc import Iterator, Mapping

from finetune_jobs.errors import MachineTrouble, StageError, UserMistake, first_line

GPU_OUT_OF_MEMORY = ("GpuOutOfMemory", "Give the stage a larger GPU, or one that nothing else uses.")
OUT_OF_MEMORY = ("OutOfMemory", "Give the stage more memory.")
DISK_FULL = ("DiskFull", "Free some space or use a larger volume; what is finished is kept.")
TOO_MANY_FILES = ("TooManyFiles", "Raise the limit of open files (ulimit -n) where the stage runs.")
DISK_FAILED = ("DiskFailed", "Run again; if it stays, look at the volume's disk and at the node's kernel log.")
LIBRARY_MISSING = ("ImageIncomplete", "Use the trainer image of this release, or add the library to your own.")
SYSTEM_FAILED = ("SystemFailed", "Run again; if it stays, look at the node: its limits, disks and network.")

OS_ERRORS: Mapping[int, tuple[type[UserMistake | MachineTrouble], str, str]] = {
    errno.ENOSPC: (MachineTrouble, *DISK_FULL),
    errno.EDQUOT: (MachineTrouble, "DiskFull", "Raise the quota or free some space; what is finished is kept."),
    errno.EIO: (MachineTrouble, *DISK_FAILED),
    errno.ESTALE: (MachineTrouble, *DISK_FAILED),
    errno.ENOMEM: (MachineTrouble, *OUT_OF_MEMORY),
    errno.EMFILE: (MachineTrouble, *TOO_MANY_FILES),
    errno.ENFILE: (MachineTrouble, *TOO_MANY_FILES),
    errno.EACCES: (UserMistake, "NoPermission", "Give this user read and write permission, or use another folder."),
    errno.EROFS: (UserMistake, "NoPermission", "Use a workspace that can be written to."),
}
PATHS = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EINVAL, errno.ENAMETOOLONG,
    errno.ELOOP,
}  # fmt: skip
"""What a path brings about by how it is written: no sign of a machine in trouble."""
TEXTS = (
    (r"CUDA out of memory", GPU_OUT_OF_MEMORY),
    (r"can't allocate memory|Cannot allocate memory", OUT_OF_MEMORY),
    (r"No space left on device|Disk quota exceeded", DISK_FULL),
    (r"Too many open files", TOO_MANY_FILES),
    (r"Input/output error", DISK_FAILED),
    (r"cannot open shared object file|undefined symbol: |version `\S+' not found", LIBRARY_MISSING),
)
"""What libraries in C++ and Rust make of the same: their errors carry no number."""


def of_system(error: BaseException) -> StageError | None:
    """What the operating system refused, with a cure; None for what has no row."""
    if isinstance(error, MemoryError):
        return MachineTrouble(OUT_OF_MEMORY[0], "This machine ran out of memory.", OUT_OF_MEMORY[1])
    if not isinstance(error, OSError) or error.errno is None or error.errno not in OS_ERRORS:
        return None
    kind, reason, cure = OS_ERRORS[error.errno]
    return kind(reason, f"{error.strerror}: {error.filename or 'the workspace'}.", cure)


def trouble_in(error: BaseException) -> MachineTrouble | None:
    """The machine's trouble behind an error that looks like the user's mistake; None where there is none."""
    return next((found for each in causes(error) if (found := _trouble(each)) is not None), None)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, the outermost first."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _trouble(error: BaseException) -> MachineTrouble | None:
    known = error if isinstance(error, StageError) else of_system(error)
    if known is not None:
        return known if isinstance(known, MachineTrouble) else None
    said = f"{type(error).__name__}: {first_line(error).removesuffix('.')}."
    if isinstance(error, OSError) and error.errno is not None and error.errno not in PATHS:
        return MachineTrouble(SYSTEM_FAILED[0], said, SYSTEM_FAILED[1])
    row = next((row for pattern, row in TEXTS if re.search(pattern, str(error))), None)
    return MachineTrouble(row[0], said, row[1]) if row else None
