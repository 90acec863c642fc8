"""Which documents share a row: best-fit decreasing, in windows, so that memory does not grow with the data.

Best fit decreasing: Johnson et al., "Worst-Case Performance Bounds for Simple One-Dimensional Packing Algorithms",
SIAM J. Comput. 3 (1974); for packing of training rows as in Ding et al., 2024, arXiv:2404.10830.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

WINDOW = 65_536
"""Documents that are packed among themselves; beyond a few thousand the fill no longer rises."""

Lengths: TypeAlias = npt.NDArray[np.int64]


def best_fit_decreasing(lengths: Lengths, capacity: int, order: npt.NDArray[np.int64]) -> list[list[int]]:
    """Rows of indices into `lengths` (each 1 to `capacity`); `order` decides between equal lengths.

    A document goes to the row with the least room that still takes it, else to a new row. The rows of one room are a
    stack; which rooms there are is an integer with a bit for each, so that the least fitting one is a shift away.
    """
    decreasing = order[np.argsort(-lengths[order], kind="stable")]
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms = 0
    for index in decreasing.tolist():
        length = int(lengths[index])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            rooms ^= 0 if by_room[room] else 1 << room
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        by_room.setdefault(room - length, []).append(row)
        rooms |= 1 << (room - length)
    return rows


def pack(lengths: Lengths, capacity: int, seed: tuple[int, int]) -> Iterator[list[int]]:
    """Rows of one window, in an order that the seed shuffles, as it does the documents within a row.

    The long document would else always come first, and the full rows before the others.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    rows = best_fit_decreasing(lengths, capacity, random.permutation(len(lengths)))
    for place in random.permutation(len(rows)).tolist():
        yield random.permutation(rows[place]).tolist()
