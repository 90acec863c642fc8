"""Packing keeps every document whole, once, and leaves little room."""

import numpy as np
import pytest

from finetune_jobs.dataset.packing import best_fit_decreasing, pack

CAPACITY = 1000


def lengths_like(seed: int, count: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).lognormal(5, 0.7, count)
    return np.clip(drawn, 1, CAPACITY).astype(np.int64)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 37, 3000])
def test_every_document_is_in_exactly_one_row_that_holds_it(seed, count):
    lengths = lengths_like(seed, count)
    rows = list(pack(lengths, CAPACITY, (seed, 0)))
    assert sorted(index for row in rows for index in row) == list(range(count))
    assert max(int(lengths[row].sum()) for row in rows) <= CAPACITY


def test_rows_of_a_usual_mix_are_nearly_full():
    lengths = lengths_like(3, 3000)
    rows = list(pack(lengths, CAPACITY, (3, 0)))
    assert len(rows) <= -(-int(lengths.sum()) // CAPACITY) * 1.01


def test_the_least_fitting_room_is_taken():
    rows = best_fit_decreasing(np.array([6, 5, 4, 3, 2]), 10, np.arange(5))
    assert [sorted(row) for row in rows] == [[0, 2], [1, 3, 4]]


def test_documents_of_full_length_stand_alone():
    assert best_fit_decreasing(np.array([10, 10, 10]), 10, np.arange(3)) == [[0], [1], [2]]


def test_the_seed_decides_and_nothing_else():
    lengths = lengths_like(1, 500)
    first, again, other = (list(pack(lengths, CAPACITY, (seed, 0))) for seed in (1, 1, 2))
    assert first == again
    assert first != other
