"""JSON lines that a stage appends to and another one reads, perhaps while they are written."""

from pathlib import Path


def whole_lines(path: Path) -> list[bytes]:
    """The lines that a line feed ends, without one that a kill cut; none where there is no file.

    JSON may hold U+2028, U+0085 and their kin as they are, and str.splitlines would cut a text there.
    """
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []
