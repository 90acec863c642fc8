"""``python -m tests.generated [--check]``: write the files that are made from the code, or compare them.

A file is a row of FILES. `make lint` compares; `make generate` writes.
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from tests.chart.values import schema_file, table

from finetune_jobs.contract import Source
from finetune_operator.api import FineTuneJob
from finetune_operator.api.crd import crd
from finetune_operator.api.problems import model_in
from finetune_operator.cluster import metrics
from finetune_operator.cluster.rights import OWN_RIGHTS, RIGHTS, rules
from finetune_operator.lifecycle.failures import KILLED, NOT_CREATED, TABLE, UNFORESEEN, Row
from finetune_operator.lifecycle.machine import ROWS

ROOT = Path(__file__).parent.parent
CHART = ROOT / "charts" / "finetune-operator"


def resource_reference() -> str:
    """docs/resource.md: every field of a FineTuneJob's spec."""
    lines = [
        "# The FineTuneJob's fields",
        "",
        "Made from the models in `operator/finetune_operator/api/` by `make generate`; do not edit.",
        "",
    ]
    head = ["| field | type | default | what it is |", "|---|---|---|---|"]
    spec = model_in(FineTuneJob.model_fields["spec"].annotation)
    source = ["", "## A source", "", "spec.model, spec.dataset and spec.adapter have these too.", ""]
    return "\n".join([*lines, *head, *rows(spec, "spec"), *source, *head, *rows(Source, "")]) + "\n"


def rows(model: type[BaseModel], path: str) -> Iterator[str]:
    """Table rows of a model's fields; those that it has from Source stand once, under "A source"."""
    known = set(Source.model_fields) if model is not Source else set()
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        if issubclass(model, Source) and name in known:
            continue
        key = field.alias or name
        inner = model_in(field.annotation)
        shape = schema["properties"][key]
        many = (
            "[]"
            if shape.get("type") == "array" or any(s.get("type") == "array" for s in shape.get("anyOf", []))
            else ""
        )
        where = f"{path}.{key}{many}".removeprefix(".")
        kind = "object" if inner else allowed(shape, schema)
        unsaid = field.is_required() or inner or field.default_factory or field.default in (None, (), "")
        default = "" if unsaid else f"`{plain(field.default)}`"
        text = (field.description or "").replace("|", "\\|")
        yield f"| `{where}` | {kind}{', required' if field.is_required() else ''} | {default} | {text} |"
        if inner:
            yield from rows(inner, where)


def plain(value: object) -> str:
    return (
        ", ".join(map(str, value))
        if isinstance(value, tuple)
        else str(value).lower()
        if value in (True, False)
        else str(value)
    )


def allowed(shape: dict, schema: dict) -> str:
    """The JSON type, or the values where there are few."""
    shape = next((s for s in shape.get("anyOf", []) if s.get("type") != "null"), shape)
    if "$ref" in shape:
        shape = schema["$defs"][shape["$ref"].rpartition("/")[2]]
    if shape.get("type") == "array":
        return allowed(shape["items"], schema)
    few = 6
    if 0 < len(shape.get("enum", [])) <= few:
        return " \\| ".join(f"`{value}`" for value in shape["enum"])
    return str(shape.get("type", "object"))


def custom_resource_definition() -> str:
    head = "# Made from the models in operator/finetune_operator/api/ by `make generate`; do not edit.\n"
    return head + dumped(crd())


def dumped(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=110, allow_unicode=True)


