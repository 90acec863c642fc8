"""Each example is taken by the API server as it stands, and planned."""

from pathlib import Path

import pytest

from finetune_jobs.contract import Stage
from finetune_operator.api import read_job
from finetune_operator.plan import make_plan

FOLDER = Path(__file__).parents[2] / "examples"
ALL = tuple(Stage)
STAGES = {
    "smollm2-react.yaml": ALL,
    "tutorial/llama3-agent.yaml": ALL,
    "tutorial/from-git.yaml": ALL,
    "tutorial/from-volume.yaml": ALL,
    "tutorial/ready-adapter.yaml": tuple(stage for stage in ALL if stage not in {Stage.DATASET, Stage.TRAIN}),
    "tutorial/two-nodes.yaml": ALL,
    "tutorial/with-kueue.yaml": tuple(stage for stage in ALL if stage is not Stage.DEMO),
}
"""Example -> its stages."""


def test_every_example_is_looked_at():
    jobs = (path for path in FOLDER.rglob("*.yaml") if "kind: FineTuneJob" in path.read_text())
    assert {str(path.relative_to(FOLDER)) for path in jobs} == set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_an_example_is_taken_and_planned(plane, name):
    path = FOLDER / name
    applied = plane.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", str(path))
    assert applied.returncode == 0, applied.stderr
    read = read_job(path.read_text())
    assert tuple(stage.stage for stage in make_plan(read.job, read.config_maps).stages) == STAGES[name]
