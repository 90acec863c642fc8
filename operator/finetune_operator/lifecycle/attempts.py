"""Whether a stage that did not end well is tried again, and when."""

import math

from finetune_jobs.contract import ExitCode

MAX_ATTEMPTS = 3
FIRST_PAUSE = 5.0
"""Seconds before the second attempt; each further pause is FACTOR times as long."""
FACTOR = 4.0

ENDS = {ExitCode.DONE, ExitCode.USER_MISTAKE}
"""Exit codes after which nothing is tried again. INTERRUPTED goes on, unforeseen codes are the machine's trouble."""
WAITS_FOR_A_PERSON = {"DiskFull"}
"""Reasons that no retry removes."""


def pause_before_next(attempt: int) -> float:
    """Seconds between attempt number `attempt` (from 1) and the next."""
    return FIRST_PAUSE * math.pow(FACTOR, attempt - 1)


def tried_again(code: int, reason: str, attempt: int) -> bool:
    """Whether a stage that ended with `code` for `reason` in its attempt number `attempt` is started again."""
    return code not in ENDS and reason not in WAITS_FOR_A_PERSON and attempt < MAX_ATTEMPTS
