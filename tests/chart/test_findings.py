"""kubeconform, kube-score and checkov find nothing in what the chart makes of any of the values."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.chart.helm import read
from tests.chart.job_pods import job_pods
from tests.chart.programs import checkov, program
from tests.chart.schemas import write_schemas
from tests.operator.conftest import wait_for

JUDGED = ("default", "cluster-wide", "everything")
"""Sets of values; `least` switches protections off, which must be found."""
EXCLUDED = {
    # The default names an image by the chart's version: none is published whose digest could stand there.
    "CKV_K8S_43": ("default", "cluster-wide"),
}
"""Findings that are excused, by check, and the sets of values that have them: those without image.digest."""
NAMESPACES_OF_JOBS = ("team-a", "team-b")
KINDS = ("Deployment", "Job", "NetworkPolicy")
"""That kube-score judges."""


def run(*command: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def schemas(plane, manifests, tmp_path_factory):
    folder = tmp_path_factory.mktemp("schemas")
    published = "/openapi/v3/apis/monitoring.coreos.com/v1"
    wait_for(lambda: plane.kubectl("get", "--raw", published).returncode == 0, "PodMonitor's schema")
    write_schemas(plane, folder, {m["apiVersion"] for path in manifests.glob("*.yaml") for m in read(path.read_text())})
    return folder


def conform(schemas, *files) -> dict:
    location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    done = run(program("kubeconform"), "-strict", "-output", "json", "-summary", "-schema-location", location, *files)
    return json.loads(done.stdout)


def test_every_object_is_of_the_api_servers_schemas(manifests, schemas):
    found = conform(schemas, *manifests.glob("*.yaml"))
    assert found["resources"] == []
    objects = sum(len(read(path.read_text())) for path in manifests.glob("*.yaml"))
    assert found["summary"] == {"valid": objects, "invalid": 0, "errors": 0, "skipped": 0}


def test_a_field_that_does_not_exist_would_be_found(manifests, schemas, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((manifests / "default.yaml").read_text().replace("readinessProbe:", "readynessProbe:"))
    (resource,) = conform(schemas, wrong)["resources"]
    assert (resource["kind"], resource["status"]) == ("Deployment", "statusInvalid")


def kube_score(made: list, whole: Path) -> tuple[set, list]:
    """Objects of the chart that were judged, and findings: each its object's kind and the check."""
    # The pods that the policies are for stand beside them, else these would select none.
    beside = [pod for namespace in NAMESPACES_OF_JOBS for pod in job_pods(namespace).values()]
    whole.write_text(yaml.dump_all([*made, *beside], Dumper=yaml.CSafeDumper))
    done = run(program("kube-score"), "score", "--output-format", "json", "--kubernetes-version", "v1.31", whole)
    names = {identity(manifest["kind"], manifest["metadata"]) for manifest in made}
    judged = {identity(row["type_meta"]["kind"], row["object_meta"]): row for row in json.loads(done.stdout)}
    ours = {key: row["checks"] for key, row in judged.items() if key in names}
    bad = [
        (key[0], c["check"]["id"]) for key, rows in ours.items() for c in rows if not c["skipped"] and c["grade"] < 10
    ]
    return set(ours), bad


def identity(kind: str, meta: dict) -> tuple[str, str, str]:
    return kind, meta["name"], meta.get("namespace", "")


@pytest.mark.parametrize("name", JUDGED)
def test_kube_score_finds_nothing(name, manifests, tmp_path):
    made = read((manifests / f"{name}.yaml").read_text())
    judged, findings = kube_score(made, tmp_path / "whole.yaml")
    assert findings == []
    to_be_judged = {identity(m["kind"], m["metadata"]) for m in made if m["kind"] in KINDS}
    assert to_be_judged
    assert to_be_judged <= judged


def test_kube_score_would_find_pods_that_no_policy_fences_in(manifests, tmp_path):
    made = read((manifests / "least.yaml").read_text())
    _, findings = kube_score(made, tmp_path / "whole.yaml")
    assert set(findings) == {("Deployment", "pod-networkpolicy"), ("Job", "pod-networkpolicy")}


def test_checkov_finds_nothing(manifests):
    files = [part for name in JUDGED for part in ("--file", manifests / f"{name}.yaml")]
    done = run(checkov(), "--framework", "kubernetes", "--skip-download", "--output", "json", "--compact", *files)
    report = json.loads(done.stdout)
    assert report["results"]["parsing_errors"] == []
    assert report["summary"]["passed"] > 100
    found = {(row["check_id"], Path(row["file_path"]).stem) for row in report["results"]["failed_checks"]}
    assert found == {(check, name) for check, names in EXCLUDED.items() for name in names}
