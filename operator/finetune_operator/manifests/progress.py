"""The ConfigMap of a training's progress, and the service account that alone may patch it."""

from finetune_operator.api import FineTuneJob
from finetune_operator.manifests.names import Manifest, metadata, progress_name


def progress_objects(job: FineTuneJob) -> tuple[Manifest, ...]:
    """In this order: the ConfigMap comes last, so that where it is, the others have been made."""
    name = progress_name(job.metadata.name)
    meta = metadata(job, name)
    namespace = job.metadata.namespace
    may = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": ["patch"]}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    account = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    rbac = "rbac.authorization.k8s.io/v1"
    return (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": False},
        {"apiVersion": rbac, "kind": "Role", "metadata": meta, "rules": [may]},
        {"apiVersion": rbac, "kind": "RoleBinding", "metadata": meta, "roleRef": role, "subjects": [account]},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta},
    )
