"""What a user writes: ``spec`` of a FineTuneJob.

The models here are the source of truth: the CRD, `kubectl explain` and the messages of `finetune validate`
come from them. Sources and small shared types live in the jobs' contract, since requests carry them too.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator
from pydantic.alias_generators import to_camel

from finetune_jobs.contract import PROMPT_SETS, TOOLS, Contract, DatasetFormat, DecimalString, DnsName, Source
from finetune_operator.api.forms import HostName, Quantity, QueueName, ShardSize, nanos
from finetune_operator.api.pods import Annotations, ImagePullSecret, Stages
from finetune_operator.api.problems import nearest
from finetune_operator.api.templates import SPELLINGS


def _known_template(name: str) -> str:
    if name not in SPELLINGS:
        raise ValueError(f"{name!r} is not a template that XTuner ships; {nearest(name, SPELLINGS)}")
    return name


Template = Annotated[
    str, AfterValidator(_known_template), Field(json_schema_extra={"enum": sorted(SPELLINGS)}, max_length=40)
]


def _known_prompts(name: str) -> str:
    if name not in PROMPT_SETS:
        raise ValueError(f"{name!r} is not a built-in set of prompts; {nearest(name, PROMPT_SETS)}")
    return name


PromptSet = Annotated[
    str, AfterValidator(_known_prompts), Field(json_schema_extra={"enum": sorted(PROMPT_SETS)}, max_length=63)
]


def _known_tool(name: str) -> str:
    if name not in TOOLS:
        raise ValueError(f"{name!r} is not a tool that the page offers; {nearest(name, TOOLS)}")
    return name


Tool = Annotated[str, AfterValidator(_known_tool), Field(json_schema_extra={"enum": sorted(TOOLS)}, max_length=63)]


def _fraction(text: str) -> str:
    if not 0 <= float(text) <= 1:
        raise ValueError(f'{text!r} is not between "0" and "1"; write a fraction such as "0.8"')
    return text


Fraction = Annotated[DecimalString, AfterValidator(_fraction)]


class ConfigMapKeyRef(Contract):
    """A key of a ConfigMap in the job's namespace."""

    name: DnsName = Field(description="Name of the ConfigMap.")
    key: str = Field(min_length=1, max_length=253, description="Key inside the ConfigMap.")


class ConfigMapText(Contract):
    """Text that lies in a ConfigMap."""

    config_map_key_ref: ConfigMapKeyRef = Field(description="The ConfigMap's key that holds the text.")


class Model(Source):
    """The base model: a source of Hugging Face files or of a .gguf file."""

    allow_pickle: bool = Field(
        default=False, description="Take .bin weights too. Loading them can run code that their author put in."
    )


class Dataset(Source):
    """The raw conversations."""

    format: DatasetFormat = Field(
        description="agent-flan (the published JSON lines), messages (OpenAI's) or xtuner (a Dataset on disk)."
    )
    template: Template = Field(description="Conversation template by XTuner's name, such as llama3_chat or qwen_chat.")
    files: tuple[Annotated[str, StringConstraints(min_length=1, max_length=500)], ...] = Field(
        default=(),
        max_length=100,
        description='Glob patterns below the source, such as "data/*.jsonl"; empty takes those of the format.',
    )
    max_dropped: Fraction = Field(
        default="0.05", description="Largest fraction of rows that may be left out because they can't be used."
    )


class Adapter(Source):
    """A ready adapter: nothing is trained, it is checked and merged."""

    template: Template = Field(description="Conversation template that the adapter was trained with, by XTuner's name.")
    allow_pickle: bool = Field(default=False, description="Take adapter_model.bin too; loading it can run code.")


class Lora(Contract):
    """Shape of the adapter (Hu et al., 2021, arXiv:2106.09685)."""

    rank: int | None = Field(default=None, ge=1, le=1024, description="Rank of the two small matrices.")
    alpha: int | None = Field(
        default=None, ge=1, le=4096, description="Scale: the adapter adds alpha / rank times its product."
    )
    dropout: DecimalString | None = Field(default=None, description='Dropout before the adapter, as a string: "0.1".')


