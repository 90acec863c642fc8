"""What the operator may do, as RBAC rules: nothing that it does not use, no Secrets, no wildcard.

A test compares this table with the API server's audit of what was really called.
"""

from collections import defaultdict
from typing import Any

from finetune_operator.api import GROUP, PLURAL

READ = ("list", "watch")
RIGHTS: dict[tuple[str, str], tuple[str, ...]] = {
    (GROUP, PLURAL): READ,
    (GROUP, f"{PLURAL}/status"): ("patch",),
    ("batch", "jobs"): (*READ, "get", "create", "patch", "delete"),
    ("", "pods"): READ,
    ("", "configmaps"): (*READ, "get", "create", "patch"),
    ("", "persistentvolumeclaims"): (*READ, "get", "create", "patch"),
    ("apps", "deployments"): (*READ, "create", "patch", "delete"),
    ("", "services"): (*READ, "get", "create", "patch", "delete"),
    ("networking.k8s.io", "ingresses"): (*READ, "create", "patch", "delete"),
    ("gateway.networking.k8s.io", "httproutes"): (*READ, "create", "patch", "delete"),
    ("", "serviceaccounts"): (*READ, "get", "create", "patch"),
    ("rbac.authorization.k8s.io", "roles"): (*READ, "get", "create", "patch"),
    ("rbac.authorization.k8s.io", "rolebindings"): (*READ, "get", "create", "patch"),
    ("events.k8s.io", "events"): ("create",),
}
"""By API group and resource, in each namespace that is served."""
OWN_RIGHTS = {("coordination.k8s.io", "leases"): ("get", "create", "patch")}
"""In the operator's own namespace."""
IMPLIED = {
    ("apps", "deployments", "create"),
    ("", "services", "create"),
    ("networking.k8s.io", "ingresses", "create"),
    ("gateway.networking.k8s.io", "httproutes", "create"),
}
"""Server-side apply that makes an object is authorised as create, though the audit calls it patch."""


def rules(rights: dict[tuple[str, str], tuple[str, ...]]) -> list[dict[str, Any]]:
    """As a Role or ClusterRole has them: resources of one group and the same verbs share a rule."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (group, resource), verbs in rights.items():
        found[group, verbs].append(resource)
    return [
        {"apiGroups": [group], "resources": resources, "verbs": list(verbs)}
        for (group, verbs), resources in found.items()
    ]
