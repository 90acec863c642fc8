"""A real etcd, kube-apiserver and kube-controller-manager on loopback, for tests: no kubelet, so no pod ever runs.

    python -m tests.kubernetes.control_plane FOLDER     # until Ctrl-C; prints the kubeconfig's path

``programs`` builds what is missing, once (about seven minutes on two cores); ``node`` makes a whole cluster of it.
"""

import os
import secrets
import signal
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.error import URLError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import yaml
from tests.kubernetes.programs import program
from tests.ports import free_port

HERE = Path(__file__).parent
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
CONTEXT = "finetune-operator-tests"
"""The only kube context that these tests talk to."""
PATIENCE = 120
UNTHROTTLED = ["--kube-api-qps=500", "--kube-api-burst=1000", "--concurrent-job-syncs=20"]


@dataclass
class ControlPlane:
    """One control plane in `folder`; use as a context."""

    folder: Path
    controllers: bool = True
    throttled: bool = False
    """Whether the controllers keep to their default of 20 calls a second, which hides how fast an operator is."""
    address: str = "127.0.0.1"
    etcd_port: int = field(default_factory=free_port)
    peer_port: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)
    controllers_port: int = field(default_factory=free_port)
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_credentials()
        for name in ("etcd", "kube-apiserver"):
            self.start(name)
        self.wait_until_ready()
        if self.controllers:
            self.start("kube-controller-manager")
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(PROGRAMS):
            if name in self.processes:
                # An API server that is asked to stop waits for its open watches, and nothing here is kept.
                self.stop(name, signal.SIGKILL)

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    def write_credentials(self) -> None:
        subprocess.run(
            ["openssl", "genrsa", "-out", str(self.folder / "sa.key"), "2048"], check=True, capture_output=True
        )
        controllers = secrets.token_hex(16)
        (self.folder / "tokens.csv").write_text(
            f'{self.token},admin,admin,"system:masters"\n'
            f"{controllers},system:kube-controller-manager,system:kube-controller-manager\n"
        )
        (self.folder / "tokens.csv").chmod(0o600)
        self.write_kubeconfig(self.kubeconfig, self.token)
        self.write_kubeconfig(self.folder / "controllers.kubeconfig", controllers)

    def write_kubeconfig(self, path: Path, token: str) -> None:
        certificate = str(self.folder / "certificates" / "apiserver.crt")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": CONTEXT, "cluster": {"server": self.url, "certificate-authority": certificate}}],
            "users": [{"name": CONTEXT, "user": {"token": token}}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
            "current-context": CONTEXT,
        }
        path.write_text(yaml.safe_dump(config))
        path.chmod(0o600)

    def arguments(self, name: str) -> list[str]:
        etcd, key = f"http://127.0.0.1:{self.etcd_port}", str(self.folder / "sa.key")
        peers = f"http://127.0.0.1:{self.peer_port}"
        controllers = str(self.folder / "controllers.kubeconfig")
        return {
            "etcd": [
                "--name=tests", f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync",
                f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=tests={peers}", "--log-level=error",
            ],
            "kube-apiserver": [
                f"--etcd-servers={etcd}", f"--secure-port={self.port}", "--bind-address=127.0.0.1",
                "--endpoint-reconciler-type=none", f"--cert-dir={self.folder / 'certificates'}",
                f"--token-auth-file={self.folder / 'tokens.csv'}", "--anonymous-auth=false",
                "--authorization-mode=Node,RBAC", "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-signing-key-file={key}", f"--service-account-key-file={key}",
                "--service-cluster-ip-range=10.0.0.0/16", "--enable-admission-plugins=NodeRestriction",
                f"--audit-log-path={self.folder / 'audit.log'}", f"--audit-policy-file={HERE / 'audit-policy.yaml'}",
                "--audit-log-maxsize=10000",
            ],
            "kube-controller-manager": [
                f"--kubeconfig={controllers}", f"--authentication-kubeconfig={controllers}",
                f"--authorization-kubeconfig={controllers}", f"--service-account-private-key-file={key}",
                f"--root-ca-file={self.folder / 'certificates' / 'apiserver.crt'}",
                "--use-service-account-credentials=true", "--bind-address=127.0.0.1",
                f"--secure-port={self.controllers_port}", "--leader-elect=false",
                *([] if self.throttled else UNTHROTTLED),
            ],
        }[name]  # fmt: skip

    def command(self, name: str) -> list[str]:
        return [str(program(name)), *self.arguments(name)]

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.command(name), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait_until_ready(self) -> None:
        """Until /readyz answers; the log's end when it does not."""
        deadline = time.monotonic() + PATIENCE
        pause = threading.Event()
        while not self.is_ready():
            died = [name for name, process in self.processes.items() if process.poll() is not None]
            if died or time.monotonic() > deadline:
                name = died[0] if died else "kube-apiserver"
                raise RuntimeError(f"{name} is not ready:\n{(self.folder / f'{name}.log').read_text()[-3000:]}")
            pause.wait(0.1)

    def is_ready(self) -> bool:
        certificate = self.folder / "certificates" / "apiserver.crt"
        if not certificate.exists():
            return False
        request = Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {self.token}"})
        context = ssl.create_default_context(cafile=str(certificate))
        try:
            with build_opener(ProxyHandler({}), HTTPSHandler(context=context)).open(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def kubectl(self, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """kubectl against this control plane and no other; the caller looks at the code."""
        return subprocess.run(
            [str(program("kubectl")), f"--kubeconfig={self.kubeconfig}", f"--context={CONTEXT}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
        )

    def install(self, crd: Path) -> None:
        """Apply a CustomResourceDefinition and wait until it is served."""
        applied = self.kubectl("apply", "--server-side", "-f", str(crd))
        assert applied.returncode == 0, applied.stderr
        name = yaml.safe_load(crd.read_text())["metadata"]["name"]
        deadline, pause = time.monotonic() + PATIENCE, threading.Event()
        # kubectl wait gives up on an object that has no conditions yet
        while self.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=5s").returncode:
            assert time.monotonic() < deadline, f"{name} is not established"
            pause.wait(0.1)


if __name__ == "__main__":
    with ControlPlane(Path(sys.argv[1]).absolute()) as plane:
        sys.stdout.write(f"{plane.kubeconfig}\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
