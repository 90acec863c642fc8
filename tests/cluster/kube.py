"""A cluster as a user of kubectl sees it, and a FineTuneJob in it."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kubernetes.programs import program

Object = dict[str, Any]
PATIENCE = 840
"""Seconds until a watch that has not shown what is waited for fails its test."""


class Cluster:
    """Any cluster, by a context of a kubeconfig; `folder` is that of the test cluster, None for another one."""

    def __init__(self, kubeconfig: Path, context: str, folder: Path | None = None) -> None:
        self.kubeconfig, self.context, self.folder = kubeconfig, context, folder
        self.made: list[str] = []
        """Namespaces of the tests'."""

    def command(self, *arguments: str) -> list[str]:
        return [str(program("kubectl")), f"--kubeconfig={self.kubeconfig}", f"--context={self.context}", *arguments]

    def kubectl(self, *arguments: str, stdin: str | None = None, ok: bool = True) -> str:
        done = subprocess.run(self.command(*arguments), input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not ok, done.stderr
        return done.stdout if ok else done.stdout + done.stderr

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects: Object) -> None:
        body = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def namespace(self, name: str) -> None:
        """One that enforces the `restricted` Pod Security Standard; on another cluster than our own a new one."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        self.kubectl("create" if self.folder is None else "apply", "-f", "-", stdin=json.dumps(body))
        self.made.append(f"namespace/{name}")

    def wait(self, condition: str, what: str, namespace: str, seconds: int = 60) -> None:
        self.kubectl("wait", f"--for={condition}", what, "-n", namespace, f"--timeout={seconds}s")

    @contextmanager
    def watch(self, namespace: str, *what: str) -> Iterator[Iterator[Object]]:
        """Each version of an object, from the present one on."""
        command = self.command("get", *what, "-n", namespace, "-o", "json", "--watch", f"--request-timeout={PATIENCE}s")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            yield versions(process.stdout)
        finally:
            process.kill()
            process.wait()


def versions(lines: Iterator[str]) -> Iterator[Object]:
    """The objects that kubectl prints one after the other."""
    text = ""
    for line in lines:
        text += line
        if line == "}\n":
            yield json.loads(text)
            text = ""


@dataclass(frozen=True)
class Job:
    """A FineTuneJob that was submitted."""

    cluster: Cluster
    namespace: str
    name: str

    def submit(self, spec: Object) -> "Job":
        meta = {"name": self.name, "namespace": self.namespace}
        body = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": meta, "spec": spec}
        self.cluster.apply(body)
        return self

    def edit(self, **spec: Any) -> None:
        patch = json.dumps({"spec": spec})
        self.cluster.kubectl("-n", self.namespace, "patch", "ftj", self.name, "--type=merge", "-p", patch)

    def delete(self) -> None:
        """The job and its pods, which save before they go; its workspace stays."""
        self.cluster.kubectl("-n", self.namespace, "delete", "ftj", self.name)
        pods = ["pods", "-l", f"finetune.dev/job={self.name}", "-n", self.namespace]
        self.cluster.kubectl("wait", "--for=delete", *pods, "--timeout=330s")

    def folder(self, name: str) -> Path | None:
        """A stage's folder on the test cluster's node; None on another cluster."""
        if self.cluster.folder is None:
            return None
        digest = stage(self.status, name)["digest"]
        (found,) = (self.cluster.folder / "volumes").glob(f"*_{self.namespace}_*/{name}/{digest}")
        return found

    @property
    def status(self) -> Object:
        found: Object = self.cluster.get("ftj", self.name, "-n", self.namespace).get("status") or {}
        return found

    def until(self, wanted: Callable[[Object], Any], what: str) -> Object:
        """The first status that is wanted; a job that fails instead fails the test."""
        status: Object = {}
        with self.cluster.watch(self.namespace, "ftj", self.name) as seen:
            for version in seen:
                status = version.get("status") or {}
                if wanted(status):
                    return status
                assert condition(status, "Failed").get("status") != "True", condition(status, "Failed")["message"]
        raise AssertionError(f"{self.name}: not within {PATIENCE} s: {what}; it is {status}")

    def until_stage(self, name: str, *states: str) -> Object:
        done = states or ("Succeeded", "Reused")
        status = self.until(lambda seen: stage(seen, name).get("state") in done, f"{name} {' or '.join(done)}")
        return stage(status, name)

    def until_step(self, step: int) -> Object:
        return self.until(lambda seen: (seen.get("training") or {}).get("step", 0) >= step, f"step {step}")

    def until_failed(self) -> Object:
        """The condition Failed, once it is true."""
        status = self.until(lambda seen: condition(seen, "Failed").get("status") == "True", "Failed")
        return condition(status, "Failed")

    def pods(self, name: str) -> list[Object]:
        selector = f"finetune.dev/job={self.name},finetune.dev/stage={name}"
        found: list[Object] = self.cluster.get("pods", "-n", self.namespace, "-l", selector)["items"]
        return found


def condition(status: Object, kind: str) -> Object:
    return next((row for row in status.get("conditions", ()) if row["type"] == kind), {})


def stage(status: Object, name: str) -> Object:
    return next((row for row in status.get("stages", ()) if row["name"] == name), {})
