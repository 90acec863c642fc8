"""Floating-point types as they are stored, to fp32 and back, by NumPy alone: importing torch takes longer than a merge.

NumPy has no bfloat16: it is the upper half of an fp32, and rounding to it is integer arithmetic on the bits.
"""

import numpy as np

NATIVE = {"F32": np.float32, "F16": np.float16}
"""Types that NumPy has."""
EPSILON = {"F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
"""Distance of 1 to the next larger value."""
LARGEST = {"F32": (2 - 2.0**-23) * 2.0**127, "F16": 65504.0, "BF16": (2 - 2.0**-7) * 2.0**127}
FIRST_TO_OVERFLOW = {"F32": np.inf, "F16": 65520.0, "BF16": (2 - 2.0**-8) * 2.0**127}
"""The least magnitude that rounds to infinity."""

EXPONENT_BITS = {
    "F32": (np.uint32, np.int32, 0x7F80_0000),
    "F16": (np.uint16, np.int16, 0x7C00),
    "BF16": (np.uint16, np.int16, 0x7F80),
}
"""Each type's bits as unsigned and signed integers; those of infinity, all bits of the exponent."""


def widen(found: np.ndarray, dtype: str, wide: np.ndarray) -> None:
    """Write the values whose bytes are `found` to `wide`, fp32 of shape (elements,)."""
    if dtype in NATIVE:
        np.copyto(wide, found.view(NATIVE[dtype]))
        return
    bits = wide.view(np.uint32)
    bits[:] = found.view(np.uint16)
    np.left_shift(bits, 16, out=bits)


def narrow(wide: np.ndarray, dtype: str, made: np.ndarray) -> None:
    """Write the bytes of `wide`'s values in `dtype` to `made`: to the nearest, ties to even, as IEEE 754 says.

    The values must be finite in `dtype` (see `fits`). `wide`, fp32 of shape (elements,), is not kept.
    """
    if dtype in NATIVE:
        np.copyto(made.view(NATIVE[dtype]), wide, casting="same_kind")
        return
    bits, upper = wide.view(np.uint32), made.view(np.uint16)
    np.add(bits, 0x8000, out=bits)  # half a unit of the upper half's last place: ties go up
    np.right_shift(bits, 16, out=upper, casting="unsafe")
    # A tie that went up to an odd value has these lower 17 bits: 1, then zeros. Shifted up it is the least integer
    np.left_shift(bits, 15, out=bits)
    shifted = wide.view(np.int32)
    least = np.iinfo(np.int32).min
    if shifted.size and shifted.min() == least:
        upper[np.flatnonzero(shifted == least)] -= 1


def fits(wide: np.ndarray, dtype: str) -> bool:
    """Whether all values, fp32, are finite, and stay so when they are rounded to `dtype`."""
    return bool(max(wide.max(initial=0), -wide.min(initial=0)) < FIRST_TO_OVERFLOW[dtype])


def all_finite(found: np.ndarray, dtype: str) -> bool:
    """Whether no value among these bytes is infinite or NaN: such have all bits of the exponent set.

    As integers they are the largest, of the positive values in signed ones, of the negative in unsigned ones.
    """
    unsigned, signed, infinity = EXPONENT_BITS[dtype]
    negative_infinity = infinity | (1 << (8 * found.view(unsigned).itemsize - 1))
    return bool(
        found.view(signed).max(initial=0) < infinity and found.view(unsigned).max(initial=0) < negative_infinity
    )


def all_zero(found: np.ndarray, dtype: str) -> bool:
    """Whether every value among these bytes is zero, of whatever sign."""
    unsigned, _, _ = EXPONENT_BITS[dtype]
    return not (found.view(unsigned) << 1).any()
