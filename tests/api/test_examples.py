"""Each example is taken by the API server as it stands, and planned."""

from pathlib import Path

import pytest
import yaml

from finetune_jobs.contract import Stage
from finetune_operator.api import read_job
from finetune_operator.plan import make_plan

FOLDER = Path(__file__).parents[2] / "examples"
ALL = tuple(Stage)
STAGES = {
    "smollm2-react.yaml": ALL,
    "own-xtuner-config.yaml": ALL,
    "tutorial/llama3-agent.yaml": ALL,
    "tutorial/from-git.yaml": ALL,
    "tutorial/from-volume.yaml": ALL,
    "tutorial/ready-adapter.yaml": tuple(stage for stage in ALL if stage not in {Stage.DATASET, Stage.TRAIN}),
    "tutorial/two-nodes.yaml": ALL,
    "tutorial/with-kueue.yaml": tuple(stage for stage in ALL if stage is not Stage.DEMO),
}
"""Example of a job -> its stages."""
OTHERS = ("claim-to-fill.yaml",)
"""Examples of what a job needs beside it."""


def objects(path: Path) -> list[dict]:
    """What kubectl would apply of a file; none of one that no cluster takes."""
    return [found for found in yaml.safe_load_all(path.read_text()) if isinstance(found, dict) and "kind" in found]


def test_every_example_is_looked_at():
    found = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml") if objects(path)}
    assert found == {*STAGES, *OTHERS}


@pytest.mark.parametrize("name", [*STAGES, *OTHERS])
def test_an_example_is_taken(plane, name):
    path = str(FOLDER / name)
    applied = plane.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", path)
    assert applied.returncode == 0, applied.stderr


@pytest.mark.parametrize("name", STAGES)
def test_an_example_is_planned(name):
    read = read_job((FOLDER / name).read_text())
    assert tuple(stage.stage for stage in make_plan(read.job, read.config_maps).stages) == STAGES[name]


def test_the_job_with_its_own_config_holds_the_file_that_the_train_stage_is_tested_with():
    read = read_job((FOLDER / "own-xtuner-config.yaml").read_text())
    config = (FOLDER / "xtuner" / "smollm2_qlora_agentflan_3e.py").read_text()
    assert read.config_maps == {"xtuner-config": {"config.py": config}}
