"""A stage's progress and result in one line each."""

from collections.abc import Callable, Mapping
from typing import Any

from finetune_jobs.contract import Progress, Stage

MINUTE = 60
HOUR = 3600
THOUSAND = 1000
UNITS = ("bytes", "kB", "MB", "GB", "TB")

Result = Mapping[str, Any]


def duration(seconds: float) -> str:
    """ "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"


def size(count: float) -> str:
    """Bytes in powers of ten."""
    unit = 0
    while count >= THOUSAND and unit < len(UNITS) - 1:
        count, unit = count / THOUSAND, unit + 1
    return f"{count:.3g} {UNITS[unit]}"


def progress_line(progress: Progress) -> str:
    """ "12/72 steps, loss 0.43, 130 tokens/s, 2 min 10 s left"."""
    plural = progress.unit if progress.unit.isupper() else f"{progress.unit}s"
    counted = f"{progress.step}/{progress.total_steps}" if progress.total_steps else f"{progress.step}"
    parts = [
        f"{counted} {plural}",
        f"loss {progress.loss:.4g}" if progress.loss is not None else "",
        f"{progress.tokens_per_second:.0f} tokens/s" if progress.tokens_per_second is not None else "",
        f"{duration(progress.eta_seconds)} left" if progress.eta_seconds is not None else "",
        progress.message,
    ]
    return ", ".join(part for part in parts if part)


def percent(fraction: float | None) -> str:
    return "none" if fraction is None else f"{100 * fraction:.0f} %"


def model_line(result: Result) -> str:
    return f"{result['parameters'] / 1e6:.1f} M parameters, {result['source']}"


def dataset_line(result: Result) -> str:
    dropped = sum(result["rowsDropped"].values())
    return (
        f"{result['rowsKept']} of {result['rowsRead']} rows kept, {dropped} dropped, "
        f"{result['tokens']} tokens in {result['packs']} packs"
    )


def train_line(result: Result) -> str:
    return f"{result['steps']} steps, final loss {result['finalLoss']:.4g}, {result['tokensPerSecond']:.0f} tokens/s"


def export_line(result: Result) -> str:
    return f"adapter of rank {result['rank']}, {result['tensors']} tensors, {size(result['bytes'])}"


def merge_line(result: Result) -> str:
    return f"{result['mergedTensors']} tensors merged, {result['dtype']}, {size(result['bytes'])}"


def evaluate_line(result: Result) -> str:
    base, tuned = result["base"], result["tuned"]
    line = f"valid tool calls {percent(base['validCalls'])} before, {percent(tuned['validCalls'])} after"
    if tuned.get("finishedTurns") is not None:
        line += f"; finished turns {percent(base.get('finishedTurns'))} before, {percent(tuned['finishedTurns'])} after"
    return f"{line}; {result['prompts']} prompts"


def demo_line(result: Result) -> str:
    return f"open at {result['url']}; Ctrl-C stops it"


LINES: dict[Stage, Callable[[Result], str]] = {
    Stage.MODEL: model_line,
    Stage.DATASET: dataset_line,
    Stage.TRAIN: train_line,
    Stage.EXPORT: export_line,
    Stage.MERGE: merge_line,
    Stage.EVALUATE: evaluate_line,
    Stage.DEMO: demo_line,
}


def result_line(stage: Stage, result: Result) -> str:
    return LINES[stage](result)
