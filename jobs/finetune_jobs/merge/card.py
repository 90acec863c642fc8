"""The model card: what the merged model is made from, as far back as the workspace's records reach.

It holds no times and no paths of the machine: the same inputs give the same card.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import cast

from finetune_jobs.contract import (
    DatasetRequest,
    DatasetResult,
    ExportResult,
    MergeRequest,
    ModelRequest,
    ModelResult,
    Record,
    Source,
    Stage,
    TrainRequest,
    TrainResult,
)
from finetune_jobs.merge.plan import Plan
from finetune_jobs.room import Room, read_record
from finetune_jobs.sources.token import masked

BAR = 40
"""Characters of the longest bar in the loss curve."""
TRAINED_BY = (
    "template", "epochs", "max_length", "batch_size", "gradient_accumulation", "learning_rate", "warmup_ratio",
    "quantization", "deepspeed", "gpus", "nodes", "seed",
)  # fmt: skip
"""Fields of the train request that the card lists."""
MERGED_BY = ("finetune-operator", "numpy", "safetensors")


def write_card(plan: Plan, request: MergeRequest, room: Room) -> str:
    """README.md of the merged model, Markdown with Hugging Face's YAML head."""
    records = lineage(room)
    model = ModelResult.model_validate(records[Stage.MODEL].result)
    parts = [
        head(model, records[Stage.MODEL]),
        f"# {request.title or 'Merged model'}",
        introduction(plan, request, model),
        "## Made from",
        made_from(records),
        *adapter_part(records),
        *training_part(records),
        *data_part(records),
        "## Versions",
        table(("package", "version"), versions(records, request).items()),
    ]
    return "\n\n".join(parts) + "\n"


def lineage(room: Room) -> dict[Stage, Record]:
    """Records of all stages that had a part in this one, as far as they are in the workspace."""
    found = {stage: room.needed_record(stage) for stage in (Stage.MODEL, Stage.EXPORT)}
    waiting = list(found.values())
    while waiting:
        for stage, digest in waiting.pop().request.needs.items():
            record = None if stage in found else read_record(room.workspace, stage, digest)
            if record is not None:
                found[stage] = record
                waiting.append(record)
    return {stage: found[stage] for stage in Stage if stage in found}


def head(model: ModelResult, record: Record) -> str:
    """The YAML that hubs read; JSON's strings are YAML's."""
    source = cast("ModelRequest", record.request).source
    fields: dict[str, object] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if source.hugging_face is not None:
        fields |= {"base_model": source.hugging_face.repo, "base_model_relation": "finetune"}
    if model.license:
        fields["license"] = model.license
    fields["tags"] = ["finetune-operator", "lora", "merged"]
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items()), "---"])


def introduction(plan: Plan, request: MergeRequest, model: ModelResult) -> str:
    tied = (
        " The base model shares its embedding with the output layer; the adapter changes them apart, so both are here."
        if plan.untied
        else ""
    )
    base = (
        " It was added to the values that the base weights have in nf4, beside which it was trained."
        if request.base_weights == "nf4"
        else ""
    )
    licence = model.license or "not stated by the base model; ask its authors"
    return (
        f"{model.architecture} of {model.parameters:,} parameters with a LoRA adapter merged into "
        f"{plan.merged} of its {len(plan.weights)} weights. The sum was made in float32 and rounded once, to "
        f"{request.dtype}.{base}{tied}\n\nLicence of the base model: {licence}. It applies to this model too."
    )


def made_from(records: Mapping[Stage, Record]) -> str:
    rows = [(stage.value, record.digest, origin(record)) for stage, record in records.items()]
    return table(("stage", "digest", "source"), rows)


def origin(record: Record) -> str:
    """Where a stage's material came from, in a cell."""
    if record.stage == Stage.DATASET:
        return say_source(cast("DatasetRequest", record.request).source)
    source = str(record.result.get("source", "the stages above"))
    sha256 = record.result.get("sha256")
    return f"{source}, sha256 `{sha256}`" if sha256 else source


