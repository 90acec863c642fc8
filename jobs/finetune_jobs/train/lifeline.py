"""No process outlives the one that started it: after ``kill -9`` of the stage or of torchrun, nothing trains on."""

import ctypes
import os
import signal
import sys

PARENT_VARIABLE = "FINETUNE_PARENT"
"""Process id of whoever starts a child that calls `die_with_parent`."""
PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, and pass the same on to its own children.

    On other systems nothing is asked.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    if parent is None or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)  # it died before we asked
