"""Stages, exit codes, and what files, folders and variables are called."""

from enum import IntEnum, StrEnum

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
