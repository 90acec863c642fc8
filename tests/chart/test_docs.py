"""The commands of pages that are marked so do what the page says, one after the other, as they stand there."""

import re
import shlex

import pytest
import yaml
from tests.chart.helm import NAMESPACE, ROOT, environment, helm, only, rendered
from tests.kubernetes.control_plane import ControlPlane
from tests.operator.conftest import wait_for
from tests.pages import PAGES, commands_for

HERE = "tests/chart/test_docs.py::test_every_command_does_what_the_page_says"
ON_PAGES = {page: found for page in PAGES if (found := commands_for(HERE, page))}


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
        if arguments[0] == "install":
            wait_for(lambda: bare.kubectl("get", "finetunejobs").returncode == 0, "the definition to be served")
    defined = bare.kubectl("get", "crd", "finetunejobs.finetune.dev").returncode == 0
    assert defined is ("kubectl delete crd finetunejobs.finetune.dev" not in ON_PAGES[page])
