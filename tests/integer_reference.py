"""One step of the exported LSTM in integer arithmetic, and nothing else.

Written from the fixed-point library gemmlowp and the TFLite kernels, without
the code under test. All arrays are int64 that hold int32 or int16 values;
"Q3.12" is 16 bits of which 3 are before the point and 12 after it.

Scales: inputs and `h` 2**-7 with zero point 128, kernel `kernel_scale`, gates
Q3.12, sigmoid and tanh Q0.15, `c` Q4.11.
"""

import numpy as np

INT16 = 2**15


def saturate(values, bits=16):
    return np.clip(values, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def divide_truncating(values, divisor):
    """C's integer division, which rounds towards zero."""
    return np.sign(values) * (np.abs(values) // divisor)


def divide_by_power(values, exponent):
    """`values / 2**exponent`, rounded; halves away from zero."""
    half = 1 << exponent >> 1
    return np.sign(values) * ((np.abs(values) + half) >> exponent)


def multiply_high(a, b, bits=16):
    """The doubled product's upper half, rounded: Q0 times Q0 is Q0."""
    product = a * b
    half = 1 << (bits - 2)
    nudge = np.where(product >= 0, half, 1 - half)
    return saturate(divide_truncating(product + nudge, 2 ** (bits - 1)), bits)


def shift_left(values, exponent):
    return saturate(values * 2**exponent)


def constant(real, integer_bits=0):
    return np.int64(round(real * 2 ** (15 - integer_bits)))


# exp(-2**n), and the bits of its argument that say whether to multiply by it.
_BARREL = [(exponent, np.exp(-(2.0**exponent))) for exponent in range(-2, 5)]


def exp_minus_quarter_to_zero(a):
    """Q0.15 to Q0.15: a Taylor expansion around -1/8, to the fourth power."""
    x = a + (INT16 >> 3)
    x2 = multiply_high(x, x)
    x3, x4 = multiply_high(x2, x), multiply_high(x2, x2)
    third = constant(1 / 3)
    series = multiply_high(saturate(divide_by_power(x4, 2) + x3), third)
    series = divide_by_power(saturate(series + x2), 1)
    at_eighth = constant(np.exp(-1 / 8))
    return saturate(at_eighth + multiply_high(at_eighth, saturate(x + series)))


def exp_negative(a, integer_bits):
    """`exp(a)` for `a <= 0` with so many integer bits, as Q0.15."""
    fraction_bits = 15 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    in_quarter = (a & (quarter - 1)) - quarter
    result = exp_minus_quarter_to_zero(shift_left(in_quarter, integer_bits))
    remainder = in_quarter - a
    for exponent, factor in _BARREL:
        if exponent < integer_bits:
            has_bit = remainder & (1 << (fraction_bits + exponent))
            product = multiply_high(result, constant(factor))
            result = np.where(has_bit, product, result)
    return np.where(a == 0, INT16 - 1, result)


def two_over_one_plus(a):
    """`2 / (1 + a)` for Q0.15 `a` in [0, 1], as Q2.13, by Newton's method."""
    half_denominator = (a + INT16) // 2  # a + 1, rounded, halved
    x = constant(48 / 17, 2) + multiply_high(
        half_denominator, constant(-32 / 17, 2)
    )
    for _ in range(3):
        error = (1 << 13) - multiply_high(half_denominator, x)
        x = saturate(x + shift_left(multiply_high(x, saturate(error)), 2))
    return x


def logistic(a):
    """Q3.12 to Q0.15."""
    positive = shift_left(two_over_one_plus(exp_negative(-np.abs(a), 3)), 1)
    result = np.where(a > 0, positive, INT16 - 1 - positive)
    return np.where(a == 0, INT16 // 2, result)


def tanh(a):
    """Q3.12 to Q0.15; `2 * a` in Q3.12 is `a` read as Q4.11."""
    x = two_over_one_plus(exp_negative(-np.abs(a), 4))
    positive = shift_left(saturate(x - (1 << 13)), 2)
    return np.sign(a) * positive


def rescale(values, factor, halves_up):
    """`values * factor`, the factor as a 32-bit mantissa and an exponent.

    `halves_up`: halves are rounded up, not away from zero.
    """
    mantissa, exponent = np.frexp(factor)
    mantissa = np.int64(round(mantissa * 2**31))
    if mantissa == 2**31:
        mantissa, exponent = mantissa // 2, exponent + 1
    left, right = max(exponent, 0), max(-exponent, 0)
    product = multiply_high(values << left, mantissa, bits=32)
    if halves_up:
        return (product + (1 << right >> 1)) >> right
    return divide_by_power(product, right)


def clip(values, limit, scale, bits):
    """To the values of `[-limit, limit]`; both ends are on the grid."""
    if limit is None:
        return values
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    up = high - round((high * scale - limit) / scale)
    down = low + round((-low * scale - limit) / scale)
    return np.clip(values, down, up)


class IntegerLSTM(object):
    """An LSTM of integers, with float weights turned into integers here.

    `halves_up`: how the products with the kernel and with the projection are
    rounded, which depends on the TFLite kernel (test_tflite.py::halves_up).
    """

    def __init__(
        self,
        kernel,
        kernel_bound,
        bias,
        peepholes=None,
        projection=None,
        projection_bound=None,
        cell_clip=None,
        proj_clip=None,
        halves_up=(False, False),
    ):
        self.kernel, self.scale = _symmetric(kernel, kernel_bound)
        bias = np.float64(bias) / (self.scale / 128)
        self.bias = np.round(bias).astype(np.int64)
        self.peepholes = peepholes and [
            # A quarter of the weight, on the grid of [-0.5, 0.5).
            saturate(np.floor(w / 4 * 2**16 + 0.5)).astype(np.int64)
            for w in peepholes
        ]
        self.projection = None
        if projection is not None:
            self.projection = _symmetric(projection, projection_bound)
        self.cell_clip, self.proj_clip = cell_clip, proj_clip
        self.halves_up = halves_up

    def step(self, inputs, h, c):
        """uint8 inputs and h, int16 c; returns the new h and c."""
        operands = np.concatenate([inputs, h], 1).astype(np.int64) - 128
        c = c.astype(np.int64)
        sums = operands @ self.kernel + self.bias
        factor = self.scale / 128 * 2**12
        gates = saturate(rescale(sums, factor, self.halves_up[0]))
        i, j, f, o = np.split(gates, 4, 1)
        i, f = self._peep(0, i, c), self._peep(1, f, c)
        kept = multiply_high(logistic(f), c)
        new = multiply_high(logistic(i), tanh(j))
        c = saturate(kept + divide_by_power(new, 4))  # from Q0.15 to Q4.11
        c = clip(c, self.cell_clip, 2**-11, 16)
        o = self._peep(2, o, c)
        h = multiply_high(logistic(o), tanh(shift_left(c, 1)))
        h = saturate(divide_by_power(h, 8), 8)
        if self.projection is not None:
            weights, scale = self.projection
            h = rescale(h @ weights, scale / 128 * 128, self.halves_up[1])
            h = saturate(h, 8)
            h = clip(h, self.proj_clip, 2**-7, 8)
        return (h + 128).astype(np.uint8), c.astype(np.int16)

    def _peep(self, number, gate, c):
        if not self.peepholes:
            return gate
        product = multiply_high(self.peepholes[number], c)
        for _ in range(2):
            product = saturate(product + product)
        return saturate(gate + product)


def _symmetric(weights, bound):
    # The scale is float32 in the file.
    scale = float(np.float32(np.float32(bound) * np.float32(1 + 2**-20) / 127))
    integers = np.floor(np.float64(weights) / scale + 0.5)
    return np.clip(integers, -127, 127).astype(np.int64), scale


# ---------------------------------------------------------------------------
# int16x8


def rounded(function, integer_bits):
    """The function of reals, as integers: what a table of it comes close to."""

    def of_integers(a):
        reals = function(a * 2.0 ** (integer_bits - 15))
        return saturate(np.floor(reals * INT16 + 0.5)).astype(np.int64)

    return of_integers


def real_logistic(a):
    return 1 / (1 + np.exp(-a))


def tanh_of_double(a):
    return tanh(shift_left(a, 1))


# By how a runtime computes them: logistic of Q3.12, tanh of Q3.12, of Q4.11.
KERNELS = {
    "fixed point": (logistic, tanh, tanh_of_double),
    "rounded": (
        rounded(real_logistic, 3),
        rounded(np.tanh, 3),
        rounded(np.tanh, 4),
    ),
}


def add_general(a, b, scales):
    """`a + b` with three scales of any size, as TFLite's kernel adds."""
    twice = 2 * max(scales[:2])
    total = sum(
        rescale(values << 15, scale / twice, False)
        for values, scale in zip((a, b), scales)
    )
    return rescale(total, twice / (2**15 * scales[2]), False)


class IntegerLSTM16(IntegerLSTM):
    """The same LSTM as int16x8: inputs and `h` are int16, without zero point.

    `kernels`: a key of KERNELS. `halves_up` is of the products of matrices.
    """

    def __init__(self, *arguments, kernels="fixed point", **keywords):
        super(IntegerLSTM16, self).__init__(*arguments, **keywords)
        self.logistic, self.tanh, self.tanh_of_c = KERNELS[kernels]

    def step(self, inputs, h, c):
        """int16 inputs, h and c; returns the new h and c."""
        inputs = np.clip(inputs.astype(np.int64), -128, 127)
        operands = np.concatenate([inputs, h], 1).astype(np.int64)
        c = c.astype(np.int64)
        sums = operands @ self.kernel + self.bias
        gates = self._rescaled(sums, self.scale / 128 * 2**12, 0)
        i, j, f, o = np.split(gates, 4, 1)
        i, f = self._peep(0, i, c), self._peep(1, f, c)
        kept = product(self.logistic(f), c, 2**-15)
        new = product(self.logistic(i), self.tanh(j), 2**-15)
        c = saturate(add_general(kept, new, (2**-11, 2**-15, 2**-11)))
        c = clip(c, self.cell_clip, 2**-11, 16)
        o = self._peep(2, o, c)
        h = product(self.logistic(o), self.tanh_of_c(c), 2**-23)
        if self.projection is not None:
            weights, scale = self.projection
            h = self._rescaled(h @ weights, scale, 1)
            h = clip(np.clip(h, -128, 127), self.proj_clip, 2**-7, 8)
        return h.astype(np.int16), c.astype(np.int16)

    def _rescaled(self, sums, factor, number):
        return saturate(rescale(sums, factor, self.halves_up[number]))

    def _peep(self, number, gate, c):
        if not self.peepholes:
            return gate
        peeped = product(self.peepholes[number], c, 2**-15)
        for _ in range(2):
            peeped = saturate(add_general(peeped, peeped, [2**-12] * 3))
        return saturate(add_general(gate, peeped, [2**-12] * 3))


def product(a, b, factor):
    """`a * b * factor` in 16 bits."""
    return saturate(rescale(a * b, factor, False))
