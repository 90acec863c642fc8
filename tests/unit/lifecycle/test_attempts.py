"""Which ends are tried again."""

import pytest

from finetune_jobs.contract import ExitCode
from finetune_operator.lifecycle.attempts import pause_before_next, tried_again


@pytest.mark.parametrize(
    ("code", "reason", "attempt", "again"),
    [
        (ExitCode.MACHINE_TROUBLE, "NetworkDown", 1, True),
        (ExitCode.MACHINE_TROUBLE, "NetworkDown", 2, True),
        (ExitCode.MACHINE_TROUBLE, "NetworkDown", 3, False),
        (ExitCode.MACHINE_TROUBLE, "DiskFull", 1, False),
        (ExitCode.USER_MISTAKE, "UnknownTemplate", 1, False),
        (ExitCode.INTERRUPTED, "Interrupted", 1, True),
        (ExitCode.DONE, "", 1, False),
        (1, "Unforeseen", 1, True),
        (-9, "Killed", 1, True),
        (-9, "Killed", 3, False),
    ],
)
def test_only_the_machines_trouble_is_tried_again_and_three_times_in_all(code, reason, attempt, again):
    assert tried_again(code, reason, attempt) is again


def test_the_second_pause_is_longer_than_the_first():
    assert pause_before_next(2) > pause_before_next(1) > 0
