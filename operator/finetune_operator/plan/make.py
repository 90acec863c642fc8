"""From a job to its stages. Pure: the same job and ConfigMaps give the same plan, on any machine."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from finetune_jobs.contract import (
    AnyRequest,
    DatasetRequest,
    DemoRequest,
    EvaluateRequest,
    ExportRequest,
    MergeRequest,
    ModelRequest,
    Source,
    Stage,
    TrainRequest,
)
from finetune_operator.api import ConfigMaps, FineTuneJob, Spec, SpecError, template_of
from finetune_operator.api.spec import ConfigMapText, RecipeName, Training
from finetune_operator.plan.recipes import RECIPES
from finetune_operator.plan.texts import deepspeed_json, own_prompts, python_text

DEFAULT_PROMPTS = "arxiv-react"


@dataclass(frozen=True)
class PlannedStage:
    request: AnyRequest
    gpu: bool
    """Whether it runs on a GPU where there is one."""

    @property
    def stage(self) -> Stage:
        return self.request.stage

    @property
    def needs(self) -> dict[Stage, str]:
        return self.request.needs

    @cached_property
    def digest(self) -> str:
        return self.request.digest()


@dataclass(frozen=True)
class Plan:
    stages: tuple[PlannedStage, ...]
    """In an order in which they can run."""
    gate: float | None
    """Least fraction of well-formed calls with which the demo moves to the new model."""

    def of(self, stage: Stage) -> PlannedStage | None:
        return next((planned for planned in self.stages if planned.stage == stage), None)


@dataclass(frozen=True)
class Inputs:
    """What a stage's request is made from."""

    job: FineTuneJob
    config_maps: ConfigMaps
    digests: dict[Stage, str]
    """Of the stages before it."""

    @property
    def spec(self) -> Spec:
        return self.job.spec

    @property
    def training(self) -> Training:
        return self.spec.training or Training()

    def needs(self, *stages: Stage) -> dict[Stage, str]:
        return {stage: self.digests[stage] for stage in stages if stage in self.digests}

    def text(self, source: ConfigMapText, path: str) -> str:
        """The text that a spec's field at `path` takes from a ConfigMap."""
        ref = source.config_map_key_ref
        data = self.config_maps.get(ref.name)
        if data is None:
            raise SpecError([f"{path}: there is no ConfigMap {ref.name!r}; add it (locally in the same file)"])
        if ref.key not in data:
            keys = ", ".join(sorted(data)) or "no keys"
            raise SpecError([f"{path}: ConfigMap {ref.name!r} has no key {ref.key!r}, it has {keys}"])
        return data[ref.key]

    def value(self, name: str) -> Any:
        """A training value: what the spec says, else the recipe's, field by field."""
        said, recipe = getattr(self.training, name), getattr(RECIPES[self.training.recipe or RecipeName.QLORA], name)
        if isinstance(said, BaseModel):
            return recipe.model_copy(update=said.model_dump(exclude_none=True))
        return recipe if said is None else said


def bare_source(source: Source) -> Source:
    """The source alone, without what a subclass adds."""
    return Source.model_validate({name: getattr(source, name) for name in Source.model_fields})


def model_request(given: Inputs) -> ModelRequest:
    model = given.spec.model
    return ModelRequest(source=bare_source(model), allow_pickle=model.allow_pickle)


def dataset_request(given: Inputs) -> DatasetRequest | None:
    dataset = given.spec.dataset
    if dataset is None:
        return None
    return DatasetRequest(
        needs=given.needs(Stage.MODEL),
        source=bare_source(dataset),
        format=dataset.format,
        files=dataset.files,
        template=template_of(given.spec),
        max_length=given.value("max_length"),
        pack=given.value("pack"),
        output="messages" if given.training.config else "packed",
        seed=given.training.seed,
        max_dropped=dataset.max_dropped,
    )


