"""The report's picture: how long the conversations are."""

import itertools
from pathlib import Path
from typing import Any

HISTOGRAM_FILE = "histogram.png"


def draw(histogram: dict[str, Any], max_length: int, path: Path) -> None:
    """`histogram` as `Tally.histogram` gives it -> a PNG of 1000 x 500 pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    edges, counts = histogram["edges"], histogram["counts"]
    widths = [right - left for left, right in itertools.pairwise(edges)]
    axes.bar(edges[:-1], counts, widths, align="edge", color="#4472a8", edgecolor="white", linewidth=0.5)
    if histogram["longer"]:
        axes.bar(max_length + 1, histogram["longer"], max(widths), align="edge", color="#b8503f", label="longer")
        axes.legend()
    axes.set_xlabel(f"tokens in a conversation (a row holds {max_length})")
    axes.set_ylabel("conversations")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
