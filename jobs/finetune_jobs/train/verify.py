"""Opens the last checkpoint before it is called one; in the first rank, which has read all that this needs."""

from pathlib import Path

from finetune_jobs.errors import MachineTrouble, UserMistake


def verify(checkpoint: Path) -> None:
    """Every adapter weight is finite, and B, which begins at zero, has moved.

    Raises UserMistake AdapterNotFinite or NothingLearned, MachineTrouble CheckpointUnreadable.
    """
    import torch
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    try:
        weights = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise MachineTrouble(
            "CheckpointUnreadable", f"{checkpoint} can't be read: {error}.", f"Delete {checkpoint} and run again."
        ) from error
    broken = next((name for name, tensor in weights.items() if not torch.isfinite(tensor).all()), None)
    if broken is not None:
        raise UserMistake(
            "AdapterNotFinite", f"{broken} in {checkpoint} has NaN or infinite values.", "Write a smaller learningRate."
        )
    if not any(tensor.any() for name, tensor in weights.items() if "lora_B" in name):
        raise UserMistake(
            "NothingLearned",
            f"Every B matrix in {checkpoint} is still zero: the training changed nothing.",
            "Write a larger training.learningRate, and look whether the data has assistant turns with loss.",
        )
