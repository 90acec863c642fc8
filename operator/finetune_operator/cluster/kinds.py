"""The kinds of objects that the operator touches: one row each. Its RBAC rules are checked against this table."""

from dataclasses import dataclass

from finetune_operator.api import GROUP, KIND, PLURAL, VERSION
from finetune_operator.manifests.names import SELECTOR, Manifest


@dataclass(frozen=True)
class Kind:
    group: str
    version: str
    plural: str
    kind: str
    watched: bool = True
    optional: bool = False
    """A cluster may not know it."""

    def path(self, namespace: str | None, name: str = "") -> str:
        base = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        inside = f"/namespaces/{namespace}" if namespace else ""
        return f"{base}{inside}/{self.plural}" + (f"/{name}" if name else "")

    @property
    def selector(self) -> str:
        """Label selector of those that are ours."""
        return "" if self is FINE_TUNE_JOBS else SELECTOR


FINE_TUNE_JOBS = Kind(GROUP, VERSION, PLURAL, KIND)
JOBS = Kind("batch", "v1", "jobs", "Job")
PODS = Kind("", "v1", "pods", "Pod")
CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap")
CLAIMS = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
DEPLOYMENTS = Kind("apps", "v1", "deployments", "Deployment")
SERVICES = Kind("", "v1", "services", "Service")
INGRESSES = Kind("networking.k8s.io", "v1", "ingresses", "Ingress")
HTTP_ROUTES = Kind("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute", optional=True)
SERVICE_ACCOUNTS = Kind("", "v1", "serviceaccounts", "ServiceAccount")
ROLES = Kind("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
EVENTS = Kind("events.k8s.io", "v1", "events", "Event", watched=False)
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease", watched=False)

KINDS = (
    FINE_TUNE_JOBS, JOBS, PODS, CONFIG_MAPS, CLAIMS, DEPLOYMENTS, SERVICES, INGRESSES, HTTP_ROUTES, SERVICE_ACCOUNTS,
    ROLES, ROLE_BINDINGS, EVENTS, LEASES,
)  # fmt: skip
DEMO_KINDS = (DEPLOYMENTS, SERVICES, INGRESSES, HTTP_ROUTES)
"""What serves the demo, in the order in which it is made."""
BY_NAME = {kind.kind: kind for kind in KINDS}


def kind_of(manifest: Manifest) -> Kind:
    return BY_NAME[manifest["kind"]]
