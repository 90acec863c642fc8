"""The fast path of the train stage: a Llama-like model's QLoRA step written by hand, around XTuner and DeepSpeed.

`choose` says, without importing torch, whether and how it runs; `train.config` writes its answer into the XTuner
config as ``llm=dict(type=model.build, ...)`` and ``type=xtuner.FastFinetune``. docs/gpu.md has what was measured.

choice     which weights are kept how, and the memory that this takes
model      the step; `group` its matrix products, `layer` a layer's two halves, `attention`, `head` the loss
hopper     attention by flash-attn-4, where it is installed and the GPU is for it
kernels    Triton for what lies between, `reference` the same in plain PyTorch for machines without a GPU
loading    weights from safetensors to the GPU;  batches  rows to batches;  xtuner  XTuner's model around it
"""

from finetune_jobs.train.fast.choice import Choice, choose

__all__ = ["Choice", "choose"]
