"""The API server and the pydantic models agree: the same jobs are taken, the same are refused with a cure."""

import json
import re

import pytest
import yaml
from tests.api.conftest import CRD
from tests.specs import JOB, WRONG, changed

LOCAL_ONLY = ("apiVersion", "this is not YAML", "kind:", "stands twice")
"""Answered by kubectl before the API server sees an object of ours."""
AT_THE_SERVER = [case for case in WRONG if not case[2].startswith(LOCAL_ONLY) and "stands twice" not in case[2]]


def dry_run(plane, text: str):
    return plane.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)


def test_a_good_job_is_taken(plane):
    answer = dry_run(plane, JOB)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(("old", "new", "expected"), AT_THE_SERVER, ids=[w[2][:40] for w in AT_THE_SERVER])
def test_what_the_models_refuse_the_api_server_refuses(plane, old, new, expected):
    answer = dry_run(plane, changed(old, new))
    assert answer.returncode != 0, answer.stdout


CURES = [
    ('"1e-3"', '"2"', 'write a learning rate above 0 and at most "0.1" as a string'),
    ('"1e-3"', '"fast"', 'write a number of zero or more as a string, such as "0.1" or "2e-4"'),
    ("{pypi: {", "{git: {url: https://example.com/m}, pypi: {", "exactly one of .* write one and leave the others out"),
    ("name: react}", f"name: {'a' * 41}}}", "write a name of at most 40 characters"),
    ('learningRate: "1e-3"', "nodes: 2", "write storage.accessModes: .ReadWriteMany. or storage.claimName"),
    ('"1e-3"', '"1e-3"\n    config: {configMapKeyRef: {name: c, key: k}}', "leave out .* write them in the config"),
    ("spec:\n", "spec:\n  storage: {size: 1Gi, claimName: a}\n", "beside claimName leave out size"),
    (
        '"1e-3"',
        '"1e-3"\n    quantization: none\n  merge: {baseWeights: nf4}',
        "unquantised .* leave out merge.baseWeights",
    ),
    ('"1e-3"', '"1e-3"\n    fp8: true\n    deepspeed: zero3', "leave out fp8, or else fast: false"),
    (
        '"1e-3"',
        '"1e-3"\n  stages: {merge: {resources: {requests: {nvidia.com/gpu: 500m}}}}',
        "devices, such as nvidia.com/gpu, can't be shared; write a whole number",
    ),
    (
        "spec:\n",
        "spec:\n  demo: {tools: [ArxivSearch, a-b]}\n",
        'tools.1.: Unsupported value: "a-b": supported values: "ArxivSearch", "Calculator"',
    ),
    (
        '"1e-3"',
        '"1e-3"\n  stages: {merge: {resources: {requests: {cpu: many}}}}',
        r'requests\[cpu\]: .*write a number with a unit or without, such as "500m"',
    ),
    (
        '"1e-3"',
        '"1e-3"\n  stages: {merge: {tolerations: [{key: gpu, operator: Exists, value: a}]}}',
        r"tolerations\[0\]: .*operator: Exists compares no value; leave out value",
    ),
    (
        '"1e-3"',
        '"1e-3"\n  stages: {merge: {nodeSelector: {a b: c}}}',
        "merge.nodeSelector: .*write a key of .* such as nvidia.com/gpu.present",
    ),
    ("claimName: react-data", "claimName: React_Data", "claimName: .*write lower-case letters, .* such as react-data"),
    ("spec:\n", "spec:\n  evaluation: {minimumValidCalls: '1.5'}\n", 'write a fraction between "0" and "1"'),
]


@pytest.mark.parametrize(("old", "new", "cure"), CURES, ids=[c[2][:40] for c in CURES])
def test_the_refusal_says_what_to_write_instead(plane, old, new, cure):
    assert re.search(cure, dry_run(plane, changed(old, new)).stderr)


KEPT = "write a new FineTuneJob to use another workspace"
NEW, OWN = {"size": "100Gi"}, {"claimName": "mine"}
STORAGES = [
    (None, NEW, ""),
    (None, {"size": "1Ti", "accessModes": ["ReadWriteOnce"], "reclaimPolicy": "Delete"}, ""),
    (NEW, None, ""),
    (NEW, {"size": "200Gi"}, ""),
    (OWN, OWN | {"reclaimPolicy": "Delete"}, ""),
    (None, OWN, KEPT),
    (OWN, None, KEPT),
    (NEW, OWN, KEPT),
    (OWN, {"claimName": "other"}, KEPT),
    (None, NEW | {"storageClassName": "fast"}, KEPT),
    (NEW, NEW | {"accessModes": ["ReadWriteMany"]}, KEPT),
    (NEW | {"storageClassName": "fast"}, NEW, KEPT),
]
STARTED = '{"status": {"stages": [{"name": "model", "state": "Running", "digest": "d"}]}}'


