"""The Grafana dashboard asks for metrics that the operator exports, by labels that they have."""

import json
import re

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from tests.chart.helm import CHART

from finetune_operator.api.status import StageState
from finetune_operator.cluster import metrics

DASHBOARD = json.loads((CHART / "dashboards" / "finetune-operator.json").read_text())
PANELS = DASHBOARD["panels"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
SUFFIXES = {Counter: ("_total",), Gauge: ("",), Histogram: ("_bucket", "_sum", "_count")}
OURS = re.compile(r"\bfinetune_[a-z_]+\b")


def exported() -> dict[str, set[str]]:
    """Names of series as Prometheus stores them, with their labels."""
    found = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            for suffix in SUFFIXES[type(metric)]:
                found[metric._name + suffix] = {*metric._labelnames, *(["le"] if suffix == "_bucket" else [])}
    return found


def asked(expression: str) -> set[str]:
    """The labels that an expression groups or filters by."""
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    filtered = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\"", expression)
    return {label.strip() for group in grouped for label in group.split(",")} | set(filtered)


@pytest.mark.parametrize(("title", "target"), TARGETS, ids=[title for title, _ in TARGETS])
def test_each_query_is_of_a_metric_that_is_exported(title, target):
    names = set(OURS.findall(target["expr"]))
    assert names, f"{title} asks for nothing of ours"
    for name in names:
        assert name in exported(), title
        assert asked(target["expr"]) <= exported()[name], title
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= exported()[name], title


def test_every_metric_is_shown():
    queries = " ".join(target["expr"] for _, target in TARGETS)
    shown = set(OURS.findall(queries))
    families = {frozenset(m._name + suffix for suffix in SUFFIXES[type(m)]) for m in vars(metrics).values()
                if isinstance(m, MetricWrapperBase)}  # fmt: skip
    assert [family for family in families if not family & shown] == []


def test_states_that_are_asked_for_exist():
    queries = " ".join(target["expr"] for _, target in TARGETS)
    assert set(re.findall(r'state="(\w+)"', queries)) <= {state.value for state in StageState}


def test_panels_do_not_lie_over_each_other():
    taken = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_the_variable_namespace_is_filled_from_a_metric():
    (query,) = [v["query"] for v in DASHBOARD["templating"]["list"] if v["name"] == "namespace"]
    (name,) = OURS.findall(query)
    assert "namespace" in exported()[name]
