"""The commands of docs/install.md do what the page says, one after the other, as they stand there."""

import re
import shlex

import pytest
from tests.chart.helm import NAMESPACE, ROOT, helm

PAGE = (ROOT / "docs" / "install.md").read_text()
NOT_HERE = {
    "waits for running pods": "no kubelet is here; tests/cluster/test_release.py runs it",
    "your own": "a user's file; test_life.py submits a job",
    "until Ctrl-C": "it does not end",
}
"""Why a command is not run, by the comment behind it."""


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def bare(plane):
    """Without what other tests' releases have left."""
    helm("uninstall", "finetune-operator", "-n", NAMESPACE, "--ignore-not-found", kubeconfig=plane.kubeconfig)
    for left in (("finetunejobs", "--all", "--all-namespaces"), ("crd", "finetunejobs.finetune.dev")):
        plane.kubectl("delete", *left)
    for namespace in ("team-a", "team-b"):
        plane.kubectl("delete", "namespace", namespace)
    return plane


def test_every_command_does_what_the_page_says(bare, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands():
        line, _, why = command.partition("  #")
        if why:
            assert why.strip() in NOT_HERE, command
            continue
        program, *arguments = shlex.split(line)
        run = {"helm": lambda *a: helm(*a, kubeconfig=bare.kubeconfig), "kubectl": bare.kubectl}[program]
        done = run(*arguments)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert bare.kubectl("get", "crd", "finetunejobs.finetune.dev").returncode != 0
