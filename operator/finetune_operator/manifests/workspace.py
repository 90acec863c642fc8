"""The PersistentVolumeClaim that all stages share, where the user brings none."""

from finetune_operator.api import FineTuneJob
from finetune_operator.api.spec import DEFAULT_SIZE
from finetune_operator.manifests.names import Manifest, metadata, workspace_name


def workspace_claim(job: FineTuneJob) -> Manifest | None:
    """None with a claim of the user's own. Only reclaimPolicy Delete lets it go with the FineTuneJob."""
    storage = job.spec.storage
    if storage.claim_name:
        return None
    meta = metadata(job, workspace_name(job))
    if storage.reclaim_policy == "Retain":
        del meta["ownerReferences"]
    spec: Manifest = {
        "accessModes": list(storage.access_modes or ("ReadWriteOnce",)),
        "resources": {"requests": {"storage": storage.size or DEFAULT_SIZE}},
    }
    if storage.storage_class_name:
        spec["storageClassName"] = storage.storage_class_name
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}
