"""Which programs a cluster is made of, and the pins that each is built from."""

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.kubernetes import traefik
from tests.programs import build, cache

HERE = Path(__file__).parent
VERSION = "1.34.4"
"""Of Kubernetes."""
MAJOR, MINOR, _ = VERSION.split(".")
STAMP = "k8s.io/component-base/version"
STAMPS = f"-X {STAMP}.gitVersion=v{VERSION} -X {STAMP}.gitMajor={MAJOR} -X {STAMP}.gitMinor={MINOR}"


@dataclass(frozen=True)
class Source:
    """A Go package, the folder of the go.mod that pins it, and the folder in the cache that keeps the program."""

    package: str
    pins: Path = HERE
    kept: str = f"kubernetes-{VERSION}"


ADDONS = HERE / "addons"
SOURCES = {
    "etcd": Source("go.etcd.io/etcd/server/v3"),
    "kube-apiserver": Source("k8s.io/kubernetes/cmd/kube-apiserver"),
    "kube-controller-manager": Source("k8s.io/kubernetes/cmd/kube-controller-manager"),
    "kube-scheduler": Source("k8s.io/kubernetes/cmd/kube-scheduler"),
    "kube-proxy": Source("k8s.io/kubernetes/cmd/kube-proxy"),
    "kubectl": Source("k8s.io/kubernetes/cmd/kubectl"),
    "kubelet": Source("k8s.io/kubernetes/cmd/kubelet"),
    "coredns": Source("./coredns", ADDONS, "coredns-1.14.1"),
    "local-path-provisioner": Source(
        "github.com/rancher/local-path-provisioner", ADDONS, "local-path-provisioner-0.0.30"
    ),
    "network-policies": Source("./network-policies", ADDONS, "kube-network-policies-0.8.0"),
    "traefik": Source("./cmd/traefik", kept="traefik-3.7.13"),  # its pins are in the archive
}


def program(name: str) -> Path:
    """The program's path: in KUBEBUILDER_ASSETS where it is there, else built once."""
    given = Path(os.environ.get("KUBEBUILDER_ASSETS", "")) / name
    if "KUBEBUILDER_ASSETS" in os.environ and given.exists():
        return given
    source = SOURCES[name]
    kept = cache() / source.kept / name
    if kept.exists():
        return kept
    if name == "traefik":
        with TemporaryDirectory() as scratch:
            build(source.package, traefik.sources(Path(scratch)), kept)
    else:
        build(source.package, source.pins, kept, STAMPS)
    return kept
