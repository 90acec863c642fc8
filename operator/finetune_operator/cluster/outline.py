"""What follows from a job's spec alone. A job is looked at twenty times for each edit, so the last few are kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from finetune_jobs.contract import Stage
from finetune_operator.api import ConfigMaps, FineTuneJob, job_of_json
from finetune_operator.manifests.demo import demo_url
from finetune_operator.manifests.job import nodes_of
from finetune_operator.manifests.names import APPLIED, stage_name, with_applied
from finetune_operator.manifests.pod import Surroundings, gpus
from finetune_operator.manifests.requests import requests_name
from finetune_operator.manifests.settings import PodSettings
from finetune_operator.manifests.workspace import workspace_claim
from finetune_operator.plan import make_plan
from finetune_operator.plan.placement import placement

KEPT = 64
"""Outlines that are kept, some 20 kB each; one that is not is made anew, and is the same."""


@dataclass(frozen=True)
class Outline:
    """A job's plan, with the names and digests by which its objects are known."""

    given: Surroundings
    names: Mapping[Stage, str]
    placements: Mapping[Stage, str]
    gpus: Mapping[Stage, int]
    requests: str
    claim: str | None
    """Digest of the workspace's claim as it is applied; None with a claim of the user's own."""
    demo_url: str


class Outlines:
    """By the text of a job."""

    def __init__(self, settings: PodSettings) -> None:
        self.settings = settings
        self._plain = lru_cache(KEPT)(self._without_config_maps)

    def of(self, text: bytes, config_maps: ConfigMaps) -> Outline:
        """SpecError where the job can't be planned. One that reads ConfigMaps, which may change, is made each time."""
        return self._make(kept_job(text), config_maps) if config_maps else self._plain(text)

    def _without_config_maps(self, text: bytes) -> Outline:
        return self._make(kept_job(text), {})

    def _make(self, job: FineTuneJob, config_maps: ConfigMaps) -> Outline:
        plan = make_plan(job, config_maps)
        given, claim = Surroundings(job, plan, self.settings), workspace_claim(job)
        return Outline(
            given=given,
            names={p.stage: stage_name(job.metadata.name, p) for p in plan.stages if p.stage is not Stage.DEMO},
            placements={p.stage: placement(job.spec, p.stage) for p in plan.stages},
            gpus={p.stage: held(given, p.stage) for p in plan.stages},
            requests=requests_name(job, plan),
            claim=str(with_applied(claim)["metadata"]["annotations"][APPLIED]) if claim is not None else None,
            demo_url=demo_url(given),
        )


kept_job = lru_cache(KEPT)(job_of_json)


def held(given: Surroundings, stage: Stage) -> int:
    """GPUs over all pods of the stage."""
    planned = given.plan.of(stage)
    pods = given.job.spec.demo.replicas if stage is Stage.DEMO else nodes_of(planned) if planned else 0
    return pods * gpus(given.job, stage, given.settings.gpu_resource)
