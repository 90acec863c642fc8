"""Every command of the pages is run by somebody, or says why not; the quick ones are run here."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.pages import PAGES, QUICK, ROOT, Block, blocks

CLUSTER = "tests/cluster/test_release.py::test_what_the_page_on_installing_says_next_ends_well"
ON_PAGES = {page: blocks((ROOT / page).read_text()) for page in PAGES}
HERE = [
    (page, command)
    for page, found in ON_PAGES.items()
    for block in found
    for command in block.commands
    if command.startswith(QUICK)
]


@pytest.mark.parametrize("page", PAGES)
def test_each_command_is_run_or_says_why_not(page):
    assert [problem for block in ON_PAGES[page] for problem in block.problems()] == []


def test_the_pages_have_commands():
    assert {page for page, found in ON_PAGES.items() if found} >= {"README.md", "CONTRIBUTING.md", "docs/install.md"}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A place like the checkout's root, where nothing that a command leaves does harm."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(ROOT / "Makefile", tmp_path)
    return tmp_path


def write_jobs(page: str, folder: Path) -> None:
    """Each FineTuneJob that the page shows, as the file that its commands name."""
    for text in re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        shown = yaml.safe_load(text)
        if shown.get("kind") == "FineTuneJob":
            (folder / f"{shown['metadata']['name']}.yaml").write_text(text)


@pytest.mark.parametrize(("page", "command"), HERE)
def test_a_quick_command_does_what_it_says(page, command, folder):
    write_jobs(page, folder)
    ours = {name: value for name, value in os.environ.items() if name not in {"FINETUNE_WORKSPACE", "MAKEFLAGS"}}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    before = set(folder.iterdir())
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=ours | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert set(folder.iterdir()) == before


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as they are linked to."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_a_link_leads_somewhere(page):
    here = ROOT / page
    for name, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", here.read_text()):
        there = (here.parent / name) if name else here
        assert there.exists(), name
        assert not anchor or anchor in anchors(there), f"{name}#{anchor}"


def test_the_readme_leads_to_every_page():
    text = (ROOT / "README.md").read_text()
    assert [page for page in PAGES if f"]({page})" not in text] == ["README.md"]


def test_the_table_of_failures_reads_as_words():
    assert re.findall(r"[{}\\]|\[\^", (ROOT / "docs" / "troubleshooting.md").read_text()) == []


def problems(*lines: str) -> list[str]:
    (block,) = blocks("\n".join(("Text.", "", *lines, "", "Text.", "")))
    return list(block.problems())


@pytest.mark.parametrize(
    "lines",
    [
        ("    helm uninstall x",),
        ("```sh", "helm uninstall x", "```"),
        ("<!-- not run, helm install: it is slow -->", "", "    helm install x", "    helm uninstall x"),
        (f"<!-- run by {CLUSTER} -->", "", "    helm upgrade x --reuse-values"),
        (f"<!-- run by {CLUSTER} -->", "", "    kubectl --namespace finetune-system cordon x"),
        (f"<!-- run by {CLUSTER}_not -->", "", "    helm test x"),
        ("<!-- run by .ci/run -->", "", "    make cluster-down"),
        ("<!-- run by .ci/run -->", "", "    make nothing"),
    ],
    ids=["indented", "fenced", "another command", "an option", "a verb", "no such test", "not CI's", "no such target"],
)
def test_a_command_that_nobody_runs_is_told(lines):
    assert any("say above it who runs it" in problem for problem in problems(*lines))


@pytest.mark.parametrize(
    "lines",
    [
        (f"<!-- run by {CLUSTER} -->", "    helm test x  # it passes"),
        (f"<!-- run by {CLUSTER} -->", "<!-- not run, ls: no -->", "    helm test x", "    ls x"),
        ("<!-- run by .ci/run -->", "```sh", "make lint", "make setup", "make test-cluster", "```"),
        (f"<!-- run by {CLUSTER} -->", "    BASE_IMAGE=mmdebstrap make images"),
        ("    make help",),
    ],
    ids=["a test", "shared out", "CI", "a make target's own command", "quick"],
)  # fmt: skip
def test_a_command_that_is_run_is_taken(lines):
    assert problems(*lines) == []


def test_a_mark_about_nothing_is_told():
    assert problems("<!-- not run: it needs a GPU -->", "", "    make help")


def test_what_is_printed_or_written_is_no_command():
    assert blocks("```yaml\nspec:\n    model: {}\n```\n\n```text\nmodel  made\n```\n") == []


def test_a_line_goes_on_after_a_backslash():
    assert blocks("    helm install \\\n      x\n") == [Block(("helm install x",), ())]
