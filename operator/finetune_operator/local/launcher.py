"""``python launcher.py PARENT COMMAND...``: become COMMAND, and be told to stop when PARENT dies.

The runner starts every stage through this file, so that a runner killed by SIGKILL leaves no training
behind. PR_SET_PDEATHSIG outlives exec; a function run between fork and exec would do the same, but is
not safe in a program with threads. Standard library only: it starts in milliseconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(f"the runner {parent} is gone")
    os.execvp(command[0], command)  # noqa: S606 - the runner's own command, no shell


if __name__ == "__main__":
    main()
