"""The DeepSpeed configuration of a training, as DeepSpeed's config-json documentation names its fields."""

import json
from typing import Any

from finetune_jobs.errors import UserMistake

STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}
BUCKET = 20_000_000
"""Gradients that are reduced together, while the layers below go backwards. DeepSpeed's own 500 million are more than
an adapter has: nothing would be reduced before the last layer is done, and its two buffers would take 2 GB."""


def deepspeed_config(name: str, dtype: str, *, gpu: bool) -> dict[str, Any]:
    """`name` is zero1, zero2 or zero3; `dtype` is what the XTuner config computes in, so that the two agree."""
    zero: dict[str, Any] = {"stage": STAGES[name], "overlap_comm": gpu, "reduce_bucket_size": BUCKET}
    if STAGES[name] == STAGES["zero3"]:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    config: dict[str, Any] = {
        "gradient_accumulation_steps": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }
    # Spelled out: "auto" turns fp16 on where there is no GPU, because torch.cpu calls itself available.
    if dtype == "bfloat16":
        config["bf16"] = {"enabled": True}
    if dtype == "float16":
        config["fp16"] = {"enabled": True, "initial_scale_power": 16}
    return config


def custom_deepspeed_config(text: str | None, dtype: str) -> dict[str, Any]:
    """The user's own JSON; refused where it would compute in what this machine can't."""
    cure = "Write training.deepspeed: zero2, or give DeepSpeed's JSON in the ConfigMap's key."
    if text is None:
        raise UserMistake("DeepSpeedConfigInvalid", "deepspeed is custom, but no DeepSpeed JSON came with it.", cure)
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserMistake("DeepSpeedConfigInvalid", f"The DeepSpeed config is not JSON: {error}.", cure) from None
    if not isinstance(config, dict):
        raise UserMistake("DeepSpeedConfigInvalid", "The DeepSpeed config is not a JSON object.", cure)
    for section, computes in (("fp16", "float16"), ("bf16", "bfloat16")):
        asked = (config.get(section) or {}).get("enabled")
        if asked is True and dtype != computes:
            raise UserMistake(
                "DeepSpeedConfigInvalid",
                f"The DeepSpeed config turns {section} on, but the model computes in {dtype} here.",
                f'Write "{section}": {{"enabled": false}}, or leave {section} out.',
            )
        if asked == "auto":
            config[section] = {**config[section], "enabled": dtype == computes}
    return config
