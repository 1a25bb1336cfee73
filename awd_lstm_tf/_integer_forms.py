"""The two forms of integer models: which integers, and which ops for them.

| form | a grid of 8 bits | of 16 bits | weights |
|---|---|---|---|
| `Uint8` | uint8 | int16 | uint8 |
| `Int16x8` | int16, zero point 0 | int16 | int8, zero point 0 |
"""

import numpy as np

from awd_lstm_tf import _tflite_file
from awd_lstm_tf._computing_ops import check_factor
from awd_lstm_tf._integer_grids import BUILT_IN, UNIT16, Grid
from awd_lstm_tf._lowering import Lowering
from awd_lstm_tf._op_kinds import UNARY, refuse

# ---------------------------------------------------------------------------
# uint8


class Uint8(Lowering):
    """Of 8-bit unsigned integers with zero points, and 16-bit for gates."""

    form = "uint8"
    softmax_grid = BUILT_IN["Softmax"]

    def type_of(self, grid):
        if grid.bits == 8:
            return "uint8", 255 - grid.highest
        if (grid.lowest, grid.highest) != UNIT16[1:]:
            raise ValueError(
                f"The range {grid} must be [-a, a * 32767 / 32768]: TFLite's "
                "16-bit integers have no zero point."
            )
        return "int16", 0

    def common_grid(self, grids):
        return None  # none that holds the values of all

    def limited(self, made):
        return made  # a grid of 8 bits ends where its integers end

    def on_grid(self, tensor, grid, name):
        if tensor.grid.same_as(grid):
            return tensor
        if tensor.grid.bits != 8 or grid.bits != 8:
            raise ValueError(
                f"The op '{name}' takes {tensor.grid} to {grid}, and uint8 has "
                "no op between 8 and 16 bits: give both one range, or convert "
                'with form="int16x8".'
            )
        # A concatenation of one, since it rescales what it joins.
        made = self.tensor_on(name, tensor.shape, grid)
        axis = len(tensor.shape) - 1
        return self.emit("CONCATENATION", [tensor], made, axis=axis)

    def part(self, op, part, grid):
        own = None if self.graph.is_constant(part) else self.grids.own(part)
        if own is not None and own.bits == grid.bits == 8:
            return self.lowered(part)  # rescaled as it is joined
        return super(Uint8, self).part(op, part, grid)

    def gather(self, params, table, ids, name, tensor, grid):
        key = params.name, grid
        if key not in self.done:
            self.done[key] = self.constant_on(params.op.name, table, grid)
        made = self.tensor_on(name, self.graph.shape(tensor), grid)
        return self.emit("GATHER", [self.done[key], ids], made, axis=0)

    def softmax(self, tensor, grid):
        x = self.lowered(tensor.op.inputs[0])
        self._need_8_bits(tensor.op, x)
        name = tensor.op.name
        made = self.tensor_on(name, x.shape, self.softmax_grid)
        made = self.emit("SOFTMAX", [x], made, beta=1.0)
        return self.on_grid(made, grid, name)

    def _need_8_bits(self, op, x):
        if x.grid.bits != 8:
            raise ValueError(
                f"The op '{op.name}' of type {op.type} must have operands of 8 "
                f"bits, got {x.grid} of '{x.name}': a dense layer takes `h`, "
                'not `c`; or convert with form="int16x8".'
            )

    check_dense = _need_8_bits

    def wide_bias(self, matmul, bias):
        raise ValueError(
            f"The op '{matmul.name}' overflows 32 bits, with its bias '{bias}' "
            "or without: its weights' range is too small for its values; train "
            'it, or convert with form="int16x8".'
        )

    def weight_tensor(self, name, integers, grid):
        made = self.tensor_on(name, integers.shape, grid)
        made.data = integers + made.zero_point
        return made

    def relu(self, op, fused, x, grid):
        if grid.bits == 8 and x.grid.bits == 8:
            if grid.lowest == 0 and (fused == 1 or grid.ends[1] <= 6.0):
                return self.on_grid(x, grid, op.name)
        zeros = self.constant_on(op.name + "/zero", np.zeros(x.shape), x.grid)
        return self.elementwise(
            "ADD", op.name, [x, zeros], x.shape, grid, fused
        )

    def unary(self, op, x, grid):
        own = BUILT_IN[op.type] if x.grid.bits == 8 else UNIT16
        if x.grid.bits == 16:
            scales = [2.0**-12] + [2.0**-11] * (op.type == "Tanh")
            if not np.isclose(x.scale, scales, rtol=1e-6, atol=0).any():
                raise ValueError(
                    f"The op '{op.name}' of type {op.type} must have operands "
                    f"on [-8, 8) of 16 bits, got {x.grid}: that range is built "
                    "into TFLite."
                )
        made = self.tensor_on(op.name, x.shape, own)
        made = self.emit(UNARY[op.type], [x], made)
        return self.on_grid(made, grid, op.name)

    def constant_grid(self, op, kind, values, other, grid):
        if other.grid.bits == 16 or grid.bits == 16:
            return self._constant_grid_16(op, kind, values, other, grid)
        low, high = min(values.min(), 0.0), max(values.max(), 0.0)
        scale = (high - low) / 255 or 1.0
        zero = int(np.floor(-low / scale + 0.5))
        return Grid(scale, -zero, 255 - zero)

    def _constant_grid_16(self, op, kind, values, other, grid):
        largest = np.abs(values).max()
        if kind == "MUL":
            shift = 15 if grid.bits == 16 else 23
            scale = grid.scale / other.scale * 2.0**-shift
        elif np.isclose(other.scale, grid.scale, rtol=1e-6, atol=0):
            needed = largest / 32767 or 2.0**-15
            scale = min(2.0 ** np.ceil(np.log2(needed)), grid.scale)
        else:
            scale = grid.scale
        if largest > scale * 32768:
            raise ValueError(
                f"The op '{op.name}' of type {op.type} must have a constant on "
                f"{Grid(scale, *UNIT16[1:])}, got {largest}: TFLite's 16-bit "
                'kernels take no other; or convert with form="int16x8".'
            )
        return Grid(scale, *UNIT16[1:])

    def elementwise(self, kind, name, operands, shape, grid, fused):
        a, b = operands
        sixteen = {a.grid.bits, b.grid.bits, grid.bits} != {8}
        made = self.tensor_on(name, shape, grid)
        if sixteen:
            _check_16_bits(kind, name, a, b, made)
        elif kind == "MUL" and not a.scale * b.scale < made.scale:
            raise ValueError(
                f"The op '{name}' has a range that is too small for its "
                f"operands', {grid} for {a.grid} and {b.grid}: widen it."
            )
        return self.emit(kind, operands, made, fused=fused)


