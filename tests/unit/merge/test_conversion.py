"""Stored floating-point types and fp32: the same bits as torch, in both directions."""

import numpy as np
import pytest
import torch

from finetune_jobs.merge.conversion import (
    EPSILON,
    FIRST_TO_OVERFLOW,
    LARGEST,
    all_finite,
    all_zero,
    fits,
    narrow,
    widen,
)

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LOWER_HALVES = (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x1234, 0xEDCB)
"""Below, at and above a tie."""
UPPER_HALVES = np.arange(1 << 16, dtype=np.uint32)
HALF_TIES = np.arange(1 << 19, dtype=np.uint32) << 13
"""All values that float16 stores in its normal range, and many beyond."""


def from_bits(bits: np.ndarray) -> np.ndarray:
    return bits.astype(np.uint32).view(np.float32)


def that_fit(values: np.ndarray, dtype: str) -> np.ndarray:
    return values[np.abs(values) < FIRST_TO_OVERFLOW[dtype]]


def by_torch(values: np.ndarray, dtype: str) -> np.ndarray:
    return torch.from_numpy(values.copy()).to(TYPES[dtype]).view(torch.uint8).numpy()


def by_us(values: np.ndarray, dtype: str) -> np.ndarray:
    made = np.empty(len(values) * TYPES[dtype].itemsize, np.uint8)
    narrow(values.copy(), dtype, made)
    return made


@pytest.mark.parametrize("lower", LOWER_HALVES)
def test_bfloat16_of_every_upper_half(lower):
    values = that_fit(from_bits(UPPER_HALVES << 16 | lower), "BF16")
    assert len(values) > 65_000
    np.testing.assert_array_equal(by_us(values, "BF16"), by_torch(values, "BF16"))


@pytest.mark.parametrize("lower", [0, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF])
def test_float16_of_every_value_and_tie(lower):
    values = that_fit(from_bits(HALF_TIES | lower), "F16")
    assert len(values) > 200_000
    np.testing.assert_array_equal(by_us(values, "F16"), by_torch(values, "F16"))


@pytest.mark.parametrize("dtype", TYPES)
def test_random_values(dtype):
    values = np.random.default_rng(7).standard_normal(1 << 20, np.float32)
    np.testing.assert_array_equal(by_us(values, dtype), by_torch(values, dtype))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_narrow_value_widens_to_itself(dtype):
    stored = np.arange(1 << 16, dtype=np.uint16)
    wide = np.empty(1 << 16, np.float32)
    widen(stored.view(np.uint8), dtype, wide)
    expected = torch.from_numpy(stored).view(TYPES[dtype]).float().numpy()
    np.testing.assert_array_equal(wide, expected)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(by_us(wide[finite], dtype), stored[finite].view(np.uint8))


@pytest.mark.parametrize("dtype", TYPES)
def test_limits_are_torch_s(dtype):
    told = torch.finfo(TYPES[dtype])
    assert (told.max, told.eps) == (LARGEST[dtype], EPSILON[dtype])
    first = np.float32(FIRST_TO_OVERFLOW[dtype])
    last = np.nextafter(first, np.float32(0))
    assert torch.tensor(first).to(TYPES[dtype]).isinf()
    assert torch.tensor(last).to(TYPES[dtype]) == told.max
    for sign in (1, -1):
        assert fits(np.array([0, sign * last], np.float32), dtype)
        assert not fits(np.array([0, sign * first], np.float32), dtype)
    assert not fits(np.array([0, np.nan, 1], np.float32), dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_not_finite(value, dtype):
    for others in ([1, 2], [-1, -2], [told_max(dtype), -told_max(dtype)]):
        values = torch.tensor([others[0], value, others[1]]).to(TYPES[dtype])
        assert not all_finite(values.view(torch.uint8).numpy(), dtype)
        values[1] = 0
        assert all_finite(values.view(torch.uint8).numpy(), dtype)


def told_max(dtype: str) -> float:
    return torch.finfo(TYPES[dtype]).max


def test_nothing_is_finite():
    assert all_finite(np.empty(0, np.uint8), "BF16")
    assert fits(np.empty(0, np.float32), "BF16")


def test_negative_zero_is_zero():
    assert all_zero(np.array([0.0, -0.0], np.float32).view(np.uint8), "F32")
    assert not all_zero(np.array([0.0, 1e-40], np.float32).view(np.uint8), "F32")
