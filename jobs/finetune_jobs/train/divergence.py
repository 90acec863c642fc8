"""When a training goes wrong for good: its loss is NaN, or it rises far above where it began."""

from collections import deque
from collections.abc import Iterable
from math import isfinite
from statistics import fmean, median

from finetune_jobs.errors import UserMistake

WINDOW = 20
"""Steps that are compared; fewer in a short training."""
RISE = 1.5
MARGIN = 1.0
"""Nats: a loss that began near zero may double without harm."""


class Watch:
    """Fed each step's loss; raises UserMistake when there is no hope left."""

    def __init__(self, total_steps: int, first: Iterable[float] = ()) -> None:
        self.window = max(1, min(WINDOW, total_steps // 10))
        self.first = list(first)[: self.window]
        self.recent: deque[float] = deque(maxlen=self.window)

    def feed(self, step: int, loss: float) -> None:
        if not isfinite(loss):
            raise UserMistake(
                "LossIsNaN",
                f"The loss is {loss} at step {step}: nothing can be learned from here on.",
                "Write a smaller training.learningRate, or a larger training.gradientAccumulation.",
            )
        self.recent.append(loss)
        if len(self.first) < self.window:
            self.first.append(loss)
            return
        began, now = fmean(self.first), median(self.recent)  # one spike is no divergence
        if len(self.recent) == self.window and now > RISE * began + MARGIN:
            raise UserMistake(
                "LossDiverged",
                f"The loss rose from {began:.2f} to {now:.2f} by step {step}: the training diverges.",
                "Write a smaller training.learningRate, such as a tenth of it.",
            )
