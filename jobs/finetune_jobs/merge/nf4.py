"""Base weights as QLoRA trains beside them: in bitsandbytes' nf4 with double quantisation, and back.

Dettmers et al. 2023, QLoRA, section 3; `bitsandbytes.functional.quantize_4bit` with `compress_statistics`, but block by
block, so that no weight is ever whole in memory. torch is imported only where this is asked for.
"""

from pathlib import Path

import numpy as np

from finetune_jobs.errors import UserMistake, first_line

BLOCK = 64
"""Elements that share a scale."""
SCALES = 256
"""Scales that share a scale of their own."""


def quantised_weights(folder: Path) -> set[str]:
    """Names of the weights that training keeps in nf4: those of all linear layers but the output layer.

    As transformers' `replace_with_bnb_linear` chooses them. UserMistake where transformers lacks the architecture.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError, ImportError) as error:
        raise UserMistake(
            "ArchitectureUnknown",
            f"transformers can't say which of the base model's weights are linear layers: {first_line(error)}",
            "Leave out spec.merge.baseWeights; the adapter is then added to the weights as they were downloaded.",
        ) from error
    head = model.get_output_embeddings()
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def largest(values: np.ndarray) -> np.ndarray:
    """Each block's largest magnitude, fp32 of shape (blocks,); the last block may be short."""
    return np.maximum.reduceat(np.abs(values), np.arange(0, len(values), BLOCK))


def scales_of(magnitudes: np.ndarray) -> np.ndarray:
    """What double quantisation leaves of a whole weight's magnitudes, both fp32 of shape (blocks,)."""
    import torch
    from bitsandbytes.functional import dequantize_blockwise, quantize_blockwise

    found = torch.from_numpy(magnitudes)
    offset = found.mean()
    packed, state = quantize_blockwise(found - offset, blocksize=SCALES)
    return np.asarray(dequantize_blockwise(packed, state) + offset)


def rounded(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The values of whole blocks, fp32, after nf4 and back; `scales` has one for each block, the last may be short."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    whole = np.zeros(len(scales) * BLOCK, np.float32)
    whole[: len(values)] = values
    packed, state = quantize_4bit(torch.from_numpy(whole.reshape(-1, BLOCK)), blocksize=BLOCK, quant_type="nf4")
    state.absmax = torch.from_numpy(scales)
    return np.asarray(dequantize_4bit(packed, state)).reshape(-1)[: len(values)]
