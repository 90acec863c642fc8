"""One control plane for all tests of this folder."""

import pytest
from tests.kubernetes.control_plane import ControlPlane

CRD = "crds/finetunejobs.finetune.dev.yaml"


@pytest.fixture(scope="session")
def plane(tmp_path_factory, pytestconfig):
    """A real API server that knows FineTuneJobs."""
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as started:
        applied = started.kubectl("apply", "--server-side", "-f", str(pytestconfig.rootpath / CRD))
        assert applied.returncode == 0, applied.stderr
        waited = started.kubectl("wait", "--for=condition=Established", "crd/finetunejobs.finetune.dev")
        assert waited.returncode == 0, waited.stderr
        yield started
