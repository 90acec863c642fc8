"""The chart with several values, and a control plane to install it on."""

from pathlib import Path

import pytest
import yaml
from tests.chart.helm import rendered
from tests.chart.programs import pod_monitor
from tests.kubernetes.control_plane import ControlPlane
from tests.operator.conftest import Cluster
from tests.operator.player import Player

VALUES = Path(__file__).parent / "cases"
CASES = ("default", *sorted(path.stem for path in VALUES.glob("*.yaml")))


def arguments_of(case: str) -> list[str]:
    return [] if case == "default" else ["--values", str(VALUES / f"{case}.yaml")]


@pytest.fixture(scope="session", params=CASES)
def case(request):
    """A set of values and what the chart makes of it."""
    return request.param, rendered(*arguments_of(request.param))


@pytest.fixture(scope="session")
def manifests(tmp_path_factory):
    """A file for each set of values, for the programs that judge files."""
    folder = tmp_path_factory.mktemp("manifests")
    for name in CASES:
        (folder / f"{name}.yaml").write_text(yaml.dump_all(rendered(*arguments_of(name)), Dumper=yaml.CSafeDumper))
    return folder


@pytest.fixture(scope="session")
def plane(tmp_path_factory):
    """A real API server that knows PodMonitors, and nothing of ours."""
    with ControlPlane(tmp_path_factory.mktemp("chart-control-plane")) as started:
        started.install(pod_monitor())
        yield started


@pytest.fixture(scope="session")
def cluster(plane):
    return Cluster(plane)


@pytest.fixture(scope="session")
def player(plane):
    with Player(plane) as playing:
        yield playing
