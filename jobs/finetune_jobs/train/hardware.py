"""What this machine trains on, asked without touching a GPU: no process here may hold memory that a rank needs."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

QUERY = "index,uuid,name,memory.total,memory.free,compute_cap"
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
    return Machine(gpus=_gpus(environ.get("CUDA_VISIBLE_DEVICES")), cores=_cores())


def _gpus(visible: str | None) -> tuple[Gpu, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return parse_gpus(asked.stdout, visible) if asked.returncode == 0 else ()


def parse_gpus(listing: str, visible: str | None) -> tuple[Gpu, ...]:
    """`listing` as nvidia-smi prints QUERY; `visible` is CUDA_VISIBLE_DEVICES: indices or UUIDs, None for all."""
    found: dict[str, Gpu] = {}
    names: dict[str, str] = {}
    for line in filter(None, map(str.strip, listing.splitlines())):
        index, uuid, name, total, free, capability = (part.strip() for part in line.split(","))
        found[index] = Gpu(name, int(total) * MEBIBYTE, int(free) * MEBIBYTE, float(capability))
        names[uuid] = index
    if visible is None:
        return tuple(found.values())
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
