"""What XTuner's runner calls in every rank: progress, the guard over loss and learning rate, checkpoints.

`config` and `own_config` name these two in the config's custom_hooks. They write to the folder in the environment
variable FINETUNE_TRAIN_FOLDER, or to the work-dir when the config is run by hand.
"""

import json
import os
import shutil
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from mmengine.hooks import Hook, ParamSchedulerHook
from torch import distributed

from finetune_jobs.contract import CURVE_FILE, PROGRESS_FILE, CurvePoint
from finetune_jobs.errors import UserMistake
from finetune_jobs.room import Reporter
from finetune_jobs.train import checkpoints, curve, stop
from finetune_jobs.train.checkpoints import Marker, Tally
from finetune_jobs.train.divergence import Watch
from finetune_jobs.train.layout import FOLDER_VARIABLE, RANKS_FOLDER, RANKS_VARIABLE, STARTED_FILE
from finetune_jobs.train.verify import verify

TALLY = "finetune_tally"
"""Key in mmengine's message hub, whose state every checkpoint carries."""
ADAPTER_CONFIG_FILE = "adapter_config.json"


def folder_of(runner: Any) -> Path:
    return Path(os.environ.get(FOLDER_VARIABLE) or runner.work_dir)


def accumulation_of(runner: Any) -> int:
    """Micro-iterations a step."""
    return int(runner.strategy.config["gradient_accumulation_steps"])


def step_after(runner: Any) -> int | None:
    """The optimizer step that the current iteration completes, or None in the midst of one."""
    done, rest = divmod(runner.iter + 1, accumulation_of(runner))
    return None if rest else done


def total_steps(runner: Any) -> int:
    return int(runner.max_iters) // accumulation_of(runner)


def is_first_rank() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0


class Monitor(Hook):  # type: ignore[misc]
    """Watches each optimizer step: mean loss over all ranks, learning rate, speed; reports and guards.

    Raises UserMistake in every rank at the same step: LossIsNaN, LossDiverged, NoSteps, LearningRateStuck.
    """

    priority = "NORMAL"  # before ParamSchedulerHook, which sets the next step's learning rate

    def before_train(self, runner: Any) -> None:
        self.out = folder_of(runner)
        self.ranks = Path(os.environ.get(RANKS_VARIABLE) or self.out / RANKS_FOLDER)
        self.total = total_steps(runner)
        if self.total == 0:
            raise UserMistake(
                "NoSteps",
                f"The data gives {runner.max_iters} iterations, but an optimizer step takes {accumulation_of(runner)}.",
                "Write a smaller training.gradientAccumulation or more epochs.",
            )
        refuse_stuck_warmup(runner)
        self.tally = load_tally(runner)
        self.watch = Watch(self.total, self.tally.first_losses)
        self.report = Reporter(self.out / PROGRESS_FILE)
        self._begin_step(runner)
        done = runner.iter // accumulation_of(runner)
        if is_first_rank():
            curve.rewind(self.out / CURVE_FILE, done)
            self.report(done, self.total, force=True, message="training")
        self.ranks.mkdir(exist_ok=True)
        (self.ranks / STARTED_FILE).touch()

    def _begin_step(self, runner: Any) -> None:
        self.began = monotonic()
        self.loss = torch.zeros((), dtype=torch.float64, device=next(runner.model.parameters()).device)
        self.tokens = 0

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:  # noqa: ARG002 - mmengine's
        """Dropout drawn from the iteration's number: a resumed training repeats the unbroken one exactly."""
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        torch.manual_seed((runner.seed or 0) + runner.iter * 1009 + rank)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:  # noqa: ARG002 - mmengine's
        self.loss += outputs["loss"].detach()
        self.tokens += count_tokens(data_batch["data"])
        step = step_after(runner)
        if step is None or step > self.total:
            return
        loss, tokens, asked = self._over_all_ranks(runner)
        runner.finetune_stop = asked
        rate = float(runner.optim_wrapper.optimizer.param_groups[0]["lr"])
        self._count(runner, tokens, rate, loss)
        self.watch.feed(step, loss)
        if is_first_rank():
            self._tell(runner, step, loss, rate)
        self._begin_step(runner)

    def _over_all_ranks(self, runner: Any) -> tuple[float, int, bool]:
        """Mean loss of the step, its tokens, and whether any rank was asked to stop; waits for the GPU once."""
        asked = float(stop.is_asked(self.ranks))
        size = 1
        sums = torch.stack([self.loss / accumulation_of(runner), self.loss.new_tensor(float(self.tokens)),
                            self.loss.new_tensor(asked)])  # fmt: skip
        if distributed.is_initialized():
            size = distributed.get_world_size()
            distributed.all_reduce(sums)
        loss, tokens, stops = sums.tolist()
        return loss / size, int(tokens), stops > 0

    def _count(self, runner: Any, tokens: int, rate: float, loss: float) -> None:
        self.seconds = monotonic() - self.began
        self.step_tokens = tokens
        first = self.tally.first_losses
        self.tally = self.tally.model_copy(
            update={
                "seconds": self.tally.seconds + self.seconds,
                "tokens": self.tally.tokens + tokens,
                "peak_learning_rate": max(self.tally.peak_learning_rate, rate),
                "first_losses": (*first, loss) if len(first) < self.watch.window else first,
            }
        )
        runner.message_hub.update_info(TALLY, self.tally.model_dump())

    def _tell(self, runner: Any, step: int, loss: float, rate: float) -> None:
        speed = self.step_tokens / self.seconds
        curve.append(
            self.out / CURVE_FILE, CurvePoint(step=step, loss=loss, learning_rate=rate, tokens_per_second=speed)
        )
        mean = self.tally.seconds / step if self.tally.resumed == 0 else self.seconds
        self.report(
            step, self.total, loss=loss, learning_rate=rate, tokens_per_second=speed,
            eta_seconds=mean * (self.total - step), message="training",
        )  # fmt: skip
        runner.logger.info("step %d/%d  loss %.4f  lr %.3e  %.0f tokens/s", step, self.total, loss, rate, speed)

    def after_train(self, runner: Any) -> None:
        tell_memory(runner)


