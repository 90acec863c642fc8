"""A whole single-node Kubernetes: control plane, scheduler, kubelet on containerd, network, DNS, volumes, Ingress.

    python -m tests.kubernetes.node FOLDER [--keep]

It runs as root in mount, network and process namespaces of its own, which ``cluster`` makes: whatever it starts,
mounts or configures is gone with them. It ends when standard input does; with --keep only when it is killed.
"""

import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.kubernetes.control_plane import HERE, PATIENCE, ControlPlane
from tests.kubernetes.images import busybox, load
from tests.kubernetes.programs import program
from tests.programs import cache

ADDRESS = "10.77.0.2"
PODS = "10.77.1.0/24"
SERVICES = "10.77.2.0/24"
DNS = "10.77.2.10"
PORT = 6443
NAME = "node"
USERS = {
    "kubelet": f"system:node:{NAME},system:node:{NAME},system:nodes",
    "kube-proxy": "system:kube-proxy,system:kube-proxy",
    "kube-scheduler": "system:kube-scheduler,system:kube-scheduler",
    "network-policies": "network-policies,network-policies",
}
"""Program -> the user, uid and group as which it talks to the API server."""
QUEUE = "100"
ASKED = (["FORWARD"], ["INPUT", "--source", PODS])
"""Where a connection waits in the queue until network-policies lets it through: each that the node passes on, and each
from a pod to the node. The program's own rules need an nftables expression that fewer kernels have."""
OWN = ("/run", "/var/lib", "/var/log")
"""What the node's programs write outside their folder: each is a folder of the node's own."""
TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
"""What kubelet wants of the kernel. It finds files that say so; the machine keeps its own values."""


def images() -> Path:
    """Where containerd keeps images from one cluster to the next: bringing in the large ones takes minutes."""
    return cache() / "images"


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline, pause = time.monotonic() + PATIENCE, threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {PATIENCE} s: {what}")
        pause.wait(0.1)