def say_source(source: Source) -> str:
    """The source as it was written, without the names of secrets, and without what a URL holds of them."""
    for kind in Source.KINDS:
        given = getattr(source, kind)
        if given is not None:
            fields = given.model_dump(mode="json", by_alias=True, exclude={"token_secret_ref"}, exclude_none=True)
            said = " ".join(f"{name}={value}" for name, value in fields.items() if value != "")
            sha256 = f", sha256 `{source.sha256}`" if source.sha256 else ""
            return f"{kind.replace('_f', 'F')}: {masked(said)}{sha256}"
    raise ValueError("a source without a kind")


def adapter_part(records: Mapping[Stage, Record]) -> list[str]:
    adapter = ExportResult.model_validate(records[Stage.EXPORT].result)
    rows = [
        ("rank", adapter.rank),
        ("alpha", f"{adapter.alpha:g}"),
        ("target modules", ", ".join(adapter.target_modules)),
        ("tensors", adapter.tensors),
    ]
    return ["## Adapter", table(("LoRA", ""), rows)]


def training_part(records: Mapping[Stage, Record]) -> list[str]:
    """Settings and loss curve; nothing for a ready adapter."""
    if Stage.TRAIN not in records:
        return []
    request = cast("TrainRequest", records[Stage.TRAIN].request)
    result = TrainResult.model_validate(records[Stage.TRAIN].result)
    settings = [(name.replace("_", " "), getattr(request, name)) for name in TRAINED_BY]
    if request.config is not None:
        settings = [("config", "the user's own XTuner config; config.py in the train stage's folder")]
    measured = [
        ("optimizer steps", result.steps),
        ("processes", result.world_size),
        ("final loss", f"{result.final_loss:.4f}"),
        ("peak learning rate", f"{result.peak_learning_rate:g}"),
        ("tokens a second", f"{result.tokens_per_second:,.0f}"),
    ]
    return ["## Training", table(("QLoRA by XTuner", ""), [*settings, *measured]), "Loss:", curve(result)]


def curve(result: TrainResult) -> str:
    """The loss by step, as text with bars."""
    highest = max((point.loss for point in result.curve), default=0)
    lines = [
        f"{point.step:>8}  {point.loss:8.4f}  {'#' * round(BAR * point.loss / highest) if highest > 0 else ''}".rstrip()
        for point in result.curve
    ]
    return "\n".join(["```text", f"{'step':>8}  {'loss':>8}", *lines, "```"])


def data_part(records: Mapping[Stage, Record]) -> list[str]:
    if Stage.DATASET not in records:
        return []
    request = cast("DatasetRequest", records[Stage.DATASET].request)
    result = DatasetResult.model_validate(records[Stage.DATASET].result)
    rows = [
        ("format", request.format.value),
        ("rows read", result.rows_read),
        ("rows kept", result.rows_kept),
        ("rows dropped", by_reason(result.rows_dropped)),
        ("rows cut", result.rows_cut),
        ("rows repaired", by_reason(result.rows_repaired)),
        ("tokens", f"{result.tokens:,}"),
        ("tokens that the loss is taken over", f"{result.supervised_tokens:,}"),
        ("packed rows", result.packs),
        ("fill of the packed rows", f"{result.fill:.2%}"),
    ]
    return ["## Data", table(("report", ""), rows)]


def by_reason(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "0"


def versions(records: Mapping[Stage, Record], request: MergeRequest) -> dict[str, str]:
    """Packages that shaped any of the stages, this one included; the latest one's word counts."""
    found: dict[str, str] = {}
    for record in records.values():
        found |= record.versions
    rounded_by = ("bitsandbytes",) if request.base_weights == "nf4" else ()
    found |= {name: version(name) for name in (*MERGED_BY, *rounded_by)}
    return dict(sorted(found.items()))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(escape(cell) for cell in line)} |" for line in lines)


def escape(cell: object) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")
