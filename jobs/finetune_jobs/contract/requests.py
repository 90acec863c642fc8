"""What each stage is asked to make, and the digest that names it."""

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from finetune_jobs.contract.base import OUTSIDE_DIGEST, Contract, DecimalString
from finetune_jobs.contract.names import DIGEST_LENGTH, Stage
from finetune_jobs.contract.sources import Source


def shaping(value: Any) -> Any:
    """What of a request shapes the output, as JSON: fields marked OUTSIDE_DIGEST and absent ones are left out."""
    if isinstance(value, Contract):
        fields = {name: field for name, field in type(value).model_fields.items() if getattr(value, name) is not None}
        return {
            field.alias or name: shaping(getattr(value, name))
            for name, field in fields.items()
            if field.json_schema_extra != OUTSIDE_DIGEST
        }
    if isinstance(value, tuple):
        return [shaping(item) for item in value]
    if isinstance(value, dict):
        return {str(key): shaping(item) for key, item in value.items()}
    return value


class Request(Contract):
    """What one stage is asked to make."""

    VERSION: ClassVar[int] = 1
    """Raised when the same request would give another output."""

    needs: dict[Stage, str] = Field(default_factory=dict, description="Digests of the stages whose output is read.")

    def digest(self) -> str:
        """Hexadecimal digest over the stage, its version and every field that shapes the output."""
        body = shaping(self)
        body["version"] = self.VERSION
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:DIGEST_LENGTH]


class ModelRequest(Request):
    """Bring the base model to the workspace."""

    stage: Literal[Stage.MODEL] = Stage.MODEL
    source: Source
    allow_pickle: bool = False
    """Take .bin and .pth weights too; loading them can run code that their author put in."""


class DatasetFormat(StrEnum):
    AGENT_FLAN = "agent-flan"
    """JSON lines of {"conversation": [{role, content, loss}], "id"}, as internlm/Agent-FLAN is published."""
    MESSAGES = "messages"
    """OpenAI's {"messages": [{role, content}]} as JSON, JSON lines or Parquet, .gz and .zst too."""
    XTUNER = "xtuner"
    """A Dataset on disk (``save_to_disk``) with a ``messages`` column, or already tokenised."""


class DatasetRequest(Request):
    """Turn raw conversations into packed tokens. Needs the model for its tokenizer."""

    stage: Literal[Stage.DATASET] = Stage.DATASET
    source: Source
    format: DatasetFormat
    files: tuple[str, ...] = ()
    """Glob patterns relative to the source's root; empty takes every file that the format knows."""
    template: str
    """A name of xtuner.utils.PROMPT_TEMPLATE, such as llama3_chat or qwen_chat."""
    max_length: int = Field(ge=16)
    """Tokens a row."""
    pack: bool = True
    """Fill rows of max_length with several conversations; False keeps one conversation a row."""
    output: Literal["packed", "messages"] = "packed"
    """messages stops after conversion, for an XTuner config that tokenises by itself."""
    seed: int = 42
    max_dropped: DecimalString = "0.05"
    """Largest fraction of rows that may be dropped before the stage ends as the user's mistake."""


class Lora(Contract):
    """The low-rank adapter (Hu et al., 2021, arXiv:2106.09685)."""

    rank: int = Field(default=64, ge=1)
    """Of the two small matrices."""
    alpha: int = Field(default=16, ge=1)
    """Scale: the adapter adds alpha / rank times its product."""
    dropout: DecimalString = "0.1"


class TrainRequest(Request):
    """Train a QLoRA adapter by XTuner under torchrun and DeepSpeed."""

    stage: Literal[Stage.TRAIN] = Stage.TRAIN
    template: str
    epochs: int = Field(ge=1)
    max_length: int = Field(ge=16)
    batch_size: int = Field(ge=1)
    """Rows a device and micro-step."""
    gradient_accumulation: int = Field(ge=1)
    """Micro-steps an optimizer step."""
    learning_rate: DecimalString
    warmup_ratio: DecimalString = "0.03"
    """Part of all optimizer steps in which the learning rate rises linearly."""
    lora: Lora = Lora()
    quantization: Literal["nf4", "none"] = "nf4"
    deepspeed: Literal["zero1", "zero2", "zero3", "custom"] = "zero2"
    deepspeed_config: str | None = None
    """JSON text; with deepspeed=custom."""
    config: str | None = None
    """The user's own XTuner config (Python text); used as it is apart from its paths."""
    gpus: int = Field(default=1, ge=0)
    """Processes a node; without GPUs on the machine as many CPU processes (0 counts as 1)."""
    nodes: int = Field(default=1, ge=1)
    seed: int = 42
    fast: bool = True
    """Use the faster model code where it is proved equal."""
    fp8: Literal[True] | None = None
    """Frozen weights and what is multiplied by them in 8 bits; only on the fast path."""
    checkpoint_every: int = Field(default=500, ge=1, json_schema_extra=OUTSIDE_DIGEST)
    """Optimizer steps between two checkpoints."""
    checkpoint_keep: int = Field(default=2, ge=1, json_schema_extra=OUTSIDE_DIGEST)


class ExportRequest(Request):
    """Make a Hugging Face adapter of the checkpoint, or bring a ready one when `adapter` is given."""

    stage: Literal[Stage.EXPORT] = Stage.EXPORT
    adapter: Source | None = None
    allow_pickle: bool = False


class MergeRequest(Request):
    """Add the adapter to the base weights."""

    stage: Literal[Stage.MERGE] = Stage.MERGE
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    base_weights: Literal["nf4"] | None = None
    """nf4: the values that QLoRA trained beside; None: the model's own."""
    max_shard_size: Annotated[str, StringConstraints(pattern=r"^[0-9]+(MB|GB)$")] = "4GB"
    """Largest safetensors file, in powers of ten as ``save_pretrained`` counts."""
    title: str = Field(default="", json_schema_extra=OUTSIDE_DIGEST)
    """Name in the model card."""


class Prompt(Contract):
    """One held-out question."""

    question: str = Field(min_length=1, max_length=4000)
    tool: str | None = None
    """The API that must be called, such as ArxivSearch.get_arxiv_article_information; None: no tool is needed."""
    arguments: dict[str, str] | None = None
    """Exact arguments, compared without case; None accepts any well-formed ones."""


PROMPT_SETS = ("arxiv-react", "two-tools-react")
"""Built-in sets of held-out prompts, by name; the first needs no tool but ArxivSearch and is the default."""


TOOLS = ("ArxivSearch", "Calculator")
"""Lagent's actions that a page may offer: those that always answer and can do no harm."""


class EvaluateRequest(Request):
    """Judge base against merged on held-out prompts."""

    stage: Literal[Stage.EVALUATE] = Stage.EVALUATE
    prompts: tuple[Prompt, ...] | str
    """The prompts themselves or the name of a built-in set."""
    template: str
    turns: int = Field(default=20, ge=0)
    """How many of the prompts are followed to the end of the turn."""
    max_new_tokens: int = Field(default=96, ge=16)
    """Tokens a model call."""


class DemoRequest(Request):
    """Serve the agent, before and after."""

    stage: Literal[Stage.DEMO] = Stage.DEMO
    title: str = "Agent demo"
    template: str
    compare_with_base: bool = True
    tools: tuple[str, ...] = ("ArxivSearch",)
    """Names of lagent's actions that the page offers."""


AnyRequest = Annotated[
    ModelRequest | DatasetRequest | TrainRequest | ExportRequest | MergeRequest | EvaluateRequest | DemoRequest,
    Field(discriminator="stage"),
]
