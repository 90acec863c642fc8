"""What the operator makes of a FineTuneJob with every stage: the chart's NetworkPolicies are for its pods."""

from tests.chart.helm import Manifest
from tests.specs import JOB

from finetune_jobs.contract import Stage
from finetune_operator.api import read_job
from finetune_operator.manifests.demo import deployment
from finetune_operator.manifests.job import stage_job
from finetune_operator.manifests.pod import Surroundings
from finetune_operator.manifests.settings import PodSettings
from finetune_operator.plan import make_plan


def job_pods(namespace: str) -> dict[str, Manifest]:
    """By stage: the Job, or the demo's Deployment."""
    job = read_job(JOB.replace("name: react}", f"name: react, namespace: {namespace}}}")).job
    given = Surroundings(job, make_plan(job, {}), PodSettings())
    return {
        planned.stage.value: (deployment if planned.stage is Stage.DEMO else stage_job)(given, planned)
        for planned in given.plan.stages
    }
