"""helm and kubectl as a user of the chart runs them."""

import functools
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml
from tests.chart.programs import program

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "charts" / "finetune-operator"
RELEASE, NAMESPACE = "finetune-operator", "finetune-system"
Manifest = dict[str, Any]


def helm(*arguments: str, kubeconfig: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Against the given cluster or none at all; the caller looks at the code."""
    cluster = {"KUBECONFIG": str(kubeconfig or os.devnull)}
    return subprocess.run(
        [str(program("helm")), *arguments],
        env={**os.environ, **cluster},
        capture_output=True,
        text=True,
        check=False,
    )


def said(*values: str) -> list[str]:
    """Of `key=value` in JSON: the arguments that set them."""
    return [part for value in values for part in ("--set-json", value)]


@functools.cache
def template(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *arguments)


def rendered(*arguments: str) -> list[Manifest]:
    """The chart's objects, hooks included."""
    done = template(*arguments)
    assert done.returncode == 0, done.stderr
    return read(done.stdout)


def read(text: str) -> list[Manifest]:
    """Objects of YAML; by libyaml, since the definition's two thousand lines are read often."""
    return [manifest for manifest in yaml.load_all(text, Loader=yaml.CSafeLoader) if manifest]


def only(manifests: list[Manifest], kind: str, name: str = "", namespace: str = "") -> Manifest:
    """The one object of a kind."""
    (found,) = of_kind(manifests, kind, name, namespace)
    return found


def of_kind(manifests: list[Manifest], kind: str, name: str = "", namespace: str = "") -> list[Manifest]:
    return [
        manifest
        for manifest in manifests
        if manifest["kind"] == kind
        and name in ("", manifest["metadata"]["name"])
        and namespace in ("", manifest["metadata"].get("namespace"))
    ]


def environment(manifests: list[Manifest]) -> dict[str, str]:
    """What the operator's container is told, as it would see it."""
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    fields = {"metadata.namespace": NAMESPACE, "metadata.name": "operator-pod"}
    return {
        row["name"]: fields[row["valueFrom"]["fieldRef"]["fieldPath"]] if "valueFrom" in row else row.get("value", "")
        for row in pod["containers"][0]["env"]
    }
