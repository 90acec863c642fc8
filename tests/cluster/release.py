"""The operator on the cluster: images that this checkout made, installed by its chart."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from tests.chart.helm import CHART, NAMESPACE, RELEASE, helm, said
from tests.cluster.kube import Cluster, Object
from tests.cluster.specs import REGISTRY
from tests.kubernetes.node import ADDRESS, PORT

OPERATOR = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component!=test"
LEASE = {"leaseSeconds": 4, "leaseRenew": 3, "leaseRetry": 1}
"""An operator that is killed is followed by the next one within seconds."""


def run_image_builder(*arguments: str) -> subprocess.CompletedProcess:
    base = {"BASE_IMAGE": os.environ.get("BASE_IMAGE", "mmdebstrap")}
    command = [sys.executable, "images/build.py", *arguments]
    return subprocess.run(command, check=False, env={**os.environ, **base}, capture_output=True, text=True)


def build_images(cluster: Cluster) -> None:
    """All three, into the test cluster."""
    done = run_image_builder("--cluster", str(cluster.folder))
    if done.returncode:
        free = shutil.disk_usage("/var").free / 1e9
        pytest.exit(f"no images, with {free:.0f} GB free on the disk: {done.stderr[-3000:]}", returncode=1)


def fence(index_url: str) -> Object:
    """Values of networkPolicy that open what a job on the test cluster needs, and nothing else.

    Names, the API server and the Ingress controller have the node's address, for none of them is a pod.
    """
    node, host, port = block(ADDRESS), block(urlsplit(index_url).hostname), urlsplit(index_url).port
    return {
        "apiServer": {"to": [node], "ports": [PORT]},
        "dns": {"to": [node]},
        "sources": {"to": [host], "ports": [port]},
        "demo": {"from": [node]},
    }


def block(address: str | None) -> Object:
    return {"ipBlock": {"cidr": f"{address}/32"}}


def values(namespace: str, index_url: str | None) -> list[str]:
    """Arguments of helm: images that are there already, quick reports, a namespace that is fenced in."""
    image, pulled = {"registry": REGISTRY}, "Never" if REGISTRY == "localhost" else "IfNotPresent"
    settings: Object = {
        "image": image | {"pullPolicy": pulled},
        "jobs": {"trainerImage": image, "demoImage": image, "pullPolicy": pulled, "progressEvery": 1},
        "operator": LEASE,
        "networkPolicy": {"jobNamespaces": [namespace]} | (fence(index_url) if index_url else {}),
    }
    return said(*(f"{key}={json.dumps(value)}" for key, value in settings.items()))


@dataclass(frozen=True)
class Release:
    """The chart's release, and the operator's pod of the moment."""

    cluster: Cluster
    values: tuple[str, ...]

    def helm(self, verb: str, *arguments: str) -> str:
        where = ["--namespace", NAMESPACE, "--kube-context", self.cluster.context]
        done = helm(verb, RELEASE, *arguments, *where, kubeconfig=self.cluster.kubeconfig)
        assert done.returncode == 0, f"{done.stderr}\n{self.told()}"
        return done.stdout

    def told(self) -> str:
        """What the cluster says of the operator's pods, for whom a test failed."""
        return self.cluster.kubectl("-n", NAMESPACE, "describe", "pods", ok=False)[-4000:]

    def install(self, *more: str) -> None:
        """Install it, or upgrade what is installed. Images that were just brought in keep the disk busy for minutes."""
        options = ["--install", "--create-namespace", "--wait", "--timeout", "10m"]
        self.helm("upgrade", str(CHART), *options, *self.values, *more)

    def pods(self) -> list[Object]:
        found: list[Object] = self.cluster.get("pods", "-n", NAMESPACE, "-l", OPERATOR)["items"]
        return found

    def kill(self) -> str:
        """The operator's process is gone at once; the Deployment makes another pod. The uid of the one that was."""
        (pod,) = (pod["metadata"] for pod in self.pods())
        now = ["--grace-period=0", "--force", "--wait=false"]
        self.cluster.kubectl("delete", "pod", pod["name"], "-n", NAMESPACE, *now)
        return str(pod["uid"])
