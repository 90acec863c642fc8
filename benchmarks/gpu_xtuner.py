"""XTuner's rows of bench_gpu: a folder of random weights, a config of the tutorial's shape, a run under torchrun.

Also what that config names: `Rows` (its dataset) and `StepTimes` (its hook). XTUNER_PYTHONPATH is where XTuner and the
versions that it needs lie, if not where the other rows' packages do.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ACCUMULATED_ROWS = 16
"""Rows of an optimizer step, as the tutorial accumulates them."""
STARTED = "BENCH_STARTED"
"""Environment: when the rank began; `startSeconds` is from there to the end of its first iteration."""
STEPS = 4
"""Optimizer steps: one to warm up, three that are timed."""

CONFIG = """
import torch
from mmengine.dataset import DefaultSampler
from mmengine.optim import AmpOptimWrapper
from peft import LoraConfig
from torch.optim import AdamW
from transformers import {imports}
from xtuner.engine.runner import TrainLoop
{model_imports}
from gpu_xtuner import Rows, StepTimes

path = {path!r}
dtype = torch.{dtype}
model = dict(
    {model}
    lora=dict(type=LoraConfig, r=64, lora_alpha=16, lora_dropout=0.1, bias="none", task_type="CAUSAL_LM"),
)
train_dataloader = dict(batch_size={batch}, num_workers=0, dataset=dict(type=Rows, count={rows}),
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type={collate}))
optim_wrapper = dict(type=AmpOptimWrapper, optimizer=dict(type=AdamW, lr=2e-4, betas=(0.9, 0.999), weight_decay=0),
    clip_grad=dict(max_norm=1, error_if_nonfinite=False), accumulative_counts={accumulation}, loss_scale="dynamic",
    dtype={dtype!r})
train_cfg = dict(type=TrainLoop, max_iters={iterations})
custom_hooks = [dict(type=StepTimes, output={output!r}, accumulation={accumulation})]
default_hooks = dict(runtime_info=None, timer=None, logger=None, checkpoint=None, param_scheduler=None,
    sampler_seed=None)
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"))
visualizer = None
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0, deterministic=False)
log_processor = dict(by_epoch=False)
"""
PLAIN = """type=SupervisedFinetune, use_activation_checkpointing={recompute},
    llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=path, torch_dtype=dtype,
        quantization_config=dict(type=BitsAndBytesConfig, load_in_4bit=True, bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True, bnb_4bit_quant_type="nf4")),"""
FAST = """type=FastFinetune, use_activation_checkpointing=False,
    llm=dict(type=build, pretrained_model_name_or_path=path, torch_dtype=dtype, quantization="nf4", dropout=0.1),"""
DEEPSPEED = {
    "gradient_accumulation_steps": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
    "zero_optimization": {"stage": 2, "overlap_comm": True},
    "fp16": {"enabled": "auto", "initial_scale_power": 16}, "bf16": {"enabled": "auto"},
}  # fmt: skip


SPECIAL = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
"""What the template llama3_chat writes."""


def write_tokenizer(folder: Path) -> None:
    """A tokenizer that has the template's tokens and single bytes: enough for programs that want one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*SPECIAL, *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(list(SPECIAL))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[3], pad_token=SPECIAL[4]
    ).save_pretrained(folder)


def build_folder(parent: Path, layers: int) -> Path:
    """A model folder of random bf16 weights with a tokenizer, made once."""
    import torch
    from bench_gpu import random_weights

    folder = parent / f"llama-{layers}"
    if not (folder / "config.json").exists():
        model = random_weights(layers, nf4=False)
        write_tokenizer(folder)
        model.save_pretrained(folder, max_shard_size="5GB")
        del model
        torch.cuda.empty_cache()
    return folder


def run(setting: dict[str, Any], folder: Path, parent: Path) -> dict[str, Any]:
    elsewhere = os.environ.get("XTUNER_PYTHONPATH")
    if elsewhere is None and importlib.util.find_spec("xtuner") is None:
        raise SystemExit("xtuner is not installed")
    work = parent / f"{'ours' if setting.get('fast') else setting['dtype']}-{setting['batch']}"
    work.mkdir(exist_ok=True)
    output, accumulation = work / "times.json", ACCUMULATED_ROWS // setting["batch"]
    output.unlink(missing_ok=True)
    (work / "config.py").write_text(config_text(setting, folder, output, accumulation))
    narrow = {"bfloat16": ("bf16", "fp16"), "float16": ("fp16", "bf16")}[setting["dtype"]]
    zero = {**DEEPSPEED, narrow[1]: {"enabled": False}}
    zero[narrow[0]] = {**DEEPSPEED[narrow[0]], "enabled": True}
    if setting.get("fast"):
        from finetune_jobs.train.zero import deepspeed_config

        zero = deepspeed_config("zero2", setting["dtype"], gpu=True)
    (work / "deepspeed.json").write_text(json.dumps(zero))
    here = str(Path(__file__).parent)
    paths = os.pathsep.join(filter(None, (here, elsewhere, os.environ.get("PYTHONPATH"))))
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", __file__,
         str(work / "config.py"), "--work-dir", str(work), "--launcher", "pytorch", "--deepspeed",
         str(work / "deepspeed.json")],
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}, check=True, stdout=sys.stderr,
    )  # fmt: skip
    result = json.loads(output.read_text())
    return {**result, "expectedGiB": expected_gibibytes(setting, folder)} if setting.get("fast") else result