def tell_memory(runner: Any) -> None:
    """What PyTorch held at most, beside what the plan expected: one figure a GPU, in the log."""
    if not torch.cuda.is_available():
        return
    most = torch.tensor([torch.cuda.max_memory_allocated() / 2**30], device="cuda")
    gathered = [most]
    if distributed.is_initialized():
        gathered = [torch.empty_like(most) for _ in range(distributed.get_world_size())]
        distributed.all_gather(gathered, most)
    runner.logger.info("held at most %s GiB", ", ".join(f"{float(one):.2f}" for one in gathered))


def count_tokens(data: dict[str, Any]) -> int:
    """Without padding: that is masked or, in packed rows (`batches.collate`), each a position 0 that no 1 follows."""
    mask, positions = data.get("attention_mask"), data.get("position_ids")
    if mask is not None:
        return int(mask.sum())
    if positions is not None:
        return int((positions != 0).sum() + (positions == 1).sum())
    return int(data["input_ids"].numel())


def load_tally(runner: Any) -> Tally:
    saved = runner.message_hub.runtime_info.get(TALLY)
    if saved is None or runner.iter == 0:
        return Tally()
    tally = Tally.model_validate(saved)
    return tally.model_copy(update={"resumed": tally.resumed + 1})


def refuse_stuck_warmup(runner: Any) -> None:
    """mmengine's LinearLR over fewer than 2 iterations stays at its start factor for the whole run."""
    for scheduler in runner.param_schedulers:
        if type(scheduler).__name__ == "LinearLR" and scheduler.total_iters < 1:
            raise UserMistake(
                "LearningRateStuck",
                "The config's warm-up (LinearLR) is shorter than 2 iterations here, so the learning rate would stay "
                f"at {scheduler.start_factor:g} of its value.",
                "Raise warmup_ratio in the config, train on more rows, or take LinearLR out of param_scheduler.",
            )


class StepScheduler(ParamSchedulerHook):  # type: ignore[misc]
    """Moves the learning rate on once an optimizer step, where mmengine does at every micro-iteration: one process that
    accumulates trains at the rates of several that don't."""

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if step_after(runner) is not None:
            super().after_train_iter(runner, batch_idx, data_batch, outputs)


class Checkpoints(Hook):  # type: ignore[misc]
    """Saves every `every` optimizer steps, at the last one, and when asked to stop; keeps the last `keep`."""

    priority = "VERY_LOW"  # after ParamSchedulerHook, whose state is saved too

    def __init__(self, every: int, keep: int) -> None:
        self.every = every
        self.keep = keep

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:  # noqa: ARG002 - mmengine's
        step, total = step_after(runner), total_steps(runner)
        if step is None:
            return
        last = step >= total or runner.finetune_stop
        if last or step % self.every == 0:
            self.save(runner, step, total)
        runner.train_loop.stop_training = last

    def save(self, runner: Any, step: int, total: int) -> None:
        out = folder_of(runner)
        draft = checkpoints.draft(out, step)
        if is_first_rank():
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        wait_for_all()
        runner.save_checkpoint(str(draft.parent), draft.name, by_epoch=False)
        wait_for_all()
        if is_first_rank():
            adapter = peft_config(runner)
            (draft / ADAPTER_CONFIG_FILE).write_text(json.dumps(adapter, indent=2, sort_keys=True), encoding="utf-8")
            if step == total:
                verify(draft)
            checkpoints.finish(draft, marker_of(runner, step, total))
            checkpoints.prune(out, self.keep)
        wait_for_all()


def wait_for_all() -> None:
    if distributed.is_initialized():
        distributed.barrier()


def peft_config(runner: Any) -> dict[str, Any]:
    """adapter_config.json as peft would save it."""
    config = runner.model.model.module.llm.peft_config["default"].to_dict()
    unordered = ("target_modules", "modules_to_save")  # made from sets: another order in each process
    return {name: sorted(value) if value and name in unordered else value for name, value in config.items()}


def marker_of(runner: Any, step: int, total: int) -> Marker:
    tally = Tally.model_validate(runner.message_hub.get_info(TALLY))
    dtype = str(next(p for p in runner.model.parameters() if p.requires_grad).dtype).removeprefix("torch.")
    size = distributed.get_world_size() if distributed.is_initialized() else 1
    return Marker(step=step, total_steps=total, world_size=size, dtype=dtype, tally=tally)
