"""What users get wrong, in pods: each ends in a condition with its cure, without a storm of pods."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.agent import pods_of_stages
from tests.cluster.kube import Job, Object, condition, stage
from tests.cluster.specs import CLAIM, FEW, config_map, example, rows, shelve
from tests.kubernetes.node import wait_for

pytestmark = pytest.mark.timeout(1800)  # the first test waits for the images
SPACE = "mistakes"
SMALL = 64
"""MiB of the volume that is too small."""


@dataclass(frozen=True)
class Mistake:
    """One change of a good job, and what its condition says."""

    change: Object
    reason: str
    cure: str
    pods: int = 1
    """Pods that it takes at most: a full disk is tried again, and what the operator itself finds needs none."""


MISTAKES = {
    "no-weights": Mistake(
        {"model": {"volume": {"claimName": CLAIM, "path": "no-weights"}}},
        "WeightsMissing",
        "Name the repository or folder that directly holds the model's files",
    ),
    "wrong-template": Mistake({"dataset__template": "llama3_chat"}, "TemplateUnfit", "qwen_chat"),
    "broken-rows": Mistake(
        {"dataset__volume": {"claimName": CLAIM, "path": "broken"}}, "BrokenJson", "Correct these lines"
    ),
    "broken-config": Mistake(
        {"training": {"config": {"configMapKeyRef": {"name": "xtuner", "key": "config.py"}}}},
        "SpecUnusable",
        "was never closed in line 2; correct that line",
        pods=0,
    ),
    "no-secret": Mistake(
        {"model": {"huggingFace": {"repo": "org/model", "tokenSecretRef": {"name": "absent", "key": "token"}}}},
        "TokenMissing",
        "Make the Secret with that key",
    ),
    "small-volume": Mistake({"storage": {"claimName": "small"}}, "DiskFull", "use a larger volume", pods=3),
}
DONE = {"Succeeded", "Reused"}
LATE = ("wrong-template", "broken-rows")
"""Those that come as far as a finished model."""
OWN_NODE = "small-volume"
"""Its volume is mounted by hand."""


@pytest.fixture(scope="module")
def small_volume(cluster, node) -> None:
    """A claim on a file system of its own."""
    folder = node / "small"
    folder.mkdir(exist_ok=True)
    inside = ["nsenter", "--mount", "--target", first_process(node)]
    subprocess.run([*inside, "mount", "-t", "tmpfs", "-o", f"size={SMALL}m,mode=0777", "small", folder], check=True)
    size = {"storage": f"{SMALL}Mi"}
    volume = {
        "accessModes": ["ReadWriteOnce"], "capacity": size, "storageClassName": "",
        "hostPath": {"path": str(folder)}, "claimRef": {"name": "small", "namespace": SPACE},
    }  # fmt: skip
    claim = {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": size}, "storageClassName": "",
        "volumeName": "small",
    }  # fmt: skip
    cluster.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "small"}, "spec": volume},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "small", "namespace": SPACE},
            "spec": claim,
        },
    )


def first_process(node: Path) -> str:
    """The process in whose namespaces the node lives."""
    pid = (node / "pid").read_text()
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]


@pytest.fixture(scope="module")
def namespace(cluster, release) -> str:
    cluster.namespace(SPACE)
    broken = '{"conversation": [\n' * 20
    files = {"no-weights/config.json": "{}\n", "broken/rows.jsonl": broken, "good/rows.jsonl": rows(FEW)}
    shelve(cluster, SPACE, files)
    config = config_map("xtuner", {"config.py": "epochs = 1\nmodel = dict(\n"})
    config["metadata"]["namespace"] = SPACE
    cluster.apply(config)
    return SPACE


@pytest.fixture(scope="module")
def mistaken(cluster, namespace, index_url, request) -> dict[str, Job]:
    """All of them at once; those that come as far share one model."""
    if cluster.folder is not None:
        request.getfixturevalue("small_volume")
    shared = {"storage": {"claimName": CLAIM}, "dataset__volume": {"claimName": CLAIM, "path": "good"}}
    jobs = {}
    for name, mistake in MISTAKES.items():
        if name == OWN_NODE and cluster.folder is None:
            continue
        jobs[name] = Job(cluster, namespace, name).submit(example(index_url, **(shared | mistake.change)))
    return jobs


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_in_a_condition_with_its_cure(mistaken, name):
    if name not in mistaken:
        pytest.skip("needs the test cluster's own node")
    mistake, job = MISTAKES[name], mistaken[name]
    failed = job.until_failed()
    assert failed["reason"] == mistake.reason, failed
    assert mistake.cure in failed["message"]
    failures = [row for row in job.status.get("stages", ()) if row["state"] == "Failed"]
    assert bool(failures) == bool(mistake.pods)
    for row in failures:
        assert row["attempts"] <= mistake.pods


def test_no_mistake_has_made_a_storm_of_pods(mistaken):
    """Looked at when all have failed: by then the first of them would have gone on for long."""
    for job in mistaken.values():
        job.until_failed()
    for name, job in mistaken.items():
        done = {row["name"] for row in job.status.get("stages", ()) if row["state"] in DONE}
        pods = pods_of_stages(job)
        assert all(pods[finished] <= 1 for finished in done), (name, pods)
        assert sum(pods.values()) - sum(pods[finished] for finished in done) <= MISTAKES[name].pods, (name, pods)


@pytest.mark.parametrize("name", LATE)
def test_what_was_finished_before_a_mistake_stays(mistaken, name):
    job = mistaken[name]
    job.until_failed()
    assert stage(job.status, "model")["state"] in DONE
    if folder := job.folder("model"):
        assert (folder / "result.json").is_file()
        assert list(folder.glob("model/*.safetensors"))


def test_a_job_whose_mistake_is_corrected_goes_on_with_what_was_finished(mistaken):
    job = mistaken["wrong-template"]
    job.until_failed()
    model, pods = stage(job.status, "model"), job.pods("model")
    template = example()["dataset"]["template"]
    # The training that follows would take a minute to end: it waits for a node that there isn't.
    job.edit(dataset={"template": template}, stages={"train": {"nodeSelector": {"is": "nowhere"}}})
    wait_for(lambda: condition(job.status, "Failed").get("status") != "True", "the edit is seen")
    job.until_stage("dataset", "Succeeded")
    assert stage(job.status, "model") == model
    assert job.pods("model") == pods
    job.delete()