def expected_gibibytes(setting: dict[str, Any], folder: Path) -> float:
    from bench_gpu import LENGTH, RANK

    from finetune_jobs.train.fast.choice import Load, Shape, expected

    shape = Shape.of(json.loads((folder / "config.json").read_text()))
    return round(expected(Load(shape, setting["batch"] * LENGTH, RANK, 0.1), "resident", 0) / 2**30, 2)


def config_text(setting: dict[str, Any], folder: Path, output: Path, accumulation: int) -> str:
    fast = setting.get("fast")
    imports = "from finetune_jobs.train.fast.{}\n"
    plain_imports = (
        "from xtuner.dataset.collate_fns import default_collate_fn\nfrom xtuner.model import SupervisedFinetune"
    )
    fast_imports = "".join(
        imports.format(name) for name in ("batches import collate", "model import build", "xtuner import FastFinetune")
    )
    return CONFIG.format(
        imports="AutoTokenizer" if fast else "AutoModelForCausalLM, BitsAndBytesConfig",
        model_imports=fast_imports if fast else plain_imports,
        model=FAST if fast else PLAIN.format(recompute=setting["recompute"]),
        collate="collate" if fast else "default_collate_fn",
        path=str(folder), dtype=setting["dtype"], batch=setting["batch"], rows=ACCUMULATED_ROWS * STEPS,
        accumulation=accumulation, iterations=accumulation * STEPS, output=str(output),
    )  # fmt: skip


class Rows:
    """The bench's rows as XTuner's dataset."""

    def __init__(self, count: int) -> None:
        from bench_gpu import random_rows

        self.tokens = random_rows(count, 0)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        row = self.tokens[index].tolist()
        return {"input_ids": row, "labels": row}


def _step_times() -> type:
    import torch
    from mmengine.hooks import Hook

    class StepTimes(Hook):  # type: ignore[misc]
        """Times optimizer steps between two waits for the GPU, and writes the bench's figures at the end."""

        def __init__(self, output: str, accumulation: int) -> None:
            self.output, self.accumulation, self.times = Path(output), accumulation, []

        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:  # noqa: ARG002
            if batch_idx % self.accumulation == 0:
                torch.cuda.synchronize()
                self.began = time.perf_counter()
            if batch_idx == 0:
                torch.cuda.reset_peak_memory_stats()

        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:  # noqa: ARG002
            if batch_idx == 0:
                torch.cuda.synchronize()
                self.start = time.time() - float(os.environ[STARTED])
            if (batch_idx + 1) % self.accumulation == 0:
                torch.cuda.synchronize()
                self.times.append(time.perf_counter() - self.began)
                self.loss = float(outputs["loss"])

        def after_train(self, runner: Any) -> None:  # noqa: ARG002
            from bench_gpu import LENGTH, versions

            seconds = statistics.median(self.times[1:])
            self.output.write_text(json.dumps({
                "versions": versions(),
                "tokensPerSecond": round(ACCUMULATED_ROWS * LENGTH / seconds), "milliseconds": round(seconds * 1e3, 1),
                "fastest": round(min(self.times[1:]) * 1e3, 1), "slowest": round(max(self.times[1:]) * 1e3, 1),
                "firstStepSeconds": round(self.times[0], 1), "startSeconds": round(self.start, 1),
                "peakGiB": round(torch.cuda.max_memory_allocated() / 2**30, 2), "loss": round(self.loss, 4),
            }))  # fmt: skip

    return StepTimes


def __getattr__(name: str) -> Any:
    """`StepTimes`, made when the config asks for it: mmengine is not everywhere that this file is read."""
    if name == "StepTimes":
        globals()[name] = _step_times()
        return globals()[name]
    raise AttributeError(name)


if __name__ == "__main__":
    import runpy
    import types

    os.environ[STARTED] = str(time.time())

    if importlib.util.find_spec("deepspeed.runtime.fp16.onebit") is None:
        # newer DeepSpeed has none; mmengine registers its optimizers all the same
        onebit: Any = types.ModuleType("deepspeed.runtime.fp16.onebit")
        for optimizer in ("OnebitAdam", "OnebitLamb", "ZeroOneAdam"):
            setattr(onebit, optimizer, type(optimizer, (), {}))
        sys.modules[onebit.__name__] = onebit
    sys.argv[0] = "xtuner.tools.train"
    runpy.run_module("xtuner.tools.train", run_name="__main__", alter_sys=True)