def _check_16_bits(kind, name, a, b, made):
    """What TFLite's 16-bit kernels of TensorFlow 1.x take for granted."""
    fix = 'see the ranges in docs/quantization.md, or form="int16x8".'
    if a.kind != "int16" or b.kind != "int16":
        raise ValueError(
            f"The op '{name}' must have operands both of 8 or both of 16 bits, "
            f"got {a.grid} and {b.grid}: {fix}"
        )
    if a.shape != b.shape:
        raise ValueError(
            f"The op '{name}' on 16-bit integers must have operands of one "
            "size: build the graph with a batch size of 1."
        )
    scales = [tensor.scale for tensor in (a, b, made)]
    if kind == "MUL":
        shift = 15 if made.kind == "int16" else 23
        needed = scales[0] * scales[1] * 2.0**shift
        if not np.isclose(scales[2], needed, rtol=1e-6) or (
            made.kind == "uint8" and made.zero_point != 128
        ):
            raise ValueError(
                f"The product '{name}' of 16-bit integers must be on "
                f"[{-needed * 2 ** (shift - 8 if shift == 15 else 7):.6g}, "
                f"...), got {made.grid}: {fix}"
            )
        return
    powers = np.log2(scales)
    exact = np.abs(powers - np.round(powers)).max() < 1e-6
    if (
        not exact
        or made.kind != "int16"
        or max(scales[:2]) != scales[2]
        and not np.isclose(max(scales[:2]), scales[2], rtol=1e-6)
    ):
        raise ValueError(
            f"The sum '{name}' of 16-bit integers must have ranges that are "
            f"powers of 2, the wider operand's its own, got {a.grid} and "
            f"{b.grid} to {made.grid}: {fix}"
        )


# ---------------------------------------------------------------------------
# int16x8

_ONE = Grid(2.0**-14, *UNIT16[1:])  # holds 1.0 as 2**14


