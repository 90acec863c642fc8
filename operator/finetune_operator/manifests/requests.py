"""The ConfigMap with the requests of a plan's stages, one key a stage."""

from finetune_operator.api import FineTuneJob
from finetune_operator.manifests.names import Manifest, digest_of, metadata
from finetune_operator.plan import Plan


def requests_name(job: FineTuneJob, plan: Plan) -> str:
    """Named by its content: an edited spec gets another, and a pod that runs keeps the one that it started with."""
    return f"{job.metadata.name}-requests-{digest_of(request_texts(plan))}"


def request_texts(plan: Plan) -> dict[str, str]:
    return {f"{planned.stage}.json": planned.request.to_json() for planned in plan.stages}


def requests_map(job: FineTuneJob, plan: Plan) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(job, requests_name(job, plan)),
        "immutable": True,
        "data": request_texts(plan),
    }
