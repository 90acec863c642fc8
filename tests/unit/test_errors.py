"""What is quoted of another program's error."""

import pytest

from finetune_jobs.errors import FIRST_LINE, first_line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n one\ntwo"), "one"),
        (ValueError(""), "ValueError"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 1000), "x" * FIRST_LINE),
    ],
)
def test_of_an_error_its_first_line_is_quoted_or_its_name(error, said):
    assert first_line(error) == said
