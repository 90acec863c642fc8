"""The pod of a stage: fit for the `restricted` Pod Security Standard, with a read-only root filesystem."""

from dataclasses import dataclass
from typing import Any

from finetune_jobs.contract import GPUS_VARIABLE, Source, Stage
from finetune_operator.api import FineTuneJob
from finetune_operator.api.pods import EnvVar, Resources, StageSettings
from finetune_operator.api.spec import RecipeName
from finetune_operator.manifests.names import CONTAINER, Manifest, labels, workspace_name
from finetune_operator.manifests.requests import requests_name
from finetune_operator.manifests.settings import PodSettings
from finetune_operator.plan import Plan, PlannedStage

WORKSPACE = "/workspace"
REQUESTS = "/etc/finetune/requests"
TOKEN = "/etc/finetune/token"  # noqa: S105 - a folder's name
CLAIMS = "/claims"
SCRATCH = "/tmp"  # noqa: S108 - an emptyDir of the pod's own

ENVIRONMENT = {
    "HOME": SCRATCH,  # a folder that is there: the demo starts its server in it
    "HF_HOME": f"{SCRATCH}/huggingface",
    "XDG_CACHE_HOME": f"{SCRATCH}/cache",
    "MPLCONFIGDIR": f"{SCRATCH}/matplotlib",
    "TRITON_CACHE_DIR": f"{SCRATCH}/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{SCRATCH}/inductor",
    # One a pod: a killed build leaves a lock in it on which a later one would hang.
    "TORCH_EXTENSIONS_DIR": f"{SCRATCH}/torch-extensions",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Surroundings:
    """What every manifest of a job is made from."""

    job: FineTuneJob
    plan: Plan
    settings: PodSettings

    def of(self, stage: Stage) -> StageSettings:
        return self.job.spec.stages.of(stage)


def gpus(job: FineTuneJob, stage: Stage, resource: str) -> int:
    """GPUs of one pod of the stage: what its limits say, else what the job asks for."""
    said = (job.spec.stages.of(stage).resources or Resources()).limits.get(resource)
    if said is not None:
        return int(said)
    training = job.spec.training
    small = training is not None and training.recipe is RecipeName.QLORA_SMALL
    match stage:
        case Stage.TRAIN:
            return 0 if small else (training.gpus if training else 1)
        case Stage.EVALUATE:
            return 0 if small else min(1, gpus(job, Stage.TRAIN, resource))
        case Stage.DEMO:
            return job.spec.demo.gpus
        case _:
            return 0


def resources(given: Surroundings, stage: Stage) -> Manifest:
    said = given.of(stage).resources
    limits = dict(said.limits) if said else {}
    resource = given.settings.gpu_resource
    limits.pop(resource, None)
    count = gpus(given.job, stage, resource)
    if count:
        limits[resource] = str(count)
    reserved = {k: v for k, v in given.settings.reserved[stage].items() if k not in limits}
    asked = reserved | (dict(said.requests) if said else {})
    return {"requests": asked} | ({"limits": limits} if limits else {})


def sources(planned: PlannedStage) -> list[Source]:
    values = (getattr(planned.request, name) for name in type(planned.request).model_fields)
    return [value for value in values if isinstance(value, Source)]


def claims(given: Surroundings, planned: PlannedStage) -> list[str]:
    """The user's claims that the stage may read: its own source's, and those that it may find links into."""
    needed = [given.plan.of(stage) for stage in planned.needs]
    found = [s for p in (planned, *needed) if p is not None for s in sources(p)]
    return sorted({source.volume.claim_name for source in found if source.volume is not None})


def token_ref(planned: PlannedStage) -> Manifest | None:
    """The Secret's key with the token of the stage's own source."""
    for source in sources(planned):
        for origin in (source.hugging_face, source.git):
            if origin is not None and origin.token_secret_ref is not None:
                return {"name": origin.token_secret_ref.name, "key": origin.token_secret_ref.key}
    return None


def environment(said: tuple[EnvVar, ...], own: dict[str, str]) -> list[Manifest]:
    """Ours, then the user's, which win."""
    users: dict[str, Manifest] = {}
    for variable in said:
        value: Any = {"value": variable.value}
        if variable.value_from is not None:
            ref = variable.value_from.secret_key_ref
            value = {"valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}
        users[variable.name] = value
    ours: dict[str, Manifest] = {name: {"value": value} for name, value in own.items()}
    return [{"name": name, **value} for name, value in (ours | users).items()]


def volumes(given: Surroundings, planned: PlannedStage) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and their mounts."""
    claim = workspace_name(given.job)
    requests = {"name": requests_name(given.job, given.plan)}
    found: list[tuple[Manifest, Manifest]] = [
        ({"name": "workspace", "persistentVolumeClaim": {"claimName": claim}}, {"mountPath": WORKSPACE}),
        ({"name": "requests", "configMap": requests}, {"mountPath": REQUESTS, "readOnly": True}),
        ({"name": "scratch", "emptyDir": {"sizeLimit": given.settings.scratch}}, {"mountPath": SCRATCH}),
    ]
    if planned.stage in {Stage.TRAIN, Stage.EVALUATE, Stage.DEMO}:
        memory = {"medium": "Memory", "sizeLimit": given.settings.shared_memory}
        found.append(({"name": "shared-memory", "emptyDir": memory}, {"mountPath": "/dev/shm"}))  # noqa: S108 - its own
    for number, name in enumerate(claims(given, planned)):
        if name != claim:
            users = {"claimName": name}
            mount = {"mountPath": f"{CLAIMS}/{name}", "readOnly": True}
            found.append(({"name": f"claim-{number}", "persistentVolumeClaim": users}, mount))
    ref = token_ref(planned)
    if ref is not None:
        items = [{"key": ref["key"], "path": "token"}]
        # Optional: for a Secret that is not there a pod would wait without a word; so the stage says it.
        secret = {"secretName": ref["name"], "items": items, "defaultMode": 0o440, "optional": True}
        found.append(({"name": "token", "secret": secret}, {"mountPath": TOKEN, "readOnly": True}))
    return [v for v, _ in found], [{"name": v["name"], **m} for v, m in found]


def arguments(given: Surroundings, planned: PlannedStage) -> list[str]:
    request = f"{REQUESTS}/{planned.stage}.json"
    said = ["--request", request, "--workspace", WORKSPACE, "--outcome", "/dev/termination-log"]
    own = workspace_name(given.job)
    for name in claims(given, planned):
        said += ["--volume", f"{name}={WORKSPACE if name == own else f'{CLAIMS}/{name}'}"]
    return ["-m", "finetune_jobs", planned.stage.value, *said]


def container(given: Surroundings, planned: PlannedStage, own: dict[str, str]) -> Manifest:
    settings, stage = given.settings, planned.stage
    token = {"FINETUNE_TOKEN_FILE": f"{TOKEN}/token"} if token_ref(planned) else {}
    count = gpus(given.job, stage, settings.gpu_resource)
    devices = {GPUS_VARIABLE: str(count)} if count else {}
    return {
        "name": CONTAINER,
        "image": settings.demo_image if stage is Stage.DEMO else settings.trainer_image,
        "imagePullPolicy": settings.pull_policy,
        "command": ["python"],
        "args": arguments(given, planned),
        "workingDir": WORKSPACE,
        "env": environment(given.of(stage).env, ENVIRONMENT | token | devices | own),
        "resources": resources(given, stage),
        # A program that dies without a word: the log's end says why.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": volumes(given, planned)[1],
    }


def beside_the_workspace(job: FineTuneJob) -> Manifest | None:
    """Affinity to the job's running pods, where one node at a time has the workspace: elsewhere a pod never starts."""
    if job.spec.storage.shared_by_nodes:
        return None
    term = {"labelSelector": {"matchLabels": labels(job.metadata.name)}, "topologyKey": "kubernetes.io/hostname"}
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def pod_metadata(given: Surroundings, planned: PlannedStage) -> Manifest:
    said, own = given.of(planned.stage).annotations, labels(given.job.metadata.name, planned.stage, planned.digest)
    return {"labels": own} | ({"annotations": dict(said)} if said else {})


def pod_spec(given: Surroundings, planned: PlannedStage, own: dict[str, str] | None = None) -> Manifest:
    """`own` is environment beside what every stage gets."""
    spec, where, user = given.job.spec, given.of(planned.stage), given.settings.user
    found: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": given.settings.grace_period,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(given, planned, own or {})],
        "volumes": volumes(given, planned)[0],
    }
    optional: Manifest = {
        "nodeSelector": dict(where.node_selector),
        "tolerations": [t.model_dump(by_alias=True, exclude_none=True) for t in where.tolerations],
        "imagePullSecrets": [{"name": secret.name} for secret in spec.image_pull_secrets],
        "priorityClassName": spec.priority_class_name,
        "runtimeClassName": where.runtime_class_name,
        "affinity": beside_the_workspace(given.job),
    }
    return found | {name: value for name, value in optional.items() if value}
