"""Which errors are the machine's trouble, tried again, and which are not."""

import errno
import os

import pytest

from finetune_jobs.errors import MachineTrouble, UserMistake
from finetune_jobs.trouble import trouble_in


def of_number(number: int) -> OSError:
    return OSError(number, os.strerror(number), "a file")


def raised_from(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


TROUBLES = [
    (of_number(errno.ENOSPC), "DiskFull"),
    (of_number(errno.EDQUOT), "DiskFull"),
    (of_number(errno.EIO), "DiskFailed"),
    (of_number(errno.ENOMEM), "OutOfMemory"),
    (of_number(errno.EMFILE), "TooManyFiles"),
    (of_number(errno.ECONNRESET), "SystemFailed"),
    (MemoryError(), "OutOfMemory"),
    (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity"), "GpuOutOfMemory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "OutOfMemory"),
    (Exception("No space left on device (os error 28)"), "DiskFull"),
    (OSError("libgomp.so.1: cannot open shared object file: No such file or directory"), "ImageIncomplete"),
    (ImportError("_C.so: undefined symbol: _ZN3c10"), "ImageIncomplete"),
    (raised_from(ValueError("no dataset"), of_number(errno.ENOSPC)), "DiskFull"),
    (raised_from(ValueError("no dataset"), MachineTrouble("Told", "It was told.", "So.")), "Told"),
]
NONE = [
    of_number(errno.ENOENT),
    of_number(errno.EISDIR),
    of_number(errno.EACCES),
    of_number(errno.EROFS),
    OSError("mine/model does not appear to have a file named config.json"),
    ModuleNotFoundError("No module named 'mine'"),
    KeyError("messages"),
    raised_from(ValueError("no dataset"), of_number(errno.ENOENT)),
    UserMistake("Told", "It was told.", "So."),
]


@pytest.mark.parametrize(("error", "reason"), TROUBLES, ids=[repr(error)[:40] for error, _ in TROUBLES])
def test_what_the_machine_refused_is_told_with_a_cure(error, reason):
    trouble = trouble_in(error)
    assert trouble is not None
    assert trouble.failure.reason == reason
    assert trouble.failure.cure


@pytest.mark.parametrize("error", NONE, ids=[repr(error)[:40] for error in NONE])
def test_what_a_user_wrote_is_not_the_machines_trouble(error):
    assert trouble_in(error) is None


def test_a_cause_that_was_put_aside_is_not_asked():
    """As `raise ... from None` leaves it."""
    error = ValueError("mine")
    error.__context__, error.__suppress_context__ = of_number(errno.EIO), False
    assert trouble_in(error) is not None
    error.__suppress_context__ = True
    assert trouble_in(error) is None


def test_errors_that_name_each_other_as_their_cause_come_to_an_end():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert trouble_in(first) is None
