"""One training process: ``xtuner.tools.train`` with what it needs to be safe on this machine.

torchrun starts it, or you by hand, beside the config that the stage wrote::

    python -m torch.distributed.run --nproc-per-node 1 -m finetune_jobs.train.rank \\
        config.py --work-dir WORK --deepspeed deepspeed.json --launcher pytorch
"""

import gc
import importlib
import json
import logging
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from finetune_jobs.errors import StageError, as_told
from finetune_jobs.lifeline import die_with_parent
from finetune_jobs.train import stop
from finetune_jobs.train.layout import RANKS_VARIABLE

DEFAULTS = {
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",  # DeepSpeed's checkpoints hold more than tensors; these are our own
    "MKL_SERVICE_FORCE_INTEL": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin make two processes on one core ten times slower
    "GOMP_SPINCOUNT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


def main(arguments: Sequence[str]) -> None:
    die_with_parent()
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    stop.listen()
    logging.getLogger("finetune_jobs").addHandler(logging.StreamHandler())
    if os.environ.get("RANK", "0") == "0":  # the others say the same
        logging.getLogger("finetune_jobs").setLevel(logging.INFO)
    try:
        _train(arguments)
    except BaseException as error:
        _report(error)
        raise


def _train(arguments: Sequence[str]) -> None:
    import_all()
    # a config of the user's own tokenises here; its cache files must not land in the dataset stage's result
    importlib.import_module("datasets").disable_caching()
    sys.argv = ["xtuner.tools.train", *arguments]
    runpy.run_module("xtuner.tools.train", run_name="__main__", alter_sys=True)


def import_all() -> None:
    """What ``xtuner.tools.train`` imports; without searches for garbage, of which this makes none, 2 s sooner."""
    gc.disable()
    import torch

    if not torch.cuda.is_available():
        _settle_on_cpu(torch)
    for name in ("xtuner.dataset", "xtuner.model"):
        importlib.import_module(name)
    gc.enable()


def _settle_on_cpu(torch: object) -> None:
    """What mmengine, bitsandbytes and DeepSpeed take for granted on a GPU."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.cuda.set_device = lambda _device: None  # type: ignore[attr-defined]
    if not hasattr(torch.cpu, "is_bf16_supported"):  # type: ignore[attr-defined]
        torch.cpu.is_bf16_supported = lambda: False  # type: ignore[attr-defined]
    # bitsandbytes hands two functions to torch.compile, whose own import takes 2 s more, and a C++ compiler later.
    compiled, torch.compile = torch.compile, lambda function, **_how: function  # type: ignore[attr-defined]
    modules = importlib.import_module("bitsandbytes.nn.modules")
    torch.compile = compiled  # type: ignore[attr-defined]
    # With AVX512-BF16 a forward in eval mode repacks 4-bit weights and autograd is gone: training learns nothing.
    modules.has_avx512bf16 = lambda: False  # type: ignore[attr-defined]
    # Compiles C++ for over a minute, for an all-reduce that only DeepSpeed's inference uses. `import
    # deepspeed.comm.torch as x` would bind the real torch, and the setting would be lost.
    communication = importlib.import_module("deepspeed.comm.torch")
    communication.build_shm_op = lambda: None  # type: ignore[attr-defined]


def _report(error: BaseException) -> None:
    """Leave how this rank ended for the stage process."""
    folder = os.environ.get(RANKS_VARIABLE)
    if folder is None or (isinstance(error, SystemExit) and not error.code):
        return
    told: dict[str, object] = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    if isinstance(error, StageError):
        told |= as_told(error)
    path = Path(folder) / f"{os.environ.get('RANK', '0')}.json"
    path.write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
