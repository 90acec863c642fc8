"""What this machine computes on, asked without touching a GPU: no process here may hold memory that a rank needs."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_jobs.contract import GPUS_VARIABLE
from finetune_jobs.errors import MachineTrouble

QUERY = "index,uuid,name,memory.total,memory.free,compute_cap"
NO_DEVICES = "No devices were found"
"""What it says, with code 6, where the driver is in order and no GPU is to be seen."""
MEBIBYTE = 2**20
BF16_CAPABILITY = 8.0
"""Compute capability of the first GPUs that compute in bfloat16 (Ampere)."""
FP8_CAPABILITY = 8.9
"""Of the first that multiply in fp8 (Ada)."""


@dataclass(frozen=True)
class Gpu:
    name: str
    total: int
    """Bytes."""
    free: int
    """Bytes."""
    capability: float


@dataclass(frozen=True)
class Machine:
    gpus: tuple[Gpu, ...]
    cores: int

    @property
    def dtype(self) -> str:
        """What the GPUs compute in."""
        return "bfloat16" if all(gpu.capability >= BF16_CAPABILITY for gpu in self.gpus) else "float16"


def survey(environ: Mapping[str, str] = os.environ) -> Machine:
    """Raises MachineTrouble where the driver is there and does not tell its GPUs."""
    return Machine(gpus=_gpus(environ.get("CUDA_VISIBLE_DEVICES")), cores=_cores())


def _gpus(visible: str | None) -> tuple[Gpu, ...]:
    if visible == "" or shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if NO_DEVICES in asked.stdout:
        return ()
    if asked.returncode != 0:
        raise _failed(f"nvidia-smi ends with {asked.returncode}: {(asked.stdout + asked.stderr).strip()}")
    return parse_gpus(asked.stdout, visible)


def _failed(message: str) -> MachineTrouble:
    return MachineTrouble(
        "GpuFailed",
        message,
        "Mend the driver (after its update: restart the machine); for the CPU set CUDA_VISIBLE_DEVICES to nothing.",
    )


def require_given_gpus(environ: Mapping[str, str] = os.environ) -> None:
    """Raise MachineTrouble in a pod that was given GPUs and sees none: it would work for days on the CPU."""
    given = environ.get(GPUS_VARIABLE)
    if given and not survey(environ).gpus:
        raise MachineTrouble(
            "GpuInvisible",
            f"The pod was given {given} GPUs, and nvidia-smi shows none in it.",
            "Check the node's NVIDIA driver and container toolkit (`kubectl describe node`); where the toolkit is not "
            "the node's default runtime, write its RuntimeClass into runtimeClassName of the stage.",
        )


def parse_gpus(listing: str, visible: str | None) -> tuple[Gpu, ...]:
    """`listing` as nvidia-smi prints QUERY; `visible` is CUDA_VISIBLE_DEVICES: indices or UUIDs, None for all.

    Raises MachineTrouble for what it can't tell the memory of, such as a slice of a GPU (MIG).
    """
    found: dict[str, Gpu] = {}
    names: dict[str, str] = {}
    for line in filter(None, map(str.strip, listing.splitlines())):
        index, uuid, name, total, free, capability = (part.strip() for part in line.split(","))
        try:
            found[index] = Gpu(name, int(total) * MEBIBYTE, int(free) * MEBIBYTE, float(capability))
        except ValueError:
            raise _failed(f"nvidia-smi does not tell the memory of a GPU: {line}") from None
        names[uuid] = index
    if visible is None:
        return tuple(found.values())
    if visible.startswith("MIG-"):
        raise _failed(f"CUDA_VISIBLE_DEVICES is {visible}: the memory of slices of a GPU (MIG) is not known")
    chosen = (names.get(part.strip(), part.strip()) for part in visible.split(","))
    return tuple(found[index] for index in chosen if index in found)


def _cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use, a container's limit included."""
    allowed = len(os.sched_getaffinity(0))
    if quota.exists():
        limit, period = quota.read_text(encoding="ascii").split()
        if limit != "max":
            allowed = min(allowed, max(1, int(limit) // int(period)))
    return allowed


def available_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that new processes may take, a container's limit included."""
    lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if limit.exists() and used.exists() and (text := limit.read_text(encoding="ascii").strip()) != "max":
        free = min(free, int(text) - int(used.read_text(encoding="ascii")))
    return free
