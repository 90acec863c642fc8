"""How many optimizer steps a training takes, and what that is in XTuner's micro-iterations.

A step at our interface is an optimizer step; XTuner's loop and hooks count micro-iterations, of which
`accumulation` make one step.
"""

from dataclasses import dataclass
from math import ceil

WARMUP_AT_LEAST = 2
"""mmengine's LinearLR over fewer steps never leaves its start factor, and the whole run learns at 1e-5 of its
rate."""


@dataclass(frozen=True)
class Schedule:
    rows: int
    world_size: int
    batch_size: int
    """Rows a process and micro-iteration."""
    accumulation: int
    """Micro-iterations a step."""
    epochs: int
    warmup_ratio: float

    @property
    def rows_per_step(self) -> int:
        return self.world_size * self.batch_size * self.accumulation

    @property
    def steps(self) -> int:
        """Rounded up: a last step that the data does not fill takes its rest from the next shuffle, so that every
        row is learned from and a small data set takes at least one step."""
        return ceil(self.epochs * self.rows / self.rows_per_step)

    @property
    def iterations(self) -> int:
        return self.steps * self.accumulation

    @property
    def warmup_steps(self) -> int:
        """0 where the warm-up would be too short to be one."""
        steps = min(ceil(self.warmup_ratio * self.steps), self.steps - 1)
        return steps if steps >= WARMUP_AT_LEAST else 0