def crd_template() -> str:
    """The same behind a switch; uninstalling the release keeps it, and every FineTuneJob with it."""
    made = crd()
    made["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
    text = dumped(made)
    if "{{" in text:
        raise ValueError("a description holds {{, which Helm would read as its own")
    head = "{{- /* Made from the models in operator/finetune_operator/api/ by `make generate`; do not edit. */}}\n"
    return head + "{{- if .Values.crds.install }}\n" + text + "{{- end }}\n"


def rights_template() -> str:
    head = "{{/* Made from operator/finetune_operator/cluster/rights.py by `make generate`; do not edit. */}}\n"
    named = {"rules": RIGHTS, "ownRules": OWN_RIGHTS}
    return head + "".join(
        f'{{{{- define "finetune-operator.{name}" -}}}}\n{dumped(rules(rights))}{{{{- end }}}}\n'
        for name, rights in named.items()
    )


def state_machine() -> str:
    """docs/state-machine.md: a picture and a table of the same rows."""
    arrows = {}
    for row in ROWS:
        arrows.setdefault((row.before, row.after), []).append(row.seen.replace(":", ","))
    picture = ["```mermaid", "stateDiagram-v2", "    [*] --> Pending"]
    picture += [f"    {before} --> {after}: {'<br/>'.join(seen)}" for (before, after), seen in arrows.items()]
    table = ["| state | what is seen | next state | what is done |", "|---|---|---|---|"]
    table += [f"| {row.before} | {row.seen} | {row.after} | {row.action} |" for row in ROWS]
    head = [
        "# The life of a stage",
        "",
        "Made from `operator/finetune_operator/lifecycle/machine.py` by `make generate`; do not edit. The unit tests",
        "hold `decide` to each row. Stages go one after the other; only the first that is not done is acted on. What",
        "status has recorded as Succeeded, Reused or Failed stays, whatever becomes of the Job. Two edits make a stage",
        "run again that has ended well, to take what is there or make it anew: one after a later stage found no result",
        "of it (`InputMissing`), and one while the gate can't read its rates (`EvaluationUnreadable`).",
        "",
    ]
    return "\n".join([*head, *picture, "```", "", *table]) + "\n"


def troubleshooting() -> str:
    """docs/troubleshooting.md: the failure table."""
    head = [
        "# When something goes wrong",
        "",
        "Made from `operator/finetune_operator/lifecycle/failures.py` by `make generate`; do not edit.",
        "",
        "The last conditions say what is wrong and what to write instead; the stage's log has the rest:",
        "",
        "<!-- not run: NAME and DIGEST stand for your job's -->",
        "",
        "    kubectl describe finetunejob NAME",
        "    kubectl logs job/NAME-train-DIGEST    # the stage's Job; status.stages has the digest",
        "",
        "A stage that ends by its own word names reason, sentence and cure itself, such as `TemplateUnfit: The",
        "template llama3_chat writes <|start_header_id|>, which this model's tokenizer does not know as one token.",
        "Write template: qwen_chat.` The user's mistakes are never tried again: edit the job, and it goes on from",
        "what is finished. A condition `Unforeseen` says that the operator itself failed on the job: nothing is",
        "lost, it tries again, and the sentence names the log that belongs in a report.",
        "",
        "Where a program dies without a word, or none runs yet, this table speaks. The condition has your job's own",
        "words where STAGE, CODE and JOB stand here:",
        "",
        "| reason | what is seen | what it means | what to do |",
        "|---|---|---|---|",
    ]
    told = (*TABLE, KILLED, UNFORESEEN, NOT_CREATED)
    return "\n".join([*head, *(failure_line(row) for row in told)]) + "\n"


SEEN_IN = {
    "ended": "the pod's end says {}",
    "log": "the log's end says {}",
    "waits": "the pod waits: {}",
    "": "no other row fits",
}


def failure_line(row: Row) -> str:
    cures = (row.cure, *(f"({stage}) {cure}" for stage, cure in row.instead.items()))
    words = (text.format(stage="STAGE", job="JOB", code="CODE") for text in (row.message, " ".join(cures)))
    cells = (f"`{row.reason}`", SEEN_IN[row.evidence].format(readable(row.pattern)), *words)
    return f"| {' | '.join(cells)} |"


def readable(pattern: str) -> str:
    """The texts that a failure's pattern looks for, without the signs of a regular expression."""
    if pattern == ".":
        return "anything else"
    words = re.sub(r"\[[^]]*\](?:[+*]|\{[\d,]*\})?", "…", pattern).replace(r"\b", "").replace("\\", "")
    return " or ".join(f"`{word}`" for word in words.split("|"))


def metrics_reference() -> str:
    """docs/metrics.md: what /metrics tells."""
    head = [
        "# Metrics",
        "",
        "Made from `operator/finetune_operator/cluster/metrics.py` by `make generate`; do not edit.",
        "",
        "The operator serves them at port 8080, `/metrics`, beside `/healthz` and `/readyz`. How Prometheus and",
        "Grafana get them: [install.md](install.md#metrics). Durations are in seconds.",
        "",
        "| metric | kind | labels | what it is |",
        "|---|---|---|---|",
    ]
    found = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    return "\n".join([*head, *(metric_line(metric) for metric in found)]) + "\n"


def metric_line(metric: MetricWrapperBase) -> str:
    (family,) = metric.describe()
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)
    return f"| `{name}` | {family.type} | {labels} | {family.documentation} |"


FILES: dict[str, Callable[[], str]] = {
    "crds/finetunejobs.finetune.dev.yaml": custom_resource_definition,
    "docs/resource.md": resource_reference,
    "docs/state-machine.md": state_machine,
    "docs/troubleshooting.md": troubleshooting,
    "docs/metrics.md": metrics_reference,
    "docs/chart-values.md": lambda: table(CHART / "values.yaml"),
    "charts/finetune-operator/values.schema.json": lambda: schema_file(CHART / "values.yaml"),
    "charts/finetune-operator/templates/crd.yaml": crd_template,
    "charts/finetune-operator/templates/_rights.tpl": rights_template,
}


def main(arguments: list[str]) -> int:
    stale = [name for name, make in FILES.items() if not (ROOT / name).exists() or (ROOT / name).read_text() != make()]
    if "--check" in arguments:
        if stale:
            sys.stderr.write(f"not as the code makes them: {', '.join(stale)}; run `make generate` and commit\n")
        return len(stale)
    for name in stale:
        (ROOT / name).write_text(FILES[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
