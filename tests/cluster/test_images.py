"""The images that the other tests run: who they say they are, whom they run as, and what is not in them."""

import json
import runpy
from typing import Any

import pytest
from tests.cluster.kube import Cluster, Object
from tests.cluster.specs import ROOT, image

pytestmark = [
    pytest.mark.timeout(1800),  # the first test waits for the images
    pytest.mark.usefixtures("node", "release"),  # another cluster's images are its owner's affair
]
SPACE = "images"
CPP, C = ("g++", "c++", "ninja"), ("gcc", "cc")
HAS_NOT = {
    "operator": (*CPP, *C, "git", "pip"),
    "demo": (*CPP, *C, "git", "pip"),
    "trainer": CPP,
}
"""Image -> programs that are not in it."""
LOOK = """
import importlib.util, os, shutil, sys
packages = {"pip", "ninja"}  # Python could run these too
found = [name for name in sys.argv[1:] if shutil.which(name) or name in packages and importlib.util.find_spec(name)]
with open("/dev/termination-log", "w") as told:
    print(os.getuid(), os.getgid(), *found, file=told)
"""


def configuration(name: str) -> dict[str, Any]:
    """What the engine that built the image says of it."""
    builder = runpy.run_path(str(ROOT / "images" / "build.py"))
    told = json.loads(builder["output"](builder["engine"](), "inspect", "--type", "image", image(name)))
    found: dict[str, Any] = told["OCIv1"]["config"] if isinstance(told, dict) else told[0]["Config"]
    return found


@pytest.mark.parametrize("name", HAS_NOT)
def test_an_image_says_what_it_is(name):
    labels = configuration(name)["Labels"]
    told = {key.removeprefix("org.opencontainers.image."): value for key, value in labels.items()}
    assert told["title"] == f"finetune-{name}"
    assert told["version"] == image(name).rpartition(":")[2]
    assert told["licenses"] == "Apache-2.0"
    assert told["description"]
    assert len(bytes.fromhex(told["revision"])) == 20, "a commit"


def pod(name: str) -> Object:
    """One that looks around in an image, as the user that the image names."""
    own = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "look", "image": image(name), "imagePullPolicy": "Never", "securityContext": own,
            "command": ["python", "-c", LOOK, *HAS_NOT[name]],
        }],
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SPACE}, "spec": spec}


@pytest.fixture(scope="module")
def looking(cluster) -> Cluster:
    cluster.namespace(SPACE)
    cluster.apply(*map(pod, HAS_NOT))
    return cluster


@pytest.mark.parametrize("name", HAS_NOT)
def test_an_image_runs_as_nobody_special_and_has_no_tool_that_it_does_not_need(looking, name):
    assert configuration(name)["User"] == "10001:10001"
    looking.wait("jsonpath={.status.phase}=Succeeded", f"pod/{name}", SPACE)
    ended = looking.get("pod", name, "-n", SPACE)["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["message"].split() == ["10001", "10001"], "beside them stands what it should not have"
