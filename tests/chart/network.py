"""Who may talk to whom by a set of NetworkPolicies, as the Kubernetes documentation defines them.

This reads them the way that a cluster which enforces them does, for every stage and value at once; tests/cluster sees
some of them enforced.
"""

import ipaddress
from dataclasses import dataclass, field
from typing import Any

from tests.chart.helm import Manifest


@dataclass(frozen=True)
class Peer:
    """A pod, or without a namespace an address outside the cluster."""

    address: str
    """Empty for a pod as plugins see it that count no pod as an address."""
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)


def may_talk(policies: list[Manifest], sender: Peer, receiver: Peer, port: int, protocol: str = "TCP") -> bool:
    """A connection needs the leave of the sender's policies and of the receiver's."""
    out = open_rules(policies, sender, "Egress", port, protocol)
    into = open_rules(policies, receiver, "Ingress", port, protocol)
    return any(lets_through(rule, "to", sender.namespace, receiver) for rule in out) and any(
        lets_through(rule, "from", receiver.namespace, sender) for rule in into
    )


def open_rules(policies: list[Manifest], pod: Peer, direction: str, port: int, protocol: str) -> list[dict[str, Any]]:
    """The rules of a pod for a port. One that no policy of the direction selects is free: a rule for everybody."""
    chosen = [p["spec"] for p in policies if selects(p, pod) and direction in p["spec"]["policyTypes"]]
    rules = [rule for spec in chosen for rule in spec.get(direction.lower(), ())] if chosen else [{}]
    return [rule for rule in rules if has_port(rule, port, protocol)]


def selects(policy: Manifest, pod: Peer) -> bool:
    return policy["metadata"]["namespace"] == pod.namespace and matches(policy["spec"]["podSelector"], pod.labels)


def lets_through(rule: dict[str, Any], side: str, namespace: str, other: Peer) -> bool:
    return side not in rule or any(is_peer(peer, namespace, other) for peer in rule[side])


def is_peer(peer: dict[str, Any], namespace: str, other: Peer) -> bool:
    if "ipBlock" in peer:
        if not other.address:
            return False
        block, address = peer["ipBlock"], ipaddress.ip_address(other.address)
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(hole) for hole in block.get("except", ())
        )
    if not other.namespace:
        return False
    names = {"kubernetes.io/metadata.name": other.namespace}
    there = matches(peer["namespaceSelector"], names) if "namespaceSelector" in peer else other.namespace == namespace
    return there and matches(peer.get("podSelector", {}), other.labels)


def has_port(rule: dict[str, Any], port: int, protocol: str) -> bool:
    return "ports" not in rule or any(p["port"] == port and p["protocol"] == protocol for p in rule["ports"])


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exact and all(satisfies(row, labels) for row in selector.get("matchExpressions", ()))


def satisfies(row: dict[str, Any], labels: dict[str, str]) -> bool:
    if row["operator"] != "In":
        raise NotImplementedError(f"{row['operator']}: the chart uses In alone")
    return labels.get(row["key"]) in row["values"]
