"""Names of files: which are in a folder, which are wanted."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Selection:
    """Which files of a source a stage wants."""

    patterns: tuple[str, ...] = ()
    accept: Callable[[Sequence[str], Sequence[str]], None] | None = None
    """Gets the wanted names and the others before the first byte is brought; raises to refuse them."""
    narrow: Callable[[Sequence[str]], list[str]] = list
    """What is needed of the wanted names."""

    def choose(self, there: Sequence[str], description: str) -> tuple[list[str], tuple[str, ...]]:
        """The wanted names and the others, a thousand at most. Raises UserMistake when nothing is wanted."""
        names = self.narrow(wanted(there, self.patterns))
        known = set(names)
        others = tuple(name for name in there if name not in known)[:1000]
        if not names:
            some = ", ".join(there[:10]) + (", ..." if len(there) > 10 else "")  # noqa: PLR2004 (enough to see what it is)
            looked_for = ", ".join(self.patterns) if self.patterns else "any file"
            raise UserMistake(
                "SourceEmpty",
                f"{description} has none of the files that are looked for ({looked_for}); it has: {some or 'nothing'}.",
                "Name the repository, package or folder that directly holds these files.",
            )
        if self.accept is not None:
            self.accept(names, others)
        return names, others