class Checkpoint(Contract):
    """When training saves what it needs to go on."""

    every_steps: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Optimizer steps between two checkpoints."
    )
    keep: int | None = Field(
        default=None, ge=1, le=100, description="How many checkpoints are kept; older ones are removed."
    )


class RecipeName(StrEnum):
    """Built-in sets of training values; what the spec says beside it wins."""

    QLORA = "qlora"
    QLORA_SMALL = "qlora-small"


class Training(Contract):
    """How the adapter is trained. What is left out comes from the recipe."""

    recipe: RecipeName | None = Field(
        default=None,
        description="qlora (default): the tutorial's values for 7-8B models. qlora-small: for models below 1B on CPUs.",
    )
    config: ConfigMapText | None = Field(
        default=None,
        description="Your own XTuner config, kept line by line; paths, hooks and seed stand below it. No recipe then.",
    )
    epochs: int | None = Field(default=None, ge=1, le=1000, description="Passes over the dataset.")
    max_length: int | None = Field(default=None, ge=16, le=1_048_576, description="Tokens a training row.")
    pack: bool | None = Field(default=None, description="Fill each row with several conversations, kept apart.")
    batch_size: int | None = Field(default=None, ge=1, le=4096, description="Rows a device and micro-step.")
    gradient_accumulation: int | None = Field(
        default=None, ge=1, le=65536, description="Micro-steps that one optimizer step adds up."
    )
    learning_rate: DecimalString | None = Field(
        default=None, description='Highest learning rate as a string, such as "2e-4"; specs have no floats.'
    )
    warmup_ratio: Fraction | None = Field(
        default=None, description='Part of the steps in which the learning rate rises, such as "0.03".'
    )
    lora: Lora | None = Field(default=None, description="Shape of the adapter.")
    quantization: Literal["nf4", "none"] | None = Field(
        default=None, description="nf4 keeps the frozen base in 4 bits (QLoRA); none keeps it as it is."
    )
    deepspeed: Literal["zero1", "zero2", "zero3"] | None = Field(
        default=None, description="DeepSpeed's ZeRO stage: what the GPUs share out among them."
    )
    deepspeed_config: ConfigMapText | None = Field(
        default=None, description="Your own DeepSpeed JSON; excludes deepspeed."
    )
    gpus: int = Field(
        default=1, ge=1, le=64, description="GPUs a node, one process each; on a machine without GPUs, processes."
    )
    nodes: int = Field(default=1, ge=1, le=1024, description="Nodes that train together.")
    seed: int = Field(default=42, ge=0, le=2_147_483_647, description="Seed of the shuffle and of the adapter's start.")
    fast: bool = Field(default=True, description="Use the faster model code where it is proved equal.")
    fp8: bool = Field(
        default=False,
        description="Multiply the frozen weights in 8-bit floating point, on GPUs that do (Ada, Hopper and newer): "
        "faster, and less exact. docs/gpu.md has both measured.",
    )
    checkpoint: Checkpoint | None = Field(default=None, description="When training saves.")

    @field_validator("learning_rate")
    @classmethod
    def _sane(cls, text: str | None) -> str | None:
        if text is not None and not 0 < float(text) <= 0.1:  # noqa: PLR2004 - the sentence names it
            raise ValueError(f'{text} is no learning rate; write a string above 0 and at most "0.1", such as "2e-4"')
        return text

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.deepspeed and self.deepspeed_config:
            raise ValueError("write deepspeed or deepspeedConfig, not both")
        said = [name for name in CONFIG_SAYS if getattr(self, name) is not None]
        if self.config and said:
            fields = ", ".join(to_camel(name) for name in said)
            raise ValueError(f"config says these by itself, so leave out {fields} and write the values in the config")
        plain = not self.fast or self.config or self.deepspeed_config or self.deepspeed == "zero3"
        if self.fp8 and plain:
            raise ValueError(FP8_IS_FAST)
        return self


FP8_IS_FAST = (
    "fp8 is a way of the faster model code; leave out fp8, or else fast: false, config, deepspeedConfig and "
    "deepspeed: zero3"
)


CONFIG_SAYS = (
    "recipe", "epochs", "max_length", "pack", "batch_size", "gradient_accumulation", "learning_rate", "warmup_ratio",
    "lora", "quantization",
)  # fmt: skip
"""What an XTuner config says by itself."""


