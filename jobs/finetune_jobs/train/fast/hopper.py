"""Attention for Hopper GPUs by the package flash-attn-4, where it is installed.

It compiles when it first runs, for some ten seconds, and keeps what it compiled in a cache folder; `prepare` lets a
process of its own do so while the weights are read. Before anything is trained with it, it is held to PyTorch's
attention on small random inputs; where it fails or differs, the log says so and PyTorch's runs. FINETUNE_HOPPER=0
leaves it out.
"""

import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune_jobs.lifeline import PARENT_VARIABLE, die_with_parent

log = logging.getLogger(__name__)

Compiling = subprocess.Popen[bytes] | None
"""A process that compiles, if there is one."""

SWITCH = "FINETUNE_HOPPER"
CAPABILITY = (9, 0)
WIDTH = 128
"""Elements of an attention head: at other widths it was not measured to be faster."""
TOLERANCE = 0.02
"""Norm of a difference by the norm of the result: in bfloat16 two right ways are some 0.003 apart."""
PATIENCE = 120
"""Seconds to compile: some five times what it needs."""


@lru_cache
def wanted(device: torch.device, dtype: torch.dtype) -> bool:
    return (
        os.environ.get(SWITCH) != "0"
        and device.type == "cuda"
        and dtype == torch.bfloat16
        and torch.cuda.get_device_capability(device) == CAPABILITY
    )


def trusted(
    load: Callable[[], Callable[..., Tensor]], differs: Callable[[Callable[..., Tensor]], float]
) -> Callable[..., Tensor] | None:
    """What `load` gives, where it can be had and `differs` little from PyTorch; the log says what runs."""
    keep_compiled()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about the package's own kernels
            way = load()
            difference = differs(way)
    except ImportError as error:
        log.info("Attention by PyTorch: flash-attn-4 is not installed (%s).", error)
    except Exception as error:  # noqa: BLE001 - a compiler's, a driver's or a version's: PyTorch does the same work
        log.warning("Attention by PyTorch: flash-attn-4 failed with %s: %.300s", type(error).__name__, error)
    else:
        if difference < TOLERANCE:  # which nan is not
            log.info("Attention by flash-attn-4.")
            return way
        log.warning("Attention by PyTorch: what flash-attn-4 computes is %.2g away from it.", difference)
    return None


def flash_attention() -> Callable[..., Tensor]:
    """flash-attn-4's attention, called as `attention.by_torch`."""
    from flash_attn.cute.interface import flash_attn_func, flash_attn_varlen_func

    def attend(q: Tensor, k: Tensor, v: Tensor, documents: Any) -> Tensor:
        if documents is None:
            return flash_attn_func(q, k, v, causal=True)[0]
        flat = [t.flatten(0, 1) for t in (q, k, v)]
        where = {"cu_seqlens_q": documents.starts, "cu_seqlens_k": documents.starts,
                 "max_seqlen_q": documents.longest, "max_seqlen_k": documents.longest}  # fmt: skip
        return flash_attn_varlen_func(*flat, **where, causal=True)[0].view(q.shape)

    return attend


# --- Compiled once


def keep_compiled() -> None:
    """flash-attn-4 reads these when it is imported."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME", tempfile.gettempdir())) / ".cache"
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_DIR", str(Path(cache) / "flash-attn-4"))


def prepare(heads: int, groups: int) -> Compiling:
    """Start to compile for a model with so many attention heads, where the package is installed and of use.

    What goes wrong there is told by the process that looks for what was compiled.
    """
    if not (find_spec("flash_attn") and torch.cuda.is_available() and wanted(torch.device("cuda"), torch.bfloat16)):
        return None
    keep_compiled()
    return subprocess.Popen(
        [sys.executable, "-m", "finetune_jobs.train.fast.hopper", str(heads), str(groups)],
        env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def await_compiled(process: Compiling) -> None:
    """Until what `prepare` started has ended; where it takes too long it is ended."""
    if process is None:
        return
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(heads: int, groups: int) -> None:
    """Compile, in this process, what a model with so many heads asks for."""
    die_with_parent()
    from finetune_jobs.train.fast.attention import attention_for

    attention_for(torch.device("cuda", torch.cuda.current_device()), torch.bfloat16, heads, groups, WIDTH)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
