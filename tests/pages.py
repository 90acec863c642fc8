"""The commands of the pages, and who runs each of them: a comment above a block says it.

    <!-- run by tests/chart/test_docs.py::test_every_command_does_what_the_page_says -->
    <!-- run by .ci/run -->
    <!-- not run: a benchmark is no test -->
    <!-- not run, kubectl edit: it opens an editor -->

A block is fenced as sh, or indented; what a program prints is fenced as text. Several comments share a block's commands
out. A test that is named either runs the page's own text (`commands_for`), or holds the command or what its make target
does: the verb and every option, in its file or in those that it stands on. What QUICK begins needs no comment:
tests/unit/test_pages.py runs it.
"""

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "charts/finetune-operator/README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
QUICK = ("finetune validate ", "finetune plan ", "finetune status ", "make help")
CI = ".ci/run"
BLOCK = re.compile(
    r"(?P<marks>(?:^<!-- [^\n]*-->\n)*)\n?"
    r"(?:^ *```(?P<language>\w*)\n(?P<fenced>.*?)^ *```$|(?P<indented>(?:^    [^\n]*\n)+))",
    re.MULTILINE | re.DOTALL,
)
MARK = re.compile(r"<!-- (?:run by (?P<test>\S+)|not run(?:, (?P<start>[^:\n]+))?: (?P<why>[^\n]+)) -->")
RULE = re.compile(r"^(?P<target>[\w./$()-]+):(?!=)(?P<needs>[^#\n]*)[^\n]*\n(?P<recipe>(?:\t[^\n]*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Mark:
    test: str
    """Who runs it; empty where nobody does."""
    start: str = ""
    """How the commands begin that nobody runs; empty for the whole block."""

    def covers(self, command: str) -> bool:
        return runs(self.test, command) if self.test else command.startswith(self.start)


@dataclass(frozen=True)
class Block:
    commands: tuple[str, ...]
    marks: tuple[Mark, ...]

    def problems(self) -> Iterator[str]:
        slow = [command for command in self.commands if not command.startswith(QUICK)]
        for command in slow:
            if not any(mark.covers(command) for mark in self.marks):
                yield f"say above it who runs it, or why nobody does: {command}"
        for mark in self.marks:
            if not any(mark.covers(command) for command in slow):
                yield f"it is about no command of its block: {mark}"


def blocks(text: str) -> list[Block]:
    """A page's blocks of commands."""
    return [
        Block(tuple(commands(found["fenced"] or found["indented"])), tuple(marks(found["marks"])))
        for found in BLOCK.finditer(text)
        if found["indented"] or found["language"] in {"sh", "console"}
    ]


def commands(block: str) -> Iterator[str]:
    """Without comments; a line that ends in a backslash goes on in the next one."""
    for line in block.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield shlex.join(words)


def marks(text: str) -> Iterator[Mark]:
    for found in MARK.finditer(text):
        yield Mark(found["test"] or "", found["start"] or "")


def commands_for(test: str, page: str) -> list[str]:
    """The commands of a page that a test, by its pytest id, is marked to run as they stand."""
    return [
        command
        for block in blocks((ROOT / page).read_text())
        if Mark(test) in block.marks
        for command in block.commands
        if not any(mark.covers(command) for mark in block.marks if not mark.test)
    ]


def runs(test: str, command: str) -> bool:
    """Whether what is named runs the command."""
    if test == CI:
        return is_made_by_ci(command)
    name, _, function = test.partition("::")
    path = ROOT / name
    if not path.is_file() or f"def {function}(" not in path.read_text():
        return False
    told = source(path)
    return commands_for.__name__ in path.read_text() or all(holds(told, word) for word in telling_words(command))


def is_made_by_ci(command: str) -> bool:
    """Whether it is a make target that CI's own one comes to, or one that is nothing but such targets."""
    program, target, *_ = [*shlex.split(command), ""]
    if program != "make" or target not in rules():
        return False
    (first,) = re.findall(r"make (\S+)", (ROOT / CI).read_text())
    reached, left = set(), [first]
    while left:
        if (name := left.pop()) not in reached:
            reached.add(name)
            left += needs(name)
    return target in reached or (not rules()[target]["recipe"] and reached.issuperset(needs(target)))


@functools.cache
def rules() -> dict[str, dict[str, str]]:
    """Of the Makefile, by their targets."""
    return {found["target"]: found.groupdict() for found in RULE.finditer((ROOT / "Makefile").read_text())}


def needs(target: str) -> list[str]:
    """Targets that are made before it or by it."""
    rule = rules().get(target, {"needs": "", "recipe": ""})
    return [*rule["needs"].split(), *re.findall(r"\$\(MAKE\) (\S+?)[;\s]", rule["recipe"])]


def telling_words(command: str) -> Iterator[str]:
    """Variables, the verb, options and this project's files: what a test that runs it has to hold too."""
    words = shlex.split(command.removeprefix("@"))
    variables = [word.partition("=")[0] for word in words if re.match(r"[A-Z_]+=", word)]
    program, *rest = words[len(variables) :]
    yield from variables
    if program == "make" and rest[0] in rules():
        for line in rules()[rest[0]]["recipe"].splitlines():
            yield from telling_words(line.strip())
        return
    yield verb(rest) or program
    yield from (word.partition("=")[0] for word in rest if word.startswith("--"))
    yield from (word for word in rest if (ROOT / word).is_file())


def verb(words: list[str]) -> str:
    """The first word that is neither an option nor a long option's value."""
    pairs = zip(["", *words], words, strict=False)
    return next((word for before, word in pairs if not word.startswith("-") and not before.startswith("--")), "")


def holds(text: str, word: str) -> bool:
    """Whether it stands in the code as a string of its own; a file by its name, a verb also as helm's `--install`."""
    name = word.rpartition("/")[2]
    dashes = "" if word.startswith("--") else "(?:--)?"
    return re.search(rf'["/]{dashes}{re.escape(name)}["=]', text) is not None


@functools.cache
def source(path: Path) -> str:
    """A test's file, its conftest.py, and what these import from tests/."""
    found: dict[Path, str] = {}
    left = [path, path.with_name("conftest.py")]
    while left:
        here = left.pop()
        if here not in found and here.is_file():
            found[here] = here.read_text()
            left += [ROOT / f"{name.replace('.', '/')}.py" for name in imported(found[here])]
    return "\n".join(found.values())


def imported(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests"):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
