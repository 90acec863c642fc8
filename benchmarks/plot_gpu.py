"""Draws docs/gpu.svg from benchmarks/results/h200.json and h200-hopper.json, and docs/gpus.svg from h200-x2.json.

python benchmarks/plot_gpu.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "gpu"  # the same file from the same figures

from matplotlib import pyplot as plt  # noqa: E402 - the backend comes first

HERE = Path(__file__).parent
WINDOW = 5
COLOURS = {"ours": "#4878a8", "limit": "#b0b0b0"}
"""By the beginning of a row's name; peers have PEER."""
PEER = "#d08848"


def main() -> None:
    hopper = json.loads((HERE / "results" / "h200-hopper.json").read_text())
    one_gpu(json.loads((HERE / "results" / "h200.json").read_text()), hopper["runs"][0]["rows"])
    two_gpus(json.loads((HERE / "results" / "h200-x2.json").read_text()))


def one_gpu(measured: dict[str, Any], hopper: list[dict[str, Any]]) -> None:
    figure, (bars, lines) = plt.subplots(1, 2, figsize=(11, 4.8), width_ratios=(1, 1.2))
    faster = [{**row, "row": f"{row['row']}, flash-attn-4*"} for row in hopper if row["row"].startswith("ours")]
    faster = [row for row in faster if row.get("hopper", True)]
    rows = sorted(measured["rows"] + faster, key=lambda row: row["tokensPerSecond"])
    names = [row["row"] for row in rows]
    bars.barh(names, [row["tokensPerSecond"] for row in rows], color=[colour(name) for name in names])
    bars.tick_params(axis="y", labelsize=8)
    bars.set_xlabel(f"tokens/s, one {measured['device']} (* another card of the kind)")
    for name, losses in measured["curves"].items():
        draw(lines, losses, name)
    finish(figure, lines, "gpu.svg")


def two_gpus(measured: dict[str, Any]) -> None:
    runs = {run["run"]: run for run in measured["runs"]}
    figure, (bars, lines) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(1, 1.2))
    names = ["plain-1", "plain-2", "fast-1", "fast-2"]
    speeds = [runs[name]["tokensPerSecond"] for name in names]
    bars.bar(names, speeds, color=[PEER, PEER, COLOURS["ours"], COLOURS["ours"]])
    bars.set_ylabel("tokens/s")
    for name in ("fast-1", "fast-1-seed", "fast-2"):
        draw(lines, runs[name]["losses"], name)
    finish(figure, lines, "gpus.svg")


def colour(name: str) -> str:
    if name.endswith("ours"):
        return COLOURS["ours"]
    return next((found for start, found in COLOURS.items() if name.startswith(start)), PEER)


def draw(lines: Any, losses: list[float], name: str) -> None:
    means = [sum(losses[i : i + WINDOW]) / len(losses[i : i + WINDOW]) for i in range(0, len(losses), WINDOW)]
    lines.plot(range(0, len(losses), WINDOW), means, label=name, linewidth=1.2)


def finish(figure: Any, lines: Any, name: str) -> None:
    lines.set_xlabel("step")
    lines.set_ylabel("loss")
    lines.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE.parent / "docs" / name, metadata={"Date": None})


if __name__ == "__main__":
    main()
