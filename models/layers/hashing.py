"""The finaliser of splitmix64 on int64 tensors: integer arithmetic that wraps around, the same on every device."""

from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
"""The increment of splitmix64, as int64."""
_FIRST_FACTOR = 0xBF58476D1CE4E5B9 - 2**64
_SECOND_FACTOR = 0x94D049BB133111EB - 2**64


def mix(value: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    value = (value ^ shift_right(value, 30)) * _FIRST_FACTOR
    value = (value ^ shift_right(value, 27)) * _SECOND_FACTOR
    return value ^ shift_right(value, 31)


def shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical shift to the right."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
