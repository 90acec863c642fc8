"""What the runner itself can't write or read, as a failure with a cure."""

import errno

from finetune_jobs.contract import ExitCode, Failure

CURES = {
    errno.ENOSPC: (ExitCode.MACHINE_TROUBLE, "DiskFull", "Free some space there; what is finished is kept."),
    errno.EDQUOT: (ExitCode.MACHINE_TROUBLE, "DiskFull", "Free some space there; what is finished is kept."),
    errno.EACCES: (ExitCode.USER_MISTAKE, "NoPermission", "Name a folder of your own with --workspace."),
    errno.EROFS: (ExitCode.USER_MISTAKE, "NoPermission", "Name a folder that can be written to with --workspace."),
    errno.ENOTDIR: (ExitCode.USER_MISTAKE, "NoFolder", "Name a folder with --workspace."),
    errno.ENOENT: (ExitCode.USER_MISTAKE, "NoFolder", "Name a folder that can be made with --workspace."),
    errno.EEXIST: (ExitCode.USER_MISTAKE, "NoFolder", "Name a folder with --workspace."),
}  # fmt: skip
OTHERWISE = (ExitCode.MACHINE_TROUBLE, "Unforeseen", "Run the same job again.")


def disk_failure(error: OSError) -> tuple[ExitCode, Failure]:
    """How the run ends on this error."""
    code, reason, cure = CURES.get(error.errno or 0, OTHERWISE)
    where = f": {error.filename}" if error.filename else ""
    return code, Failure(reason=reason, message=f"{error.strerror or error}{where}.", cure=cure)