class Int16x8(Lowering):
    """Of 16-bit integers without zero points, and weights of 8 bits.

    A grid of 8 bits keeps its scale: its `k` are the integers, of which 16 bits
    could hold more. Where an op can put out more, it is clipped.
    """

    form = "int16x8"
    softmax_grid = UNIT16

    def type_of(self, grid):
        if grid.lowest < -(2**15) or grid.highest >= 2**15:
            raise ValueError(
                f"The range {grid} must be [-a, a * 32767 / 32768]: TFLite's "
                "16-bit integers have no zero point."
            )
        return "int16", 0

    def common_grid(self, grids):
        # Fine enough that rounding to it is not seen.
        largest = max(max(-grid.ends[0], grid.ends[1]) for grid in grids)
        scale = largest / 32767
        if any(grid.bits == 8 and grid.scale < 8 * scale for grid in grids):
            return None
        return Grid(scale, *UNIT16[1:])

    def limited(self, tensor, grid=None):
        """Clipped to a grid, but for one step that an op may round up."""
        grid = grid or tensor.grid
        low, high = tensor.reach
        if high > grid.highest + 1:
            high = grid.highest
            tensor = self._clip("MINIMUM", tensor, high, (low, high), grid)
        if low < grid.lowest - 1:
            low = grid.lowest
            tensor = self._clip("MAXIMUM", tensor, low, (low, high), grid)
        return tensor

    def _clip(self, kind, tensor, end, reach, grid):
        name = tensor.name
        limit = self.numbers(f"{name}/end", [end], "int16", tensor.scale)
        made = self.tensor_on(name, tensor.shape, grid)
        made.reach = reach
        return self.emit(kind, [tensor, limit], made)

    def on_grid(self, tensor, grid, name):
        if np.isclose(tensor.scale, grid.scale, rtol=1e-6, atol=0):
            return self.limited(tensor, grid)
        made = self.tensor_on(name, tensor.shape, grid)
        factor = tensor.scale / grid.scale
        made.reach = tuple(
            int(np.clip(np.round(end * factor), *UNIT16[1:]))
            for end in tensor.reach
        )
        # By a product with 1.0, since QUANTIZE rounds a small integer twice.
        ones = self.constant_on(name + "/one", np.ones(tensor.shape), _ONE)
        self.emit("MUL", [tensor, ones], made, fused=0)
        return self.limited(made)

    def gather(self, params, table, ids, name, tensor, grid):
        # TFLite Micro gathers 8 bits, not 16.
        integers = grid.integers(table)
        shape = self.graph.shape(tensor)
        low, high = int(integers.min()), int(integers.max())
        if high - low > 255:
            refuse(tensor.op, "must gather from a table of 8 bits")
        offset = 0 if low >= -128 and high <= 127 else low + 128
        key = params.name, grid, "int8"
        if key not in self.done:
            self.done[key] = self.numbers(
                params.op.name, integers - offset, "int8", grid.scale
            )
        narrow = _tflite_file.Tensor(name, shape, "int8", grid.scale)
        self.emit("GATHER", [self.done[key], ids], narrow, axis=0)
        made = self.tensor_on(name, shape, grid)
        made.reach = low - offset, high - offset
        self.emit("CAST", [narrow], made)
        if not offset:
            return made
        shift = self.numbers(name + "/offset", [offset], "int16", grid.scale)
        shifted = self.tensor_on(name, shape, grid)
        shifted.reach = low, high
        return self.emit(
            "ADD", [made, shift], shifted, fused=0, pot_scale_int16=False
        )

    def softmax(self, tensor, grid):
        x, name = self.lowered(tensor.op.inputs[0]), tensor.op.name
        made = self.tensor_on(name, x.shape, UNIT16)
        made = self.emit("SOFTMAX", [x], made, beta=1.0)
        made.reach = 0, 2**15 - 1
        return self.on_grid(made, grid, name)

    def check_dense(self, matmul, x):
        pass

    def wide_bias(self, matmul, bias):
        return "int64"  # five times as slow, and right

    def weight_tensor(self, name, integers, grid):
        return _tflite_file.Tensor(
            name, integers.shape, "int8", grid.scale, 0, integers
        )

    def relu(self, op, fused, x, grid):
        zeros = self.constant_on(op.name + "/zero", np.zeros(x.shape), x.grid)
        return self.elementwise(
            "ADD", op.name, [x, zeros], x.shape, grid, fused
        )

    def unary(self, op, x, grid):
        made = self.tensor_on(op.name, x.shape, UNIT16)
        made = self.emit(UNARY[op.type], [x], made)
        return self.on_grid(made, grid, op.name)

    def constant_grid(self, op, kind, values, other, grid):
        return Grid(float(np.abs(values).max()) / 32767 or 1.0, *UNIT16[1:])

    def elementwise(self, kind, name, operands, shape, grid, fused):
        if kind == "MUL":
            scales = [tensor.scale for tensor in operands]
            check_factor(name, scales[0] * scales[1] / grid.scale)
        made = self.tensor_on(name, shape, grid)
        a, b = (
            tensor.scale * max(-tensor.reach[0], tensor.reach[1])
            for tensor in operands
        )
        largest = np.floor(
            (a * b if kind == "MUL" else a + b) / grid.scale + 0.5
        )
        made.reach = self.reach_of(made, largest, fused)
        options = {} if kind == "MUL" else {"pot_scale_int16": False}
        self.emit(kind, operands, made, fused=fused, **options)
        return self.limited(made)


# By name: of the `form` of `tflite.convert`.
FORMS = {"uint8": Uint8, "int16x8": Int16x8}
