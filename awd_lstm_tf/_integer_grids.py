"""Grids: the evenly spaced reals that integers of a tensor stand for."""

import collections

import numpy as np


class Grid(collections.namedtuple("Grid", "scale lowest highest")):
    """The reals `scale * k` for the integers `k` in `[lowest, highest]`."""

    @property
    def bits(self):
        return 8 if self.highest - self.lowest < 256 else 16

    @property
    def ends(self):
        return self.scale * self.lowest, self.scale * self.highest

    def same_as(self, other):
        """Whether the other is this grid, but for roundings of its scale."""
        return self[1:] == other[1:] and np.isclose(
            self.scale, other.scale, rtol=1e-6, atol=0
        )

    def integers(self, values):
        """`k` of the nearest of this grid's reals."""
        nearest = np.floor(np.float64(values) / self.scale + 0.5)
        return np.clip(nearest, self.lowest, self.highest).astype(np.int64)

    def reals(self, integers):
        return self.scale * np.float64(integers)

    def __str__(self):
        low, high = self.ends
        return f"[{low:.6g}, {high:.6g}] of {self.bits} bits"


# The grids that the LSTM's integer kernels of TFLite are made for.
UNIT16 = Grid(2.0**-15, -(2**15), 2**15 - 1)
# Of 8 bits, by op: built into the kernels.
BUILT_IN = {
    "Sigmoid": Grid(2.0**-8, 0, 255),
    "Softmax": Grid(2.0**-8, 0, 255),
    "Tanh": Grid(2.0**-7, -128, 127),
}


def fake_quant_grid(name, low, high, bits, narrow):
    """The grid that TensorFlow's fake quant rounds to.

    Args:
      name: of the op.
      low: the lower end of its range.
      high: the upper one.
      bits: 8 or 16.
      narrow: whether the lowest integer is left out.

    Returns:
      A `Grid` whose ends are moved as fake quant moves them, so that 0 is one
      of its reals.

    Raises:
      ValueError: naming the op, when there is no such grid.
    """
    if bits not in (8, 16):
        raise ValueError(
            f"The fake quant '{name}' must have 8 or 16 bits, got {bits}."
        )
    if not low < high or not np.isfinite([low, high]).all():
        raise ValueError(
            f"The range of the fake quant '{name}' must not be empty, got "
            f"[{low}, {high}]: train with it first."
        )
    if low > 0 or high < 0:
        raise ValueError(
            f"The range of the fake quant '{name}' must hold 0, got "
            f"[{low}, {high}]: 0 is where padding, zero states and the zero "
            "point are; widen it and train again."
        )
    low, high = np.float32(low), np.float32(high)
    first, last = int(narrow), 2**bits - 1
    scale = (high - low) / np.float32(last - first)
    zero = first - float(low / scale)
    zero = int(np.clip(np.floor(zero + 0.5), first, last))
    return Grid(float(scale), first - zero, last - zero)
