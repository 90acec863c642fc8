"""What a training did: its losses, and its lives by XTuner's own logs. There a step takes one iteration."""

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Life:
    """One process of a training."""

    resumed: int
    """The step that it went on after; 0 where it began."""
    last: int
    """The last step that it logged."""


def curve_in(folder: Path) -> dict[int, float]:
    """Step -> loss, as a train stage's folder has it in full precision."""
    result = json.loads((folder / "result.json").read_text())["result"]
    return {point["step"]: point["loss"] for point in result["curve"]}


def lives_of(folder: Path) -> list[Life]:
    """Those of a train stage's folder, oldest first."""
    texts = (log.read_text() for log in sorted(folder.glob("xtuner/*/*.log")))
    return [Life(last(r"resumed epoch: 0, iter: (\d+)", text), last(r"step (\d+)/", text)) for text in texts]


def last(pattern: str, text: str) -> int:
    """The last number that the pattern finds; 0 where there is none."""
    return int(["0", *re.findall(pattern, text)][-1])


def done_twice(lives: list[Life]) -> list[int]:
    """Steps that each life lost when it ended: the next one went back so far."""
    return [ended.last - following.resumed for ended, following in itertools.pairwise(lives)]
