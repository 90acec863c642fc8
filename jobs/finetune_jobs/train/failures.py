"""Why ranks fail, by what they leave behind, and what to do about it: one row a reason, the first that fits is told."""

import re
from dataclasses import dataclass

from finetune_jobs.errors import MachineTrouble, StageError, UserMistake, first_line


@dataclass(frozen=True)
class Row:
    evidence: str
    """Regular expression, searched in the ranks' errors and their last output."""
    kind: type[UserMistake | MachineTrouble]
    reason: str
    message: str
    cure: str


RANK_KILLED = Row(
    r"exitcode\s*: -9\b|Signal 9 \(SIGKILL\)",
    MachineTrouble,
    "RankKilled",
    "A training process was killed from outside.",
    "Run again: training goes on from the last checkpoint. If nobody killed it, give the stage more memory.",
)
TABLE = (
    Row(
        r"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED",
        UserMistake,
        "GpuOutOfMemory",
        "The training does not fit the GPU's memory.",
        "Write a smaller training.batchSize or training.maxLength, or deepspeed: zero3 over more GPUs.",
    ),
    Row(
        r"No space left on device|Errno 28|PytorchStreamWriter failed|unexpected pos \d+ vs \d+|Disk quota exceeded",
        MachineTrouble,
        "DiskFull",
        "A checkpoint could not be written: the disk is full.",
        "Free some space or use a larger volume; training goes on from the checkpoint before.",
    ),
    Row(
        r"Watchdog caught collective operation timeout|ncclSystemError|ncclRemoteError|NCCL error|"
        r"ncclUnhandledCudaError",
        MachineTrouble,
        "GpusDisconnected",
        "The GPUs lost touch with each other (NCCL).",
        "Run again; if it stays, set NCCL_DEBUG=INFO in stages.train.env and look at the network between the nodes.",
    ),
    Row(
        r"Connection (closed|reset) by peer|DistNetworkError|DistStoreError|RendezvousTimeoutError|Connection refused",
        MachineTrouble,
        "RanksDisconnected",
        "A training process lost touch with the others.",
        "Run again; training goes on from the last checkpoint.",
    ),
    Row(
        r"CUDA driver version is insufficient|no kernel image is available|CUDA error: (unspecified|an illegal)|"
        r"uncorrectable ECC|device-side assert",
        MachineTrouble,
        "GpuFailed",
        "A GPU or its driver failed.",
        "Run again on another node; if it stays, check the driver with nvidia-smi.",
    ),
    Row(
        r"DefaultCPUAllocator: can't allocate memory|MemoryError|Cannot allocate memory",
        MachineTrouble,
        "OutOfMemory",
        "A training process ran out of memory.",
        "Give the train stage more memory, or write fewer training.gpus where it runs on CPU.",
    ),
    Row(
        r"DeepSpeedConfigError|pydantic.*DeepSpeed|DeepSpeed.*Config.*validation|is not a valid ZeRO|"
        r"zero_optimization.*(invalid|error)",
        UserMistake,
        "DeepSpeedConfigInvalid",
        "DeepSpeed refuses its configuration.",
        "Write training.deepspeed: zero2, or correct the JSON by DeepSpeed's config-json page.",
    ),
    Row(
        r"SyntaxError|ConfigParsingError",
        UserMistake,
        "ConfigInvalid",
        "The XTuner config can't be read.",
        "Correct the config at the line that the log names; `python -m py_compile config.py` shows it too.",
    ),
    Row(
        r"is not in the .* registry|Cannot find .*\.py|cannot import name|ModuleNotFoundError|"
        r"got an unexpected keyword argument",
        UserMistake,
        "ConfigInvalid",
        "The XTuner config names something that the installed XTuner 0.2.0 does not have.",
        "Write it as XTuner 0.2.0 names it.",
    ),
    RANK_KILLED,
)
SYMPTOMS = ("GpusDisconnected", "RanksDisconnected")
"""What the others say when one of them is gone; the one that was killed says nothing."""
HOST_OUT_OF_MEMORY = MachineTrouble(
    "OutOfMemory",
    "The kernel killed a training process because the memory of this machine or container ran out.",
    "Give the train stage more memory; training goes on from the last checkpoint.",
)
UNKNOWN = Row(
    "", MachineTrouble, "TrainingFailed", "A training process failed.", "See the traceback in the stage's log."
)


def explain(errors: list[str], output: list[str], *, oom_kills: int = 0) -> StageError:
    """The failure that fits what the ranks said (`errors`, one a rank), their last `output` lines, and how many
    processes the kernel has killed for memory meanwhile."""
    if oom_kills:
        return HOST_OUT_OF_MEMORY
    for evidence in ("\n".join(errors), "\n".join(output)):
        for row in TABLE:
            if re.search(row.evidence, evidence):
                if row.reason in SYMPTOMS and re.search(RANK_KILLED.evidence, "\n".join(output)):
                    return _failure(RANK_KILLED, [])
                return _failure(row, errors)
    return _failure(UNKNOWN, errors)


def _failure(row: Row, errors: list[str]) -> StageError:
    said = f" ({first_line(errors[0])})" if errors else ""
    return row.kind(row.reason, row.message.removesuffix(".") + said + ".", row.cure)
