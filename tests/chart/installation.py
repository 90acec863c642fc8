"""An operator as a process with what the chart gave it and nothing else: its service account and its settings."""

from pathlib import Path
from typing import Any

import yaml
from tests.chart.helm import NAMESPACE, environment
from tests.kubernetes.control_plane import CONTEXT
from tests.operator.conftest import Cluster
from tests.operator.process import OperatorProcess


def account_kubeconfig(cluster: Cluster, account: str, path: Path) -> Path:
    """For a service account of the chart, by a token that the API server gives out for it."""
    token = cluster.kubectl("-n", NAMESPACE, "create", "token", account, "--duration=1h").strip()
    config: dict[str, Any] = yaml.safe_load(cluster.plane.kubeconfig.read_text())
    config["users"] = [{"name": CONTEXT, "user": {"token": token}}]
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    return path


def told(cluster: Cluster, deployment: str) -> dict[str, str]:
    """The settings of the Deployment that is installed."""
    return environment([cluster.get("deployment", deployment, "-n", NAMESPACE)])


def operator_of(cluster: Cluster, release: str, folder: Path) -> OperatorProcess:
    """What kubelet would start for the release; as a context."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = told(cluster, release)
    for own in ("FINETUNE_PORT", "FINETUNE_IDENTITY"):  # several may run on this machine
        settings.pop(own)
    return OperatorProcess(account_kubeconfig(cluster, release, folder / "kubeconfig"), folder, **settings)
