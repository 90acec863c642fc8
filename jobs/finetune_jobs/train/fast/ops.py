"""Which implementation of the pointwise work runs: Triton's on a GPU, PyTorch's elsewhere."""

from types import ModuleType

import torch


def ops_for(device: torch.device) -> ModuleType:
    if device.type == "cuda":
        from finetune_jobs.train.fast import kernels

        return kernels
    from finetune_jobs.train.fast import reference

    return reference
