"""nf4 by parts is bitsandbytes' nf4 of the whole weight."""

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from finetune_jobs.merge.arithmetic import nf4_values
from finetune_jobs.merge.nf4 import BLOCK
from finetune_jobs.merge.tensors import StoredTensor


@pytest.fixture(params=[(48, 64), (300, 576), (7, 100), (33, 62)], ids=str)
def weight(request, tmp_path) -> StoredTensor:
    """The last two have rows that end within a block, and a last block that is short."""
    values = torch.randn(request.param, generator=torch.Generator().manual_seed(5)) * 0.02
    values[0, :3] = 0
    path = tmp_path / "weight"
    path.write_bytes(values.numpy().tobytes())
    return StoredTensor("weight", "F32", request.param, path, 0, values.nelement() * 4)


def whole(weight: StoredTensor) -> np.ndarray:
    """In one call; bitsandbytes' kernel for CPUs gets some rows wrong that end within a block, so each row is one."""
    values = np.zeros(-(-weight.elements // BLOCK) * BLOCK, np.float32)
    values[: weight.elements] = np.frombuffer(weight.file.read_bytes(), np.float32)
    packed, state = quantize_4bit(
        torch.from_numpy(values.reshape(-1, BLOCK)), quant_type="nf4", compress_statistics=True
    )
    return dequantize_4bit(packed, state).numpy().reshape(-1)[: weight.elements]


@pytest.mark.parametrize("step", [1000, 576, 64])
def test_parts_are_those_of_the_whole(weight, step):
    parts = [nf4_values(weight, at, min(at + step, weight.elements)) for at in range(0, weight.elements, step)]
    np.testing.assert_array_equal(np.concatenate(parts), whole(weight))
