"""One control plane for all tests of this folder."""

import pytest
from tests.kubernetes.control_plane import ControlPlane

CRD = "crds/finetunejobs.finetune.dev.yaml"


@pytest.fixture(scope="session")
def plane(tmp_path_factory, pytestconfig):
    """A real API server that knows FineTuneJobs."""
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as started:
        started.install(pytestconfig.rootpath / CRD)
        yield started
