"""No process outlives the one that started it: after ``kill -9`` of a stage or of torchrun, nothing goes on unseen.

Called first thing by what a stage starts: torchrun, its ranks, the demo's server. Programs that are not ours, git and
pip, are started by ``python lifeline.py PARENT COMMAND...``. (The runner's own launcher has the same two lines: it
starts in milliseconds, without any import from here.)
"""

import ctypes
import os
import signal
import sys

PARENT_VARIABLE = "FINETUNE_PARENT"
"""Process id of whoever starts a child that calls `die_with_parent`."""
PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def end_with(parent: int, number: signal.Signals) -> None:
    """Ask Linux to send this process the signal when its parent dies; on other systems nothing is asked."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), number)


def die_with_parent() -> None:
    """Be killed when the process dies that PARENT_VARIABLE names, and pass the same on to our own children."""
    parent = os.environ.get(PARENT_VARIABLE)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    if parent is not None:
        end_with(int(parent), signal.SIGKILL)


def main() -> None:
    """Become the command, which outlives exec with what was asked of Linux."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    end_with(parent, signal.SIGTERM)
    os.execv(command[0], command)  # noqa: S606 - no shell


if __name__ == "__main__":
    main()
