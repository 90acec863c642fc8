"""The commands of pages that are marked so do what the page says, one after the other, as they stand there.

No operator runs here: what it would have written into a job's status stands there when the next command asks for it.
"""

import json
import re
import shlex
from datetime import UTC, datetime

import pytest
import yaml
from tests.chart.helm import NAMESPACE, ROOT, environment, helm, only, rendered
from tests.kubernetes.control_plane import ControlPlane
from tests.operator.conftest import wait_for
from tests.pages import PAGES, commands_for

from finetune_jobs.contract import Stage
from finetune_operator.api.status import Condition, DemoStatus, StageState, StageStatus, Status

HERE = "tests/chart/test_docs.py::test_every_command_does_what_the_page_says"
ON_PAGES = {page: found for page in PAGES if (found := commands_for(HERE, page))}

JOB = "smollm2-react"
PRINTING = {"describe", "get", "template"}
"""Verbs whose point is what they print."""
CURE = Condition(
    type="Failed", status="True", observed_generation=1, last_transition_time=datetime(2026, 1, 1, tzinfo=UTC),
    reason="DiskFull", message="The disk is full; use a larger volume.",
)  # fmt: skip
STATUS = Status(
    stage="Ready",
    conditions=(CURE,),
    stages=(StageStatus(name=Stage.MERGE, state=StageState.SUCCEEDED, digest="0123456789abcdef"),),
    demo=DemoStatus(url="http://agent.example.com"),
)
PRINTED = {
    "kubectl get finetunejobs": [JOB, STATUS.stage, STATUS.demo.url],
    f"kubectl describe finetunejob {JOB}": [CURE.type, CURE.reason, CURE.message],
    f"kubectl get finetunejob {JOB} --output 'jsonpath={{.status.demo.url}}'": [STATUS.demo.url],
    f"kubectl get finetunejob {JOB} --output 'jsonpath={{.status.stages[?(@.name==\"merge\")].digest}}'": [
        STATUS.stages[0].digest
    ],
    "kubectl get persistentvolumeclaims": ["react-data"],
}
"""What the page sends its reader to a command for."""


def tell(plane: ControlPlane) -> None:
    """Write the status, in the operator's own types, of the page's job where it is there."""
    patch = json.dumps({"status": STATUS.model_dump(mode="json", by_alias=True, exclude_none=True)})
    told = plane.kubectl("patch", "finetunejob", JOB, "--subresource=status", "--type=merge", f"--patch={patch}")
    assert told.returncode == 0, told.stderr


def clear(plane: ControlPlane) -> None:
    """Of what other tests' releases and other pages have left."""
    helm("uninstall", "finetune-operator", "-n", NAMESPACE, "--ignore-not-found", kubeconfig=plane.kubeconfig)
    for left in (("finetunejobs", "--all", "--all-namespaces"), ("crd", "finetunejobs.finetune.dev")):
        plane.kubectl("delete", *left)
    for namespace in ("team-a", "team-b"):
        plane.kubectl("delete", "namespace", namespace)


@pytest.fixture
def bare(plane):
    clear(plane)
    yield plane
    clear(plane)


VALUES = [
    (page, text)
    for page in PAGES
    for text in re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    if "trainerImage" in text
]


@pytest.mark.parametrize(("page", "text"), VALUES)
def test_the_values_that_a_page_shows_say_where_all_three_images_are(page, text, tmp_path):
    (tmp_path / "values.yaml").write_text(text)
    manifests = rendered("--values", str(tmp_path / "values.yaml"))
    said, registry = environment(manifests), yaml.safe_load(text)["image"]["registry"]
    deployed = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
    images = [deployed, said["FINETUNE_POD_TRAINER_IMAGE"], said["FINETUNE_POD_DEMO_IMAGE"]]
    assert images == [f"{registry}/finetune-{name}:0.1.0" for name in ("operator", "trainer", "demo")]


@pytest.mark.parametrize("page", ON_PAGES)
def test_every_command_does_what_the_page_says(page, bare, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in ON_PAGES[page]:
        program, *arguments = shlex.split(command)
        run = {"helm": lambda *a: helm(*a, kubeconfig=bare.kubeconfig), "kubectl": bare.kubectl}[program]
        done = run(*arguments)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        if PRINTING & set(arguments):
            assert done.stdout, command
        assert [text for text in PRINTED.get(command, ()) if text not in done.stdout] == [], command
        if arguments[0] == "install":
            wait_for(lambda: bare.kubectl("get", "finetunejobs").returncode == 0, "the definition to be served")
        if command.endswith(f"{JOB}.yaml"):
            tell(bare)
    defined = bare.kubectl("get", "crd", "finetunejobs.finetune.dev").returncode == 0
    assert defined is ("kubectl delete crd finetunejobs.finetune.dev" not in ON_PAGES[page])


def test_what_a_command_is_to_print_stands_on_a_page():
    assert PRINTED.keys() <= {command for found in ON_PAGES.values() for command in found}
