"""Writes the XTuner config of a training: readable, kept beside the result, runnable by hand."""

import re
from dataclasses import dataclass
from pathlib import Path

from finetune_jobs.contract import TrainRequest
from finetune_jobs.train.fast import Choice
from finetune_jobs.train.schedule import Schedule


@dataclass(frozen=True)
class Setting:
    """What a config needs beyond the request."""

    model: Path
    packed: Path
    schedule: Schedule
    dtype: str
    backend: str
    recompute: bool
    """Activation checkpointing: slower, for models whose activations don't fit."""
    fast: Choice | None = None
    """The fast path, as `fast.choose` chose it; None is XTuner's own."""


QUANTIZATION = """
        quantization_config=dict(
            type=BitsAndBytesConfig,
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),"""

PLAIN_MODEL = """model = dict(
    type=SupervisedFinetune,
    use_varlen_attn=False,  # documents are kept apart by their positions, see finetune_jobs.train.batches
    use_activation_checkpointing={recompute},
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=pretrained_model_name_or_path,
        torch_dtype=dtype,
        attn_implementation="sdpa",{quantization}
    ),"""

FAST_MODEL = """model = dict(
    type=FastFinetune,
    use_activation_checkpointing=False,  # recomputed_layers takes its place
    llm=dict(
        type=build,
        pretrained_model_name_or_path=pretrained_model_name_or_path,
        torch_dtype=dtype,
        quantization={quantization!r},
        store={store!r},
        recomputed_layers={recomputed_layers},
        dropout={dropout},
    ),"""

PLAIN_IMPORTS = """from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from xtuner.engine.runner import TrainLoop
from xtuner.model import SupervisedFinetune

from finetune_jobs.train.batches import collate, packed_rows
"""

FAST_IMPORTS = """from transformers import AutoTokenizer
from xtuner.engine.runner import TrainLoop

from finetune_jobs.train.batches import packed_rows
from finetune_jobs.train.fast.batches import collate
from finetune_jobs.train.fast.model import build
from finetune_jobs.train.fast.xtuner import FastFinetune
"""

WARMUP = """
    dict(type=LinearLR, start_factor=1e-5, by_epoch=False, begin=0, end=warmup_steps),"""

TEMPLATE = '''"""XTuner config of a FineTuneJob's training, written by finetune_jobs.train.

By hand, in an environment with `pip install finetune-operator[train]`:

    python -m torch.distributed.run --nproc-per-node {processes} -m finetune_jobs.train.rank \\\\
        config.py --work-dir by-hand --deepspeed deepspeed.json --launcher pytorch
"""

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR
from peft import LoraConfig
from torch.optim import AdamW
{model_imports}from finetune_jobs.train.hooks import Checkpoints, Monitor, StepScheduler

# Model and data
pretrained_model_name_or_path = {model!r}
packed_folder = {packed!r}  # tokenised and packed: {rows} rows of at most {max_length} tokens
dtype = torch.{dtype}

# One optimizer step is accumulative_counts iterations of batch_size rows on each of {processes} processes
batch_size = {batch_size}
accumulative_counts = {accumulation}
max_steps = {steps}  # {epochs} epochs, rounded up to whole steps
max_iters = {iterations}
lr = {learning_rate}
warmup_steps = {warmup_steps}

# Checkpoints, in optimizer steps
save_steps = {checkpoint_every}
save_total_limit = {checkpoint_keep}

tokenizer = dict(
    type=AutoTokenizer.from_pretrained,
    pretrained_model_name_or_path=pretrained_model_name_or_path,
    padding_side="right",
)

{model_config}
    lora=dict(
        type=LoraConfig,
        r={rank},
        lora_alpha={alpha},
        lora_dropout={dropout},
        bias="none",
        task_type="CAUSAL_LM",
    ),
)

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,
    dataset=dict(type=packed_rows, folder=packed_folder),
    sampler=dict(type=InfiniteSampler, shuffle=True),
    collate_fn=dict(type=collate),
)

optim_wrapper = dict(
    type=AmpOptimWrapper,  # DeepSpeed's takes its place; the dtype is then DeepSpeed's
    optimizer=dict(type=AdamW, lr=lr, betas=(0.9, 0.999), weight_decay=0),
    clip_grad=dict(max_norm=1, error_if_nonfinite=False),
    accumulative_counts=accumulative_counts,
)

# In optimizer steps, as StepScheduler counts: the rates don't change with accumulative_counts
param_scheduler = [{warmup}
    dict(type=CosineAnnealingLR, eta_min=0.0, by_epoch=False, begin=warmup_steps, end=max_steps),
]

train_cfg = dict(type=TrainLoop, max_iters=max_iters)

custom_hooks = [dict(type=Monitor), dict(type=Checkpoints, every=save_steps, keep=save_total_limit)]

default_hooks = dict(
    runtime_info=None,  # it, timer and logger wait for the GPU at every iteration; Monitor waits once a step
    timer=None,
    logger=None,
    checkpoint=None,  # Checkpoints takes its place
    param_scheduler=dict(type=StepScheduler),
    sampler_seed=None,  # InfiniteSampler shuffles each epoch by itself
)

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend={backend!r}),
)
visualizer = None
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed={seed}, deterministic=False)
log_processor = dict(by_epoch=False)
'''


def config_text(request: TrainRequest, setting: Setting) -> str:
    schedule = setting.schedule
    text = TEMPLATE.format(
        model=str(setting.model),
        packed=str(setting.packed),
        rows=schedule.rows,
        max_length=request.max_length,
        dtype=setting.dtype,
        processes=schedule.world_size,
        batch_size=request.batch_size,
        accumulation=request.gradient_accumulation,
        iterations=schedule.iterations,
        steps=schedule.steps,
        epochs=request.epochs,
        learning_rate=float(request.learning_rate),
        warmup_steps=schedule.warmup_steps,
        checkpoint_every=request.checkpoint_every,
        checkpoint_keep=request.checkpoint_keep,
        model_imports=FAST_IMPORTS if setting.fast else PLAIN_IMPORTS,
        model_config=_model_config(request, setting),
        rank=request.lora.rank,
        alpha=request.lora.alpha,
        dropout=float(request.lora.dropout),
        warmup=WARMUP if schedule.warmup_steps else "",
        backend=setting.backend,
        seed=request.seed,
    )
    return _without_unused_imports(text)


def _model_config(request: TrainRequest, setting: Setting) -> str:
    if setting.fast is None:
        quantization = QUANTIZATION if request.quantization == "nf4" else ""
        return PLAIN_MODEL.format(recompute=setting.recompute, quantization=quantization)
    return FAST_MODEL.format(
        quantization=request.quantization,
        store=setting.fast.store,
        recomputed_layers=setting.fast.recomputed_layers,
        dropout=float(request.lora.dropout),
    )


def _without_unused_imports(text: str) -> str:
    for name, line in (("BitsAndBytesConfig", ", BitsAndBytesConfig\n"), ("LinearLR", ", LinearLR\n")):
        if len(re.findall(rf"\b{name}\b", text)) == 1:
            text = text.replace(line, "\n")
    return text