def train_request(given: Inputs) -> TrainRequest | None:
    if given.spec.dataset is None:
        return None
    training = given.training
    checkpoint = given.value("checkpoint")
    custom = training.deepspeed_config
    return TrainRequest(
        needs=given.needs(Stage.MODEL, Stage.DATASET),
        template=template_of(given.spec),
        epochs=given.value("epochs"),
        max_length=given.value("max_length"),
        batch_size=given.value("batch_size"),
        gradient_accumulation=given.value("gradient_accumulation"),
        learning_rate=given.value("learning_rate"),
        warmup_ratio=given.value("warmup_ratio"),
        lora=given.value("lora"),
        quantization=given.value("quantization"),
        deepspeed="custom" if custom else given.value("deepspeed"),
        deepspeed_config=deepspeed_json(given.text(custom, "spec.training.deepspeedConfig")) if custom else None,
        config=python_text(given.text(training.config, "spec.training.config")) if training.config else None,
        gpus=training.gpus,
        nodes=training.nodes,
        seed=training.seed,
        fast=training.fast,
        fp8=training.fp8 or None,
        checkpoint_every=checkpoint.every_steps,
        checkpoint_keep=checkpoint.keep,
    )


def export_request(given: Inputs) -> ExportRequest:
    adapter = given.spec.adapter
    if adapter is None:
        return ExportRequest(needs=given.needs(Stage.MODEL, Stage.TRAIN))
    return ExportRequest(
        needs=given.needs(Stage.MODEL), adapter=bare_source(adapter), allow_pickle=adapter.allow_pickle
    )


def merge_request(given: Inputs) -> MergeRequest:
    merge = given.spec.merge
    return MergeRequest(
        needs=given.needs(Stage.MODEL, Stage.EXPORT),
        dtype=merge.dtype,
        base_weights="nf4" if merge.base_weights == "nf4" else None,
        max_shard_size=merge.max_shard_size,
        title=given.job.metadata.name,
    )


def evaluate_request(given: Inputs) -> EvaluateRequest | None:
    evaluation = given.spec.evaluation
    if not evaluation.enabled:
        return None
    own = evaluation.prompts_from
    return EvaluateRequest(
        needs=given.needs(Stage.MODEL, Stage.MERGE),
        prompts=own_prompts(given.text(own, "spec.evaluation.promptsFrom")) if own else named_prompts(given),
        template=template_of(given.spec),
        turns=evaluation.turns,
        max_new_tokens=evaluation.max_new_tokens,
    )


def named_prompts(given: Inputs) -> str:
    return given.spec.evaluation.prompts or DEFAULT_PROMPTS


def demo_request(given: Inputs) -> DemoRequest | None:
    demo = given.spec.demo
    if not demo.enabled:
        return None
    return DemoRequest(
        needs=given.needs(Stage.MODEL, Stage.DATASET, Stage.TRAIN, Stage.MERGE, Stage.EVALUATE),
        title=demo.title,
        template=template_of(given.spec),
        compare_with_base=demo.compare_with_base,
        tools=demo.tools,
    )


@dataclass(frozen=True)
class StageRow:
    request: Callable[[Inputs], AnyRequest | None]
    """None where the job has no such stage."""
    gpu: bool


STAGES = {
    Stage.MODEL: StageRow(model_request, gpu=False),
    Stage.DATASET: StageRow(dataset_request, gpu=False),
    Stage.TRAIN: StageRow(train_request, gpu=True),
    Stage.EXPORT: StageRow(export_request, gpu=False),
    Stage.MERGE: StageRow(merge_request, gpu=False),
    Stage.EVALUATE: StageRow(evaluate_request, gpu=True),
    Stage.DEMO: StageRow(demo_request, gpu=True),
}
"""The stages, declared once; both executors walk what comes of it."""


def make_plan(job: FineTuneJob, config_maps: ConfigMaps) -> Plan:
    """The job's stages with their requests; SpecError where a ConfigMap does not hold what the job names."""
    digests: dict[Stage, str] = {}
    planned = []
    for stage, row in STAGES.items():
        request = row.request(Inputs(job, config_maps, digests))
        if request is not None:
            planned.append(PlannedStage(request, row.gpu))
            digests[stage] = planned[-1].digest
    evaluation = job.spec.evaluation
    minimum = evaluation.minimum_valid_calls if evaluation.enabled else None
    return Plan(tuple(planned), float(minimum) if minimum is not None else None)
