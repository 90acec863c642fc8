"""Takes the snapshot: one job for each way in which a job can stand when its operator is replaced."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from tests.kubernetes.control_plane import ControlPlane
from tests.operator.conftest import ROOT, Cluster, wait_for
from tests.operator.player import GOOD, RUNS, Player, mistake
from tests.operator.process import OperatorProcess
from tests.operator.snapshot import CRD, NAMESPACE, OBJECTS, objects

ACTS = {("training", "train"): RUNS, ("paused", "train"): RUNS, ("failed", "dataset"): mistake("NoSuchFile")}


def take(folder: Path) -> None:
    crd = ROOT / "crds" / "finetunejobs.finetune.dev.yaml"
    with ControlPlane(folder) as plane, Player(plane) as player:
        cluster = Cluster(plane)
        plane.install(crd)
        for name in ("finetune-system", NAMESPACE):
            cluster.namespace(name)
        player.script = lambda job, stage, _count: ACTS.get((job, stage), GOOD)
        with OperatorProcess(plane.kubeconfig, folder, NAMESPACE):
            cluster.submit(NAMESPACE, "done")
            cluster.submit(NAMESPACE, "training")
            cluster.submit(NAMESPACE, "paused")
            cluster.submit(NAMESPACE, "failed")
            cluster.submit(NAMESPACE, "queued", queueName="gpus")
            cluster.wait(NAMESPACE, "done")
            cluster.wait(NAMESPACE, "failed", "Failed")
            cluster.wait_state(NAMESPACE, "queued", "model", "Queued")
            for name in ("training", "paused"):
                cluster.wait_state(NAMESPACE, name, "train", "Running")
            cluster.edit(NAMESPACE, "paused", suspend=True)
            cluster.wait_state(NAMESPACE, "paused", "train", "Suspended")
            wait_for(lambda: not cluster.pods(NAMESPACE, "paused", "train"))
        OBJECTS.write_text(yaml.safe_dump(objects(cluster), sort_keys=False, width=120))
    shutil.copy(crd, CRD)


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        take(Path(scratch))