def kubelets(folder: Path) -> set[int]:
    """Process ids of the kubelet of the cluster in this folder, as its owner outside sees them."""
    found = psutil.process_iter(["name", "cmdline"])  # of one that is just ending, what can't be read is None
    ours = [process for process in found if process.info["name"] == "kubelet" and process.info["cmdline"]]
    return {process.pid for process in ours if any(f"{folder}/" in argument for argument in process.info["cmdline"])}


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def answers(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def bind(source: Path, target: str) -> None:
    run("mount", "--bind", str(source), target)


@dataclass
class Node(ControlPlane):
    """The control plane on an address that pods reach, and everything that runs them."""

    address: str = ADDRESS
    port: int = PORT

    def settle(self) -> None:
        """Mounts, tunables, forwarding, packet rules, and the files that the programs read."""
        run("mount", "--make-rshared", "/")
        for path in OWN:
            own = self.folder / "machine" / path.strip("/")
            own.mkdir(parents=True, exist_ok=True)
            bind(own, path)
        for name, value in TUNABLES.items():
            file = self.folder / "machine" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
            bind(file, f"/proc/sys/{name}")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for chain in ASKED:
            new = ["--match", "conntrack", "--ctstate", "NEW", "--jump", "NFQUEUE", "--queue-num", QUEUE]
            run("iptables", "--wait", "--table", "mangle", "--append", *chain, *new)
        (self.folder / "cni").mkdir(exist_ok=True)
        for file in (HERE / "files").iterdir():
            target = self.folder / ("cni" if file.suffix == ".conflist" else "") / file.name
            target.write_text(self.filled(file.read_text()))
        (self.folder / "resolv.conf").write_text(f"nameserver {ADDRESS}\n")

    def filled(self, text: str) -> str:
        values = {"FOLDER": str(self.folder), "IMAGES": str(images()), "ADDRESS": ADDRESS, "PODS": PODS, "DNS": DNS}
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        return text

    def write_credentials(self) -> None:
        super().write_credentials()
        with (self.folder / "tokens.csv").open("a") as tokens:
            for name, user in USERS.items():
                token = secrets.token_hex(16)
                tokens.write(f"{token},{user}\n")
                self.write_kubeconfig(self.folder / f"{name}.kubeconfig", token)
        # By this the API server shows kubelet who asks.
        run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", str(self.folder / "kubelet-client.key"), "-out", str(self.folder / "kubelet-client.crt"),
            "-days", "3650", "-subj", "/O=system:masters/CN=kube-apiserver", "-addext", "extendedKeyUsage=clientAuth",
        )  # fmt: skip

    def arguments(self, name: str) -> list[str]:
        folder = self.folder
        kubeconfig = f"--kubeconfig={folder / f'{name}.kubeconfig'}"
        if name in {"etcd", "kube-controller-manager"}:
            return super().arguments(name)
        if name == "kube-apiserver":
            # Of a flag that is given twice the later one counts.
            return [
                *super().arguments(name),
                "--bind-address=0.0.0.0", f"--advertise-address={ADDRESS}", "--endpoint-reconciler-type=lease",
                f"--service-cluster-ip-range={SERVICES}", "--allow-privileged=true",
                f"--kubelet-client-certificate={folder / 'kubelet-client.crt'}",
                f"--kubelet-client-key={folder / 'kubelet-client.key'}",
                "--kubelet-preferred-address-types=InternalIP",
            ]  # fmt: skip
        return {
            "kube-scheduler": [
                kubeconfig, "--authentication-kubeconfig=" + kubeconfig.partition("=")[2],
                "--authorization-kubeconfig=" + kubeconfig.partition("=")[2],
                "--bind-address=127.0.0.1", "--leader-elect=false",
            ],
            "containerd": ["--config", str(folder / "containerd.toml")],
            "kubelet": [
                kubeconfig, f"--config={folder / 'kubelet.yaml'}", f"--node-ip={ADDRESS}",
                f"--hostname-override={NAME}",
            ],
            "kube-proxy": [
                kubeconfig, "--proxy-mode=iptables", f"--cluster-cidr={PODS}", f"--hostname-override={NAME}",
                # These are the whole machine's, and stay as they are.
                "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0",
                "--conntrack-tcp-timeout-close-wait=0", "--oom-score-adj=0",
            ],
            "network-policies": [kubeconfig, f"--hostname-override={NAME}", f"--nfqueue-id={QUEUE}", "-v=2"],
            "coredns": ["-conf", str(folder / "Corefile")],
            "local-path-provisioner": [
                "start", "--kubeconfig", str(self.kubeconfig), "--config", str(folder / "local-path.json"),
                "--helper-image", "localhost/busybox:1", "--helper-pod-file", str(folder / "helper-pod.yaml"),
            ],
            "traefik": [
                f"--entrypoints.web.address={ADDRESS}:80", "--providers.kubernetesingress=true",
                "--providers.kubernetesingress.throttleduration=100ms", "--providers.providersthrottleduration=100ms",
                f"--providers.kubernetesingress.ingressendpoint.ip={ADDRESS}",
                "--global.checknewversion=false", "--global.sendanonymoususage=false",
            ],
        }[name]  # fmt: skip

    def command(self, name: str) -> list[str]:
        path = shutil.which(name) if name == "containerd" else str(program(name))
        return [str(path), *self.arguments(name)]

    def rise(self) -> None:
        """Everything after the control plane, until the node is Ready."""
        self.start("kube-scheduler")
        self.start_containerd()
        self.forget_containers()
        load(busybox(self.folder), self.socket)
        self.start("kubelet")
        self.start("kube-proxy")
        applied = self.kubectl("apply", "-f", str(self.folder / "objects.yaml"))
        if applied.returncode:
            raise RuntimeError(applied.stderr)
        for name in ("network-policies", "coredns", "local-path-provisioner", "traefik"):
            self.start(name)
        wait_for(lambda: self.kubectl("get", "serviceaccount", "default").returncode == 0, "the default ServiceAccount")
        wait_for(self.has_node, "the node is there")
        waited = self.kubectl("wait", "--for=condition=Ready", f"node/{NAME}", f"--timeout={PATIENCE}s")
        if waited.returncode:
            raise RuntimeError(waited.stderr)

    @property
    def socket(self) -> Path:
        return self.folder / "containerd.sock"

    def ctr(self, *arguments: str) -> list[str]:
        return ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", *arguments]

    def start_containerd(self) -> None:
        self.start("containerd")
        wait_for(lambda: answers(*self.ctr("version")), "containerd answers")

    def forget_containers(self) -> None:
        """What an earlier cluster ran is gone, but containerd's memory outlives it with the images."""
        listed = subprocess.run(self.ctr("containers", "list", "--quiet"), check=True, capture_output=True, text=True)
        if listed.stdout.split():
            run(*self.ctr("containers", "delete", *listed.stdout.split()))
            self.stop("containerd")
            self.start_containerd()

    def has_node(self) -> bool:
        return self.kubectl("get", "node", NAME).returncode == 0

    def watch(self) -> None:
        """Start again what ends, as an init system would; for ever."""
        pause = threading.Event()
        while not pause.wait(0.5):
            for name, process in list(self.processes.items()):
                if process.poll() is not None:
                    sys.stderr.write(f"{name} ended with {process.returncode} and is started again\n")
                    self.start(name)


def main(folder: Path, *, keep: bool) -> None:
    sys.stdin.readline()  # the network is there
    os.environ["KUBECONFIG"] = str(folder / "kubeconfig")
    node = Node(folder)
    node.settle()
    with node:
        node.rise()
        (folder / "ready").touch()
        if keep:
            node.watch()
        threading.Thread(target=node.watch, daemon=True).start()
        sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]), keep="--keep" in sys.argv[2:])
