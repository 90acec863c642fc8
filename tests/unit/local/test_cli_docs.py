"""docs/cli.md says what the command line does."""

import re
from pathlib import Path

import pytest

from finetune_jobs.contract import RESULTS, ExitCode, Stage, State
from finetune_operator.cli import EXIT_CODES, parser
from finetune_operator.local.events import Event

DOCS = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")
LINES = re.search(r"```json\n(.*?)```", DOCS, re.DOTALL)[1].splitlines()


@pytest.mark.parametrize("line", LINES)
def test_each_example_is_a_line_that_the_command_could_write(line):
    event = Event.model_validate_json(line)
    assert event.to_json() == line
    if event.result is not None:
        RESULTS[event.stage].model_validate(event.result)


def test_the_examples_show_every_state():
    assert {Event.model_validate_json(line).state for line in LINES} == set(State)


def test_every_field_of_a_line_is_explained():
    fields = {field.alias or name for name, field in Event.model_fields.items()}
    assert fields == set(re.findall(r"^\| `(\w+)` \|", DOCS, re.MULTILINE))


def test_every_option_of_run_and_every_stage_are_named():
    run = parser()._subparsers._group_actions[0].choices["run"]
    options = {option for action in run._actions for option in action.option_strings if option.startswith("--")}
    assert [name for name in sorted(options - {"--help"}) if name not in DOCS] == []
    assert [stage for stage in Stage if f"`{stage}`" not in DOCS] == []


def test_the_help_and_the_docs_have_the_same_exit_codes():
    codes = re.findall(r"^\| (\d+) \|", DOCS, re.MULTILINE)
    assert codes == re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE)
    assert codes == ["0", str(int(ExitCode.USER_MISTAKE)), str(int(ExitCode.MACHINE_TROUBLE)), "130"]
