"""What the chart makes of its values."""

import json
import re
from dataclasses import fields
from types import SimpleNamespace

import pytest
from kubernetes.aio.leaderelection.electionconfig import Config
from tests.chart.conftest import CASES, arguments_of
from tests.chart.helm import CHART, NAMESPACE, RELEASE, ROOT, environment, helm, of_kind, only, rendered, said, template
from tests.generated import CHART as GENERATED_FOR

from finetune_operator.api.crd import crd
from finetune_operator.cluster.rights import OWN_RIGHTS, RIGHTS, rules
from finetune_operator.cluster.settings import Settings, read_settings
from finetune_operator.manifests.settings import PodSettings

FORBIDDEN_VERBS = {"*", "escalate", "bind", "impersonate"}


@pytest.mark.parametrize("name", CASES)
def test_helm_lint_has_nothing_to_say(name):
    assert CHART == GENERATED_FOR
    done = helm("lint", "--strict", str(CHART), *arguments_of(name))
    assert done.returncode == 0, done.stdout
    assert "[" not in done.stdout, done.stdout  # [INFO], [WARNING], [ERROR]


def test_every_object_belongs_to_the_release(case):
    _, manifests = case
    for manifest in manifests:
        if manifest["kind"] != "CustomResourceDefinition":
            assert manifest["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm", manifest["metadata"]
            assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "finetune-operator"


def test_without_values_the_operator_is_told_its_own_defaults():
    told = read_settings(environment(rendered()))
    given = Settings(log_format="json", identity="operator-pod")
    images = {"trainer_image": "finetune-trainer:0.1.0", "demo_image": "finetune-demo:0.1.0"}
    for row in fields(Settings):
        if row.name != "pods":
            assert getattr(told, row.name) == getattr(given, row.name), row.name
    for row in fields(PodSettings):
        assert getattr(told.pods, row.name) == images.get(row.name, getattr(given.pods, row.name)), row.name


def test_every_variable_is_a_setting_that_the_operator_reads(case):
    _, manifests = case
    known = {f"FINETUNE_{row.name.upper()}" for row in fields(Settings)}
    known |= {f"FINETUNE_POD_{row.name.upper()}" for row in fields(PodSettings)}
    assert set(environment(manifests)) <= known


def test_every_setting_can_be_said(case):
    _, manifests = case
    not_for_a_pod = {"FINETUNE_HOST", "FINETUNE_PODS", "FINETUNE_POD_RESERVED"}
    known = {f"FINETUNE_{row.name.upper()}" for row in fields(Settings)}
    known |= {f"FINETUNE_POD_{row.name.upper()}" for row in fields(PodSettings)}
    assert known - not_for_a_pod == set(environment(manifests))


def test_what_is_said_arrives():
    told = read_settings(environment(rendered("--values", str(ROOT / "tests/chart/cases/everything.yaml"))))
    assert told.namespaces == ("team-a", "team-b")
    assert (told.workers, told.log_format, told.lease_renew, told.port) == (4, "text", 9.5, 9090)
    assert (told.lease_name, told.own_namespace) == ("tuner", "finetune-system")
    assert told.pods.trainer_image == "registry.example.com/ai/finetune-trainer:2.0"
    assert told.pods.demo_image == f"registry.example.com/ai/finetune-demo@sha256:{'2' * 64}"
    assert told.pods.deadline == 30 * 24 * 3600


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ([], "finetune-operator:0.1.0"),
        (['image.tag="1.2"'], "finetune-operator:1.2"),
        (['image.registry="localhost:5000"', 'image.repository="a/b"'], "localhost:5000/a/b:0.1.0"),
        ([f'image.digest="sha256:{"a" * 64}"', 'image.tag="1"'], f"finetune-operator@sha256:{'a' * 64}"),
    ],
)
def test_an_image_is_named_by_tag_or_digest(values, image):
    made = rendered(*said(*values))
    pod = only(made, "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == image
    assert only(made, "Job")["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_one_registry_holds_for_all_images_but_those_that_name_their_own():
    values = ('image.registry="one.example.com"', 'jobs.demoImage.registry="two.example.com"')
    told = read_settings(environment(rendered(*said(*values)))).pods
    assert told.trainer_image == "one.example.com/finetune-trainer:0.1.0"
    assert told.demo_image == "two.example.com/finetune-demo:0.1.0"


def test_one_operator_at_a_time():
    spec = only(rendered(), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_whole_cluster_is_served_by_the_rules_of_the_code():
    made = rendered()
    assert only(made, "ClusterRole", "finetune-operator")["rules"] == rules(RIGHTS)
    assert only(made, "Role")["rules"] == rules(OWN_RIGHTS)
    account = {"kind": "ServiceAccount", "name": "finetune-operator", "namespace": "finetune-system"}
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        assert only(made, kind)["subjects"] == [account]
    assert only(made, "RoleBinding")["metadata"]["namespace"] == "finetune-system"


def test_named_namespaces_are_served_by_a_role_in_each_and_nothing_for_the_cluster():
    made = rendered(*said('namespaces=["team-a","team-b"]'))
    assert not of_kind(made, "ClusterRole")
    assert not of_kind(made, "ClusterRoleBinding")
    for namespace in ("team-a", "team-b"):
        assert only(made, "Role", namespace=namespace)["rules"] == rules(RIGHTS)
        binding = only(made, "RoleBinding", namespace=namespace)
        assert binding["roleRef"]["name"] == only(made, "Role", namespace=namespace)["metadata"]["name"]
        assert binding["subjects"][0]["namespace"] == "finetune-system"
    assert only(made, "Role", namespace="finetune-system")["rules"] == rules(OWN_RIGHTS)


def test_no_rule_is_about_secrets_or_everything(case):
    _, manifests = case
    for role in (*of_kind(manifests, "Role"), *of_kind(manifests, "ClusterRole")):
        for rule in role["rules"]:
            assert not FORBIDDEN_VERBS & set(rule["verbs"]), role["metadata"]["name"]
            assert not {"*", "secrets"} & set(rule["resources"]), role["metadata"]["name"]
            assert "*" not in rule["apiGroups"], role["metadata"]["name"]


def test_the_definition_is_the_one_of_the_code_and_is_kept():
    definition = only(rendered(), "CustomResourceDefinition")
    assert definition["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert definition == crd()
    assert not of_kind(rendered(*said("crds.install=false")), "CustomResourceDefinition")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ('imgae.tag="1"', "at '': additional properties 'imgae' not allowed"),
        ('image.tga="1"', "at '/image': additional properties 'tga' not allowed"),
        (
            'image.pullPolicy="Sometimes"',
            "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'",
        ),
        ('operator.workers="many"', "at '/operator/workers': got string, want integer"),
        ("jobs.demoPort=80", "at '/jobs/demoPort': minimum: got 80, want 1,024"),
        ('namespaces="team-a"', "at '/namespaces': got string, want array"),
        ('namespaces=["Team A"]', "at '/namespaces/0': 'Team A' does not match pattern"),
        ('image.digest="latest"', "at '/image/digest': 'latest' does not match pattern"),
        ('podLabels={"a": 1}', "at '/podLabels/a': got number, want string"),
        ("metrics.podMonitor.enabled=true", "write in networkPolicy.metrics.from who Prometheus is"),
        ("operator.leaseRenew=20", "operator.leaseRenew: in 20 s the Lease of 15 s has run out; write less than"),
        ("operator.leaseSeconds=10", "operator.leaseRenew: in 10 s the Lease of 10 s has run out; write less than"),
        ("operator.leaseRetry=9", "operator.leaseRetry: every 9 s is no second try in the 10 s of operator.leaseRenew"),
        ("operator.leaseRetry=0.5", "at '/operator/leaseRetry': minimum: got 0.5, want 1"),
        (
            'podLabels={"app.kubernetes.io/name": "mine"}',
            "podLabels: the Deployment knows its pods by app.kubernetes.io/name; leave it out",
        ),
        (
            'podLabels={"app.kubernetes.io/component": "mine"}',
            "podLabels: the Deployment knows its pods by app.kubernetes.io/component; leave it out",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_where_it_stands(value, sentence):
    done = template(*said(value))
    assert done.returncode != 0
    assert sentence in done.stderr


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        (
            "default",
            (
                "serves the FineTuneJobs of all namespaces",
                "the pods of FineTuneJobs are not yet",
                "No registry is named and no images are published",
            ),
        ),
        ("cluster-wide", ("crds.install=false", "kubectl -n default apply -f examples/smollm2-react.yaml")),
        ("everything", ("serves FineTuneJobs in team-a, team-b", "kubectl -n team-a apply", "deployment/tuner")),
        ("least", ("No NetworkPolicy was made", "finetune-system/granted-elsewhere to roles of your own")),
    ],
)
def test_the_notes_say_what_to_do_next(name, sentences):
    how = ("--dry-run=client", "--namespace", NAMESPACE, *arguments_of(name))
    done = helm("install", RELEASE, str(CHART), *how)
    assert done.returncode == 0, done.stderr
    _, _, notes = done.stdout.partition("NOTES:")
    assert [sentence for sentence in sentences if sentence not in notes] == []


def test_the_notes_name_files_that_there_are_and_ask_for_a_registry_only_where_none_is():
    done = helm("install", RELEASE, str(CHART), "--dry-run=client", *said('image.registry="registry.example.com/team"'))
    _, _, notes = done.stdout.partition("NOTES:")
    assert "No registry is named" not in notes
    named = re.findall(r"\b(?:examples|docs)/[-\w/.]+\b", (CHART / "templates" / "NOTES.txt").read_text())
    assert {"examples/smollm2-react.yaml", "docs/install.md"} <= set(named)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_what_the_chart_takes_of_the_lease_the_operator_takes():
    """Its library refuses what leaves no time for a second try; the chart has to refuse that first."""
    told = read_settings(environment(rendered(*said("operator.leaseSeconds=3", "operator.leaseRenew=2.5"))))
    Config(SimpleNamespace(), told.lease_seconds, told.lease_renew, told.lease_retry, print, print)


def test_a_parent_chart_may_hand_down_its_globals():
    assert rendered(*said('global={"anything": 1}')) == rendered()


def test_the_dashboard_is_valid_json_in_its_config_map():
    made = rendered(*said("metrics.dashboard.enabled=true"))
    data = only(made, "ConfigMap")["data"]["finetune-operator.json"]
    assert json.loads(data) == json.loads((CHART / "dashboards" / "finetune-operator.json").read_text())
