"""Names of files: which are in a folder, which are wanted, which stay inside."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from finetune_jobs.errors import UserMistake

PICKLES = {".bin", ".pth", ".pt", ".ckpt"}
GLOB_PARTS = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^\]]+\]|.", re.DOTALL)
GLOB_MEANINGS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def walk(folder: Path) -> list[str]:
    """Paths of all files under the folder, relative to it, with slashes, in the order of their bytes.

    Links to folders are followed, as `cp -L` does; .git and .cache, where tools keep their notes, are not
    part of a source.
    """
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name not in {".git", ".cache"}]
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in files]  # noqa: PTH118 (quicker by far)
    return sorted(found, key=os.fsencode)


def matches(name: str, pattern: str) -> bool:
    """Whether a relative path fits a glob in which `*` stops at a slash and `**` does not."""
    parts = GLOB_PARTS.findall(pattern)
    meant = "".join(
        GLOB_MEANINGS.get(part)
        or (part.replace("[!", "[^", 1) if part[0] == "[" and len(part) > 1 else re.escape(part))
        for part in parts
    )
    return re.fullmatch(meant, name) is not None


def wanted(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that fit at least one pattern, without pickles beside safetensors; all names if there is no pattern."""
    if not patterns:
        return list(names)
    fitting = [name for name in names if any(matches(name, pattern) for pattern in patterns)]
    safe = {PurePath(name).parent for name in fitting if name.endswith(".safetensors")}
    return [name for name in fitting if not (is_pickle(name) and PurePath(name).parent in safe)]


def is_pickle(name: str) -> bool:
    """Whether a file of weights is a pickle by its name: loading it may run code."""
    return PurePath(name).suffix in PICKLES


def left_out(names: Iterable[str], taken: Sequence[str]) -> tuple[str, ...]:
    """The names that were not taken, a thousand at most."""
    known = set(taken)
    return tuple(name for name in names if name not in known)[:1000]


def none_wanted(description: str, patterns: Sequence[str], there: Sequence[str]) -> UserMistake:
    """The error for a source in which nothing is wanted."""
    some = ", ".join(there[:10]) + (", ..." if len(there) > 10 else "")  # noqa: PLR2004 (enough to see what it is)
    looked_for = ", ".join(patterns) if patterns else "any file"
    return UserMistake(
        "SourceEmpty",
        f"{description} has none of the files that are looked for ({looked_for}); it has: {some or 'nothing'}.",
        "Name the repository, package or folder that directly holds these files.",
    )


def inside(root: Path, relative: str, field: str) -> Path:
    """`root / relative`, refused if it leads out of `root`."""
    if ".." in Path(relative).parts or Path(relative).is_absolute():
        raise UserMistake(
            "PathOutside",
            f"{field} is {relative!r}, which leads out of its root.",
            "Write a path below the root, without '..'.",
        )
    return root / relative
