"""Each example is applied to the API server as it stands, and what that server keeps is planned."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_jobs.contract import Stage
from finetune_operator.api import read_job
from finetune_operator.api.read import JobFile
from finetune_operator.manifests.job import stage_job
from finetune_operator.manifests.pod import Surroundings
from finetune_operator.manifests.settings import PodSettings
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


@pytest.fixture
def kept(plane, name):
    """The objects of an example as the API server keeps them, once they are applied."""
    path = str(FOLDER / name)
    applied = plane.kubectl("apply", "--server-side", "--validate=strict", "-f", path)
    assert applied.returncode == 0, applied.stderr
    found = json.loads(plane.kubectl("get", "-f", path, "-o", "json").stdout)
    yield found.get("items", [found])
    deleted = plane.kubectl("delete", "--grace-period=0", "--force", "-f", path)
    assert deleted.returncode == 0, deleted.stderr


@pytest.mark.parametrize("name", [*STAGES, *OTHERS])
def test_an_example_is_applied(kept, name):
    assert [found["kind"] for found in kept] == [said["kind"] for said in objects(FOLDER / name)]


@pytest.mark.parametrize("name", STAGES)
def test_what_the_api_server_keeps_of_an_example_is_planned_as_the_file(kept, name):
    stored, written = read_job("\n---\n".join(map(json.dumps, kept))), read_job((FOLDER / name).read_text())
    plan = make_plan(stored.job, stored.config_maps)
    assert tuple(stage.stage for stage in plan.stages) == STAGES[name]
    assert plan == make_plan(written.job, written.config_maps)


TUTORIAL = {
    "epochs": 3, "deepspeed": "zero2", "maxLength": 4096, "gpus": 1, "nodes": 1, "template": "llama3_chat",
    "learningRate": "2e-4", "lora": {"rank": 64, "alpha": 16, "dropout": "0.1"}, "quantization": "nf4",
}  # fmt: skip
"""As the tutorial trains: its config llama3_8b_instruct_qlora_agentflan_3e under DeepSpeed's ZeRO-2."""
LLAMA = {"huggingFace": {"repo": "meta-llama/Meta-Llama-3-8B-Instruct", "revision": "main",
                         "tokenSecretRef": {"name": "hugging-face", "key": "token"}}}  # fmt: skip
SHARED = {"claimName": "share", "path": "new_models/meta-llama/Meta-Llama-3-8B-Instruct", "mode": "link"}
ADAPTER = {"claimName": "share", "path": "new_models/agent-flan/iter_2316_hf", "mode": "link"}
MIRROR = {"url": "https://code.openxlab.org.cn/MrCat/Llama-3-8B-Instruct.git", "revision": "HEAD", "lfs": True}
REQUESTS: list[tuple[str, Stage, dict[str, Any]]] = [
    ("llama3-agent", Stage.MODEL, {"source": LLAMA}),
    ("llama3-agent", Stage.DATASET, {
        "source": {"huggingFace": {"repo": "internlm/Agent-FLAN", "revision": "main"}}, "format": "agent-flan",
        "template": "llama3_chat", "maxLength": 4096, "pack": True,
    }),
    ("llama3-agent", Stage.TRAIN, TUTORIAL),
    ("from-git", Stage.MODEL, {"source": {"git": MIRROR}}),
    ("from-git", Stage.TRAIN, TUTORIAL),
    ("from-volume", Stage.MODEL, {"source": {"volume": SHARED}}),
    ("from-volume", Stage.TRAIN, TUTORIAL),
    ("ready-adapter", Stage.EXPORT, {"adapter": {"volume": ADAPTER}}),
    ("two-nodes", Stage.TRAIN, TUTORIAL | {"gpus": 8, "nodes": 2, "gradientAccumulation": 1}),
    ("with-kueue", Stage.TRAIN, TUTORIAL | {"gpus": 8, "gradientAccumulation": 2}),
]  # fmt: skip
"""What a stage is asked for; what stands here is a part of it."""


@pytest.mark.parametrize(("name", "stage", "asked"), REQUESTS, ids=[f"{row[0]}-{row[1]}" for row in REQUESTS])
def test_an_example_asks_a_stage_for_what_its_title_says(name, stage, asked):
    given = surroundings(read_job((FOLDER / "tutorial" / f"{name}.yaml").read_text()))
    request = given.plan.of(stage).request.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert {key: request.get(key) for key in asked} == asked


def surroundings(read: JobFile) -> Surroundings:
    return Surroundings(read.job, make_plan(read.job, read.config_maps), PodSettings())


def training_job(text: str) -> dict:
    """The training's Job, as the operator would make it."""
    given = surroundings(read_job(text))
    return stage_job(given, given.plan.of(Stage.TRAIN))


def gpus(job: dict) -> str:
    """What each of its pods asks for."""
    return job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]


@pytest.mark.parametrize("count", range(1, 9))
def test_the_tutorials_job_takes_one_to_eight_gpus(plane, count):
    body = yaml.safe_load((FOLDER / "tutorial" / "llama3-agent.yaml").read_text())
    body["spec"]["training"]["gpus"] = count
    applied = plane.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body))
    assert applied.returncode == 0, applied.stderr
    assert gpus(training_job(yaml.safe_dump(body))) == str(count)


def test_two_nodes_are_two_pods_of_eight_gpus():
    job = training_job((FOLDER / "tutorial" / "two-nodes.yaml").read_text())
    shape = {name: job["spec"][name] for name in ("completionMode", "completions", "parallelism")}
    assert shape == {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
    assert gpus(job) == "8"


def test_with_kueue_a_stage_waits_in_the_queue_of_its_job():
    job = training_job((FOLDER / "tutorial" / "with-kueue.yaml").read_text())
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert job["spec"]["suspend"] is True


def test_the_job_with_its_own_config_holds_the_file_that_the_train_stage_is_tested_with():
    read = read_job((FOLDER / "own-xtuner-config.yaml").read_text())
    config = (FOLDER / "xtuner" / "smollm2_qlora_agentflan_3e.py").read_text()
    assert read.config_maps == {"xtuner-config": {"config.py": config}}
