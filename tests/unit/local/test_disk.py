"""What the runner can't write."""

import errno

import pytest

from finetune_operator.local.disk import disk_failure


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [
        (errno.ENOSPC, 75, "DiskFull"),
        (errno.EACCES, 64, "NoPermission"),
        (errno.EROFS, 64, "NoPermission"),
        (errno.EIO, 75, "Unforeseen"),
    ],
)
def test_an_error_of_the_disk_has_a_reason_and_names_the_path(number, code, reason):
    ended, failure = disk_failure(OSError(number, "what the system says", "/w/model"))
    assert (ended, failure.reason) == (code, reason)
    assert failure.message == "what the system says: /w/model."
    assert failure.cure