class Merge(Contract):
    """How the merged model is written."""

    dtype: Literal["bfloat16", "float16", "float32"] = Field(default="bfloat16", description="Type of its weights.")
    base_weights: Literal["original", "nf4"] = Field(
        default="original",
        description="What the adapter is added to: original, the model's own weights; nf4, the 4-bit values that QLoRA "
        "trained it beside, which small models need to keep all that they learned.",
    )
    max_shard_size: ShardSize = Field(default="4GB", description='Largest weight file, such as "4GB".')


class Evaluation(Contract):
    """How the result is judged before the demo moves to it."""

    enabled: bool = Field(default=True, description="False moves the demo without judging the model.")
    prompts: PromptSet | None = Field(
        default=None, description="A built-in set of held-out prompts; arxiv-react is the default."
    )
    prompts_from: ConfigMapText | None = Field(
        default=None, description="Your own prompts: YAML or JSON list of {question, tool, arguments}."
    )
    minimum_valid_calls: Fraction | None = Field(
        default=None,
        description='The gate: the demo stays on the last good model below this fraction of well-formed calls, "0.8".',
    )
    turns: int = Field(default=20, ge=0, le=10_000, description="Prompts that are followed to their final answer.")
    max_new_tokens: int = Field(default=96, ge=16, le=8192, description="Tokens a model call.")

    @model_validator(mode="after")
    def _one_set(self) -> Self:
        if self.prompts and self.prompts_from:
            raise ValueError("write prompts (a built-in set) or promptsFrom (your own), not both")
        return self


class IngressTls(Contract):
    """TLS at the Ingress."""

    secret_name: DnsName = Field(description="Secret of type kubernetes.io/tls.")


class Ingress(Contract):
    """The demo's URL by an Ingress."""

    host: HostName = Field(description="Host name of the demo, such as agent.example.com.")
    class_name: DnsName | None = Field(default=None, description="IngressClass; empty takes the cluster's default.")
    tls: IngressTls | None = Field(default=None, description="Serve the host by https.")
    annotations: Annotations = Field(
        default_factory=dict,
        max_length=64,
        description="For the ingress controller: how users log in, body sizes, who issues the certificate.",
    )


class ParentRef(Contract):
    """A Gateway that an HTTPRoute hangs on."""

    name: DnsName = Field(description="Name of the Gateway.")
    namespace: DnsName | None = Field(default=None, description="Its namespace; the job's own when left out.")
    section_name: DnsName | None = Field(default=None, description="One listener of the Gateway.")


class HttpRoute(Contract):
    """The demo's URL by the Gateway API."""

    parent_refs: tuple[ParentRef, ...] = Field(min_length=1, max_length=32, description="Gateways to hang on.")
    hostnames: tuple[HostName, ...] = Field(default=(), max_length=16, description="Host names of the demo.")


class Demo(Contract):
    """The agent served before and after."""

    enabled: bool = Field(default=True, description="False ends the job with the judged model.")
    title: str = Field(default="Agent demo", min_length=1, max_length=200, description="Heading of the page.")
    replicas: int = Field(default=1, ge=0, le=100, description="Pods that serve the page.")
    gpus: int = Field(default=0, ge=0, le=64, description="GPUs a demo pod; 0 serves from the CPU.")
    compare_with_base: bool = Field(default=True, description="Show the base model's answer beside the tuned one's.")
    tools: tuple[Tool, ...] = Field(
        default=("ArxivSearch",), min_length=1, max_length=20, description="Lagent's actions that the page offers."
    )
    ingress: Ingress | None = Field(default=None, description="Open the page by an Ingress.")
    http_route: HttpRoute | None = Field(default=None, description="Open the page by an HTTPRoute.")


AccessMode = Literal["ReadWriteOnce", "ReadWriteMany"]
"""Not ReadWriteOncePod: an open demo would keep every other pod of the job waiting."""


DEFAULT_SIZE = "100Gi"
ROOM = 'a claim of no size holds nothing; write the room that model, checkpoints and result need, such as "200Gi"'


