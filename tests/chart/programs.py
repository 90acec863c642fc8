"""The programs that judge and install the chart. Each is pinned, made once and kept in $FINETUNE_TEST_CACHE."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from tests.programs import alone, build, cache, go

HERE = Path(__file__).parent
PINS = HERE / "pins"
CHECKOV = HERE.parent.parent / "requirements" / "checkov.txt"
PACKAGES = {
    "helm": ("helm.sh/helm/v4/cmd/helm", PINS / "helm"),
    "kubeconform": ("github.com/yannh/kubeconform/cmd/kubeconform", PINS / "linters"),
    "kube-score": ("github.com/zegl/kube-score/cmd/kube-score", PINS / "linters"),
}
"""Package and the folder of the go.mod that pins it."""
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator"
POD_MONITOR = "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"


def program(name: str) -> Path:
    """Another pin makes another file."""
    package, pins = PACKAGES[name]
    kept = cache() / f"chart-{digest(pins / 'go.sum')}" / name
    if not kept.exists():
        build(package, pins, kept)
    return kept


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def checkov() -> Path:
    """In an environment of its own: what it needs is not what we need."""
    folder = cache() / f"checkov-{digest(CHECKOV)}"
    whole, uv = folder.with_suffix(".whole"), Path(sys.executable).with_name("uv")
    with alone(whole) as missing:
        if missing:
            python = str(folder / "bin" / "python")
            pinned = ["--quiet", "--require-hashes", "--no-deps", "-r", str(CHECKOV)]
            subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
            subprocess.run([uv, "pip", "install", "--python", python, *pinned], check=True)
            whole.touch()
    return folder / "bin" / "checkov"


def pod_monitor() -> Path:
    """The Prometheus operator's definition of a PodMonitor."""
    module = json.loads(go(PINS / "podmonitor", "mod", "download", "-json", PROMETHEUS_OPERATOR))
    return Path(module["Dir"]) / POD_MONITOR
