"""Who logs in: whoever KUBECONFIG names, else the pod's own account."""

import asyncio
import logging

import pytest
import yaml

from finetune_operator.cluster import api
from finetune_operator.cluster.settings import Settings
from finetune_operator.cluster.watch import kopf_settings, log_in

NAMED = "https://named.example.com:6443"


@pytest.fixture
def in_a_pod(tmp_path, monkeypatch):
    """A pod's account, and a kubeconfig that nobody has named yet."""
    token = tmp_path / "token"
    token.write_text("t")
    monkeypatch.setattr(api, "IN_CLUSTER", token)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": NAMED}}],
        "users": [{"name": "u", "user": {"token": "mine"}}],
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    return path


def hosts():
    """Whom the calls and the watches talk to."""

    async def ask():
        async with await api.connect(Settings()) as connected:
            watching = await log_in(logger=logging.getLogger(), settings=kopf_settings(Settings()))
            return connected.client.configuration.host, watching.server

    return asyncio.run(ask())


def test_kubeconfig_wins_over_the_pods_own_account(in_a_pod, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(in_a_pod))
    assert hosts() == (NAMED, NAMED)


@pytest.mark.parametrize("said", [None, ""])
def test_without_it_the_pods_own_account_logs_in(in_a_pod, monkeypatch, said):
    if said is not None:
        monkeypatch.setenv("KUBECONFIG", said)
    assert api.by_service_account()


def test_outside_a_pod_a_kubeconfig_is_looked_for(in_a_pod, monkeypatch, tmp_path):
    monkeypatch.setattr(api, "IN_CLUSTER", tmp_path / "none")
    assert not api.by_service_account()
