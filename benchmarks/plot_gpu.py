"""Draws docs/gpu.svg from benchmarks/results/h200.json: speed of the rows, and loss curves.

python benchmarks/plot_gpu.py
"""

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "gpu"  # the same file from the same figures

from matplotlib import pyplot as plt  # noqa: E402 - the backend comes first

HERE = Path(__file__).parent
WINDOW = 5


def main() -> None:
    measured = json.loads((HERE / "results" / "h200.json").read_text())
    figure, (bars, lines) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(1, 1.2))
    rows = list(reversed(measured["rows"]))
    bars.barh([row["row"] for row in rows], [row["tokensPerSecond"] for row in rows], color="#4878a8")
    bars.set_xlabel(f"tokens/s, one {measured['device']}")
    for name, losses in measured["curves"].items():
        means = [sum(losses[i : i + WINDOW]) / WINDOW for i in range(0, len(losses), WINDOW)]
        lines.plot(range(0, len(losses), WINDOW), means, label=name, linewidth=1.2)
    lines.set_xlabel("step")
    lines.set_ylabel("loss")
    lines.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE.parent / "docs" / "gpu.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