class Storage(Contract):
    """The workspace: a claim of your own (it may serve many jobs) or a new one."""

    claim_name: DnsName | None = Field(default=None, description="Your own PersistentVolumeClaim, never deleted.")
    size: Quantity | None = Field(default=None, description=f"Size of a new claim; {DEFAULT_SIZE} if left out.")
    storage_class_name: DnsName | None = Field(default=None, description="Class of a new claim.")
    access_modes: tuple[AccessMode, ...] | None = Field(
        default=None, min_length=1, max_length=2, description="Access modes of a new claim; ReadWriteOnce if left out."
    )
    reclaim_policy: Literal["Retain", "Delete"] = Field(
        default="Retain", description="What becomes of a new claim when the job is deleted."
    )

    @field_validator("size")
    @classmethod
    def _has_room(cls, size: str | None) -> str | None:
        if size is not None and not nanos(size):
            raise ValueError(f"{size!r} is no size; {ROOM}")
        return size

    @model_validator(mode="after")
    def _own_or_new(self) -> Self:
        new = [n for n in ("size", "storage_class_name", "access_modes") if getattr(self, n) is not None]
        if self.claim_name and new:
            fields = ", ".join(map(to_camel, new))
            raise ValueError(f"beside claimName leave out {fields}: a new claim has such")
        return self

    @property
    def shared_by_nodes(self) -> bool:
        """Whether several nodes can write to it; a claim of the user's own is believed to."""
        return self.claim_name is not None or "ReadWriteMany" in (self.access_modes or ())


class Spec(Contract):
    """One base model and one dataset (or a ready adapter), taken to a served agent."""

    model: Model = Field(description="The base chat model.")
    dataset: Dataset | None = Field(default=None, description="The conversations to train on.")
    adapter: Adapter | None = Field(default=None, description="A ready adapter; nothing is trained then.")
    training: Training | None = Field(default=None, description="How to train; the qlora recipe when left out.")
    merge: Merge = Field(default=Merge(), description="How the merged model is written.")
    evaluation: Evaluation = Field(default=Evaluation(), description="How the result is judged.")
    demo: Demo = Field(default=Demo(), description="The page that serves the agent.")
    storage: Storage = Field(default=Storage(), description="The workspace that all stages share.")
    stages: Stages = Field(default=Stages(), description="Where and how each stage's pods run.")
    suspend: bool = Field(default=False, description="True saves a running training and stops; False goes on.")
    ttl_seconds_after_finished: int | None = Field(
        default=None, ge=0, le=2_147_483_647, description="Seconds after which a finished job's pods are cleaned up."
    )
    queue_name: QueueName | None = Field(default=None, description="Kueue's LocalQueue that admits the stages.")
    image_pull_secrets: tuple[ImagePullSecret, ...] = Field(default=(), max_length=20, description="To pull images.")
    priority_class_name: DnsName | None = Field(default=None, description="PriorityClass of the stages' pods.")

    @model_validator(mode="after")
    def _trained_or_ready(self) -> Self:
        if (self.dataset is None) == (self.adapter is None):
            raise ValueError("write dataset (to train an adapter) or adapter (a ready one), one of the two")
        if self.adapter is not None and self.training is not None:
            raise ValueError("with a ready adapter nothing is trained; leave out training or adapter")
        return self

    @model_validator(mode="after")
    def _merged_onto_what_was_trained_beside(self) -> Self:
        if self.training and self.training.quantization == "none" and self.merge.base_weights == "nf4":
            raise ValueError(
                "the adapter is trained beside unquantised weights (training.quantization: none), so leave out "
                "merge.baseWeights"
            )
        return self

    @model_validator(mode="after")
    def _nodes_share_the_workspace(self) -> Self:
        if self.training and self.training.nodes > 1 and not self.storage.shared_by_nodes:
            raise ValueError(
                "training.nodes above 1 needs a workspace that all nodes write to; "
                "write storage.accessModes: [ReadWriteMany] or storage.claimName"
            )
        return self


def template_of(spec: Spec) -> str:
    """XTuner's name of the template that the job speaks."""
    holder: Any = spec.dataset or spec.adapter
    return SPELLINGS[holder.template]