@pytest.mark.parametrize(("before", "after", "refusal"), STORAGES)
def test_storage_stays_once_a_stage_has_written_to_it_but_for_its_size(plane, before, after, refusal):
    document = yaml.safe_load(JOB.replace("name: react}", "name: stays}"))
    plane.kubectl("delete", "ftj", "stays", "--ignore-not-found")
    storage = {"storage": before} if before else {}
    stored = json.dumps(document | {"spec": document["spec"] | storage})
    assert plane.kubectl("apply", "-f", "-", stdin=stored).returncode == 0
    assert plane.kubectl("patch", "ftj", "stays", "--subresource=status", "--type=merge", "-p", STARTED).returncode == 0
    whole = json.dumps([{"op": "add", "path": "/spec/storage", "value": after} if after else
                        {"op": "remove", "path": "/spec/storage"}])  # fmt: skip
    answer = plane.kubectl("patch", "ftj", "stays", "--type=json", "-p", whole)
    assert (answer.returncode == 0, refusal in answer.stderr) == (not refusal, True)


def stage(name, state, reason="", attempts=1):
    return {"name": name, "state": state, "reason": reason, "attempts": attempts, "digest": "d"}


LATER = stage("dataset", "Pending", attempts=0)
# How the stages stand -> whether storage may still be edited.
STANDINGS = [
    ([], True),
    ([stage("model", "Suspended", attempts=0), LATER], True),
    ([stage("model", "Waiting", attempts=0), LATER], True),
    ([stage("model", "Running", "WorkspaceUnbound"), LATER], True),
    ([stage("model", "Running", "ClaimMissing"), LATER], True),
    ([stage("model", "Running", "Started"), LATER], False),
    ([stage("model", "Suspended"), LATER], False),
    ([stage("model", "Pending"), LATER], False),
    ([stage("model", "Reused", attempts=0), LATER], False),
    ([stage("model", "Succeeded"), stage("dataset", "Running", "ClaimMissing")], False),
]


@pytest.mark.parametrize(("stages", "free"), STANDINGS)
def test_storage_may_be_corrected_until_a_stage_has_written_to_it(plane, stages, free):
    plane.kubectl("delete", "ftj", "moves", "--ignore-not-found")
    assert plane.kubectl("apply", "-f", "-", stdin=JOB.replace("name: react}", "name: moves}")).returncode == 0
    status = json.dumps({"status": {"stages": stages}})
    assert plane.kubectl("patch", "ftj", "moves", "--subresource=status", "--type=merge", "-p", status).returncode == 0
    moved = '{"spec": {"storage": {"claimName": "other"}}}'
    assert (plane.kubectl("patch", "ftj", "moves", "--type=merge", "-p", moved).returncode == 0) is free


def undescribed(schema, path):
    for name, field in schema.get("properties", {}).items():
        if not field.get("description", "").strip():
            yield f"{path}.{name}"
        yield from undescribed(field, f"{path}.{name}")
    if "items" in schema:
        yield from undescribed(schema["items"], f"{path}[]")


def test_every_field_has_a_description(pytestconfig):
    crd = yaml.safe_load((pytestconfig.rootpath / CRD).read_text())
    whole = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    assert [*undescribed(whole["spec"], "spec"), *undescribed(whole["status"], "status")] == []


def test_a_field_explains_itself(plane):
    explained = plane.kubectl("explain", "finetunejob.spec", "--recursive").stdout
    assert "minimumValidCalls" in explained
    text = plane.kubectl("explain", "finetunejob.spec.evaluation.minimumValidCalls").stdout
    assert "the demo stays on the last good model" in " ".join(text.split())


def test_the_columns_are_the_promised_ones(plane):
    shown = plane.kubectl("get", "ftj", "-o", "wide").stdout
    if not shown:
        plane.kubectl("apply", "-f", "-", stdin=JOB)
        shown = plane.kubectl("get", "ftj", "-o", "wide").stdout
    columns = shown.splitlines()[0].split()
    assert columns == [
        "NAME", "STAGE", "PROGRESS", "LOSS", "ETA", "GPUS", "DEMO", "AGE", "MODEL", "TOKENS/S", "VALID-CALLS",
    ]  # fmt: skip
