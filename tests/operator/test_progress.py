"""A stage tells its progress with its own pod's token, and may do nothing else with it."""

import json
import shutil
from urllib.parse import urlparse

import pytest
from tests.operator.conftest import LIFE, wait_for
from tests.operator.player import GOOD, RUNS

from finetune_jobs.telling import Teller

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def told(cluster, plane, player, tmp_path):
    """A running training's folder and the teller of its pod."""
    player.script = lambda _job, stage, _count: RUNS if stage == "train" else GOOD
    cluster.submit(LIFE, "teller")
    train = cluster.wait_state(LIFE, "teller", "train", "Running")
    (tmp_path / "token").write_text(cluster.kubectl("-n", LIFE, "create", "token", "teller-progress"))
    shutil.copy(plane.folder / "certificates" / "apiserver.crt", tmp_path / "ca.crt")
    where = urlparse(plane.url)
    environ = {"KUBERNETES_SERVICE_HOST": where.hostname, "KUBERNETES_SERVICE_PORT": str(where.port)}
    return Teller(tmp_path, train["digest"], f"{LIFE}/teller-progress", environ, credentials=tmp_path)


def test_a_stages_progress_reaches_the_jobs_status(cluster, told):
    progress = {"step": 9, "totalSteps": 90, "loss": 0.75, "updatedAt": "2026-01-01T00:00:00Z"}
    (told.folder / "progress.json").write_text(json.dumps(progress))
    points = [json.dumps({"step": n, "loss": 2.0 - n / 100, "learningRate": 1e-3}) for n in range(1, 121)]
    (told.folder / "curve.jsonl").write_text("".join(f"{point}\n" for point in points))
    told.tell()
    wait_for(lambda: cluster.status(LIFE, "teller").get("training", {}).get("step") == 9)
    status = cluster.status(LIFE, "teller")
    assert status["progress"] == "10%"
    assert len(status["training"]["curve"]) == 60
    assert status["training"]["curve"][-1]["step"] == 120


def test_its_token_is_good_for_nothing_else(cluster, plane, told):
    token = (told.credentials / "token").read_text()
    asked = ["--server", plane.url, "--certificate-authority", str(told.credentials / "ca.crt"), "--token", token]
    answer = plane.kubectl("--kubeconfig=/dev/null", "--context=", *asked, "-n", LIFE, "get", "secrets")
    assert answer.returncode != 0
    assert "forbidden" in answer.stderr.lower()


def test_an_api_server_that_is_away_never_fails_the_stage(told, caplog):
    (told.folder / "progress.json").write_text('{"step": 1}')
    told.environ = {}
    told.tell()
    assert "the progress can't be told" in caplog.text
