"""TensorFlow's ops on fake-quantized floats, as TFLite's ops on integers.

A tensor is wanted on a grid, the one of the fake quant that it goes into; and
so, op by op, is what it is computed from. That makes each integer tensor the
fake-quant graph's own, whatever else its values are used for: where one tensor
goes into two fake quants, there are two integer tensors, and a table that is
both embedding and softmax weights becomes two constants.

Two forms differ in the types of integers and in which ops TFLite has for them:

| form | a grid of 8 bits | of 16 bits | weights |
|---|---|---|---|
| `Uint8` | uint8 | int16 | uint8 |
| `Int16x8` | int16, zero point 0 | int16 | int8, zero point 0 |
"""

import numpy as np

from awd_lstm_tf import _integer_graph, _tflite_file
from awd_lstm_tf._integer_graph import BUILT_IN, UNIT16, Grid

_ADD = {"Add", "AddV2"}
_SUMS = _ADD | {"BiasAdd"}
_RELUS = {"Relu": 1, "Relu6": 3}  # TFLite's numbers of fused activations
_FUSING = _SUMS | {"MatMul", "Sub", "Mul"}
_GATHERS = {"Gather", "GatherV2", "ResourceGather"}
_CUTS = {"Split", "SplitV", "Slice", "StridedSlice", "Unpack"}
_JOINS = {"ConcatV2", "Pack"}
_UNARY = {"Sigmoid": "LOGISTIC", "Tanh": "TANH"}
_KNOWN = _FUSING | _GATHERS | _CUTS | _JOINS | set(_UNARY) | set(_RELUS)
_KNOWN |= _integer_graph.PASSING | _integer_graph.FAKE_QUANT
_KNOWN |= {"Softmax", "StopGradient", "Cast"}

_REWRITE = (
    "call tf.contrib.quantize.create_eval_graph before converting (and "
    "create_training_graph before `minimize` in training), or apply "
    "tf.fake_quant_with_min_max_vars"
)
_INT32 = 2**31 - 1


def lower(graph, form):
    """Returns the model of an `IntegerGraph`, a `_Lowering`.

    Args:
      graph: the `IntegerGraph`.
      form: "uint8" or "int16x8".

    Raises:
      ValueError: naming the op at fault, when it has no integer form.
    """
    return {"uint8": Uint8, "int16x8": Int16x8}[form](graph)


FORMS = ("uint8", "int16x8")


class _Lowering(object):
    """The integer model of a graph, while and after it is made.

    Attributes:
      model: the `_tflite_file.Model`. Its tensors have attributes more: `grid`
        (None for ids), and `reach`, the least and largest integer `k` there
        can be.
      rows: of tables, by the name of the input that ids are gathered with.
    """

    form = None

    def __init__(self, graph):
        self.graph = graph
        self.model = _tflite_file.Model(self.form)
        self.rows = {}
        self._done, self._grids, self._asked = {}, {}, []
        for op in graph.members():
            _check_known(op)
            if op.type == "MatMul" and graph.is_constant(op.inputs[1]):
                self._check_weights(op.inputs[1])
        graph.evaluate()
        if self.form == "int16x8":
            graph.make_weights_symmetric()  # they have no zero point
        for end in graph.inputs + [old for old, _ in graph.states]:
            self.model.inputs.append(self._input(end))
        self._taken = {tensor.name for tensor in self.model.inputs}
        for output in graph.outputs:
            self._add_output(output)
        self._name_apart()

    # -- Ends

    def _input(self, end):
        key = end.name, None
        if not end.dtype.is_floating:
            made = _tflite_file.Tensor(
                end.op.name, end.shape.as_list(), end.dtype.name
            )
            made.grid = made.reach = None
        else:
            grid = self.grid_of(end)
            made = self._tensor(end.op.name, end.shape.as_list(), grid)
            # What is fed may lie outside of the grid, but for a state.
            made.reach = self._limits(made)
            if end.name in {old.name for old, _ in self.graph.states}:
                made.reach = grid.lowest, grid.highest
        self.model.tensors.append(made)
        self._done[key] = made
        return made

    def _input_grid(self, end):
        grids = self.graph.grids_ahead(end)
        for old, new in self.graph.states:
            if old.name == end.name:
                if not self.graph.is_constant(new):
                    # What is fed is on the grid of what was put out.
                    return self._settled_grid(new)
        if not grids:
            raise ValueError(
                f"`inputs` must have ranges, '{end.op.name}' has none: feed it "
                "to a cell with `is_quant=True`, or apply "
                "tf.fake_quant_with_min_max_args."
            )
        first, *others = grids.values()
        if all(first.same_as(other) for other in others):
            return first
        common = self._common_grid(grids.values())
        if common is None:
            _refuse_grids(f"The input '{end.op.name}' goes into", grids.items())
        return common

    def _add_output(self, output):
        found = self.lowered(output, self._output_grid(output))
        if found.data is not None or found.name in self._taken:
            found = self._copy(found)
        found.name = output.op.name
        self._taken.add(found.name)
        self.model.outputs.append(found)

    def _output_grid(self, output):
        for old, new in self.graph.states:
            if new.name == output.name:
                return self.grid_of(old)
        return self._settled_grid(output)

    def _settled_grid(self, tensor):
        """The grid of an output, which may be that of a fake quant after it."""
        inner = tensor
        while self.grid_of(inner) is None:
            for user in inner.consumers():
                if user.type in _integer_graph.FAKE_QUANT:
                    return self.graph.grid_of(user)
            if inner.op.type not in _integer_graph.PASSING:
                return self.wanted_grid(inner)
            inner = inner.op.inputs[0]
        return self.grid_of(inner)

    def _copy(self, tensor):
        made = self._tensor(tensor.name, tensor.shape, tensor.grid)
        return self._reshape(tensor, made)

    def _name_apart(self):
        taken = set(self._taken)
        ends = {id(end) for end in self.model.inputs + self.model.outputs}
        for tensor in self.model.tensors:
            if id(tensor) in ends:
                continue
            name, number = tensor.name, 0
            while tensor.name in taken:
                number += 1
                tensor.name = f"{name}_{number}"
            taken.add(tensor.name)

    # -- Grids

    def grid_of(self, tensor):
        """The grid that the tensor's own values are on; None if on none."""
        if tensor.name not in self._grids:
            if tensor.name in self._asked:
                raise ValueError(
                    f"The state '{tensor.op.name}' must not be passed on as it "
                    "is by another state that depends on it: compute it from "
                    "the inputs."
                )
            self._asked.append(tensor.name)
            self._grids[tensor.name] = self._find_grid(tensor)
            self._asked.pop()
        return self._grids[tensor.name]

    def _find_grid(self, tensor):
        op = tensor.op
        if op.type in _integer_graph.FAKE_QUANT:
            return self.graph.grid_of(op)
        if self.graph.is_constant(tensor):
            return None
        if tensor.name in self.graph.ends:
            return self._input_grid(tensor)
        if op.type in _integer_graph.PASSING | _CUTS | {"StopGradient"}:
            return self.grid_of(_operand(op))
        if op.type in _JOINS:
            return self._joint_grid(op)
        if op.type in _GATHERS:
            rounding = self.graph.rounding_of(op.inputs[0])
            return rounding and self.graph.grid_of(rounding)
        if op.type == "Softmax":
            return self.softmax_grid
        return None

    def _joint_grid(self, op):
        parts = [
            part for part in _parts(op) if not self.graph.is_constant(part)
        ]
        grids = [self.grid_of(part) for part in parts]
        if not grids or None in grids:
            return None
        if all(grids[0].same_as(grid) for grid in grids):
            return grids[0]
        return self._common_grid(grids)

    def wanted_grid(self, tensor):
        """The grid of a tensor that is used as it is."""
        grid = self.grid_of(tensor)
        if grid is None:
            op = tensor.op
            if op.type in _GATHERS or self.graph.is_constant(tensor):
                name = (op.inputs[0] if op.inputs else tensor).op.name
                raise ValueError(
                    f"The weights '{name}' have no range: {_REWRITE}."
                )
            if op.type in _integer_graph.PASSING | _CUTS:
                return self.wanted_grid(_operand(op))
            if op.type in _JOINS:
                parts = [p for p in _parts(op) if not self.graph.is_constant(p)]
                grids = [(p.op.name, self.wanted_grid(p)) for p in parts]
                if grids:
                    _refuse_grids(f"The op '{op.name}' joins", grids)
            raise ValueError(
                f"The op '{op.name}' of type {op.type} has no range, its "
                "output must go into fake quant and nothing else: "
                f"{_REWRITE}."
            )
        return grid

    # -- Tensors

    def lowered(self, tensor, grid=None):
        """The integer tensor that holds a tensor's values.

        Args:
          tensor: of TensorFlow.
          grid: that the values are rounded to; None for their own. None for
            ids, too.

        Returns:
          A `_tflite_file.Tensor`.
        """
        if grid is None and tensor.dtype.is_floating:
            grid = self.wanted_grid(tensor)
        if self.graph.is_constant(tensor):
            return self._constant(tensor, grid)
        key = tensor.name, grid
        if key not in self._done:
            self._lower(tensor, grid)
        return self._done[key]

    def _lower(self, tensor, grid):
        key, op = (tensor.name, grid), tensor.op
        own = None
        if tensor.dtype.is_floating:
            own = self.grid_of(tensor)
            if own is not None and own != grid and own.same_as(grid):
                self._done[key] = self.lowered(tensor, own)
                return
        if tensor.name in self.graph.ends:
            made = self._done[tensor.name, None]
            if grid is not None and grid != own:
                made = self.lowered(tensor, own)  # clipped
            if grid is not None:
                made = self._on_grid(made, grid, op.name)
        elif op.type in _integer_graph.FAKE_QUANT:
            if own == grid:
                made = self.lowered(op.inputs[0], own)
            else:
                made = self._on_grid(self.lowered(tensor, own), grid, op.name)
        elif op.type in _integer_graph.PASSING | {"StopGradient", "Cast"}:
            made = self._passed(tensor, grid)
        elif op.type in _CUTS:
            self._cut(op, grid)
            return
        elif op.type in _JOINS:
            made = self._joined(tensor, grid)
        elif op.type in _GATHERS:
            made = self._gathered(tensor, grid)
        elif op.type == "Softmax":
            made = self._softmax(tensor, grid)
        else:
            made = self._computed(tensor, grid)
        self._done[key] = made

    def _tensor(self, name, shape, grid, data=None):
        kind, zero_point = self._type(grid)
        made = _tflite_file.Tensor(
            name, shape, kind, grid.scale, zero_point, data
        )
        made.grid, made.reach = grid, self._limits(made)
        if data is None:
            made.reach = grid.lowest, grid.highest
        return made

    def _limits(self, tensor):
        limits = np.iinfo(tensor.kind)
        return (
            int(limits.min) - tensor.zero_point,
            int(limits.max) - tensor.zero_point,
        )

    def _numbers(self, name, values, kind, scale=None):
        """A constant of plain integers."""
        values = np.asarray(values)
        made = _tflite_file.Tensor(name, values.shape, kind, scale, 0, values)
        made.grid = None
        made.reach = None
        self.model.tensors.append(made)
        return made

    def _constant(self, tensor, grid):
        name = tensor.op.name
        if tensor.op.type == "Const" and not tensor.dtype.is_floating:
            grid = None
        key = tensor.name, grid
        if key not in self._done:
            values = self.graph.value(tensor)
            if grid is None:
                made = self._numbers(name, values, tensor.dtype.name)
            else:
                made = self._constant_on(name, values, grid)
            self._done[key] = made
        return self._done[key]

    def _constant_on(self, name, values, grid):
        integers = grid.integers(values)
        made = self._tensor(name, integers.shape, grid)
        made.data = integers + made.zero_point
        made.reach = int(integers.min()), int(integers.max())
        self.model.tensors.append(made)
        return made

    def _emit(self, kind, inputs, output, **options):
        if not any(output is tensor for tensor in self.model.tensors):
            self.model.tensors.append(output)
        self.model.operators.append(
            _tflite_file.Operator(kind, inputs, [output], **options)
        )
        return output

    # -- Ops that compute nothing

    def _passed(self, tensor, grid):
        inner = tensor.op.inputs[0]
        found = self.lowered(inner, grid)
        shape = self.graph.shape(tensor)
        if shape == found.shape:
            return found
        name = tensor.op.name
        if grid is None:
            made = _tflite_file.Tensor(name, shape, found.kind)
            made.grid = made.reach = None
        else:
            made = self._tensor(name, shape, grid)
        return self._reshape(found, made)

    def _reshape(self, tensor, made):
        made.reach = tensor.reach
        shape = self._numbers(made.name + "/shape", _shape(made), "int32")
        return self._emit(
            "RESHAPE", [tensor, shape], made, new_shape=list(made.shape)
        )

    def _cut(self, op, grid):
        whole = self.lowered(_operand(op), grid)
        if op.type == "Split":
            axis = int(self.graph.value(op.inputs[0])) % len(whole.shape)
            made = [self._like(whole, out) for out in op.outputs]
            number = self._numbers(op.name + "/axis", np.int32(axis), "int32")
            self.model.tensors += made
            self.model.operators.append(
                _tflite_file.Operator(
                    "SPLIT", [number, whole], made, num_splits=len(made)
                )
            )
        else:
            made = [
                self._sliced(whole, out, begin, size)
                for out, begin, size in self._pieces(op, whole.shape)
            ]
        for out, each in zip(op.outputs, made):
            self._done[out.name, grid] = each

    def _like(self, tensor, output):
        shape = self.graph.shape(output)
        made = _tflite_file.Tensor(
            output.op.name, shape, tensor.kind, tensor.scale, tensor.zero_point
        )
        made.grid, made.reach = tensor.grid, tensor.reach
        return made

    def _sliced(self, whole, output, begin, size):
        made = self._like(whole, output)
        shape, made.shape = made.shape, list(size)
        if list(size) != whole.shape:
            numbers = [
                self._numbers(made.name + end, np.int32(values), "int32")
                for end, values in (("/begin", begin), ("/size", size))
            ]
            self._emit("SLICE", [whole] + numbers, made)
        else:
            made = whole
        if shape == made.shape:
            return made
        reshaped = self._like(whole, output)
        return self._reshape(made, reshaped)

    def _pieces(self, op, shape):
        """Begins and sizes of the outputs of an op that cuts."""
        places = np.arange(np.prod(shape, dtype=int)).reshape(shape)
        constants = [
            self.graph.value(tensor)
            if self.graph.is_constant(tensor)
            else _refuse(op, "must cut at places that are constants")
            for tensor in op.inputs[1:]
        ]
        if op.type == "Slice":
            begin, size = constants
            ends = [b + s if s >= 0 else None for b, s in zip(begin, size)]
            cuts = [places[tuple(map(slice, begin, ends))]]
        elif op.type == "SplitV":
            cuts = np.split(
                places, np.cumsum(constants[0])[:-1], int(constants[1])
            )
        elif op.type == "Unpack":
            axis = op.get_attr("axis")
            cuts = np.split(places, shape[axis], axis)
        else:
            cuts = [places[_strided(op, *constants)]]
        for output, cut in zip(op.outputs, cuts):
            corner = np.unravel_index(cut.flat[0], shape)
            last = np.unravel_index(cut.flat[-1], shape)
            size = [int(b - a) + 1 for a, b in zip(corner, last)]
            if np.prod(size) != cut.size:
                _refuse(op, "must have strides of 1")
            yield output, [int(place) for place in corner], size

    def _joined(self, tensor, grid):
        op = tensor.op
        parts, axis = _parts(op), self._axis(op)
        shape = self.graph.shape(tensor)
        if not tensor.dtype.is_floating:
            _refuse(op, "must join floats, not ids")
        lowered = [self._part(op, part, grid) for part in parts]
        if op.type == "Pack":
            wide = list(shape)
            wide[axis] = 1
            lowered = [
                self._reshape(each, self._relabelled(each, wide))
                for each in lowered
            ]
        made = self._tensor(op.name, shape, grid)
        reaches = [each.reach for each in lowered]
        if all(each.grid.same_as(grid) for each in lowered):
            made.reach = min(r[0] for r in reaches), max(r[1] for r in reaches)
        return self._emit("CONCATENATION", lowered, made, axis=axis)

    def _relabelled(self, tensor, shape):
        made = self._tensor(tensor.name, shape, tensor.grid)
        made.reach = tensor.reach
        return made

    def _axis(self, op):
        if op.type == "Pack":
            axis = op.get_attr("axis")
        else:
            axis = int(self.graph.value(op.inputs[-1]))
        return axis % len(self.graph.shape(op.outputs[0]))

    def _part(self, op, part, grid):
        if self.graph.is_constant(part):
            values = self.graph.value(part)
            exact = grid.reals(grid.integers(values))
            if np.abs(exact - values).max() > 0.51 * grid.scale:
                raise ValueError(
                    f"The op '{op.name}' joins the constant '{part.op.name}' "
                    f"to {grid}, which does not hold it: apply fake quant "
                    "after the op."
                )
        return self.lowered(part, grid)

    def _gathered(self, tensor, grid):
        op = tensor.op
        params, ids = op.inputs[:2]
        if not self.graph.is_constant(params):
            _refuse(op, "must gather from a table of weights")
        axis = 0
        if op.type == "GatherV2":
            axis = int(self.graph.value(op.inputs[2]))
        batched = "batch_dims" in op.node_def.attr
        if axis != 0 or (batched and op.get_attr("batch_dims")):
            _refuse(op, "must gather rows (`axis` of 0, no `batch_dims`)")
        own = self.grid_of(tensor)
        if own is not None and own != grid:
            return self._on_grid(self.lowered(tensor, own), grid, op.name)
        table = self.graph.value(params)
        self._count_rows(ids, len(table))
        return self._gather(
            params, table, self.lowered(ids), op.name, tensor, grid
        )

    def _count_rows(self, ids, rows):
        todo = [ids]
        while todo:
            tensor = todo.pop()
            if tensor.name in self.graph.ends:
                known = self.rows.get(tensor.name, rows)
                self.rows[tensor.name] = min(known, rows)
            elif not self.graph.is_constant(tensor):
                todo += list(tensor.op.inputs)

    # -- Ops that compute

    def _computed(self, tensor, grid):
        op, fused = tensor.op, 0
        if op.type in _RELUS:
            fused, inner = _RELUS[op.type], op.inputs[0]
            if inner.op.type not in _FUSING or self.graph.is_constant(inner):
                return self._relu(op, fused, self.lowered(inner), grid)
            op = inner.op
        matmul, biases = self._layer(op)
        if matmul is not None:
            return self._dense(op, matmul, biases, grid, fused)
        if op.type in _UNARY:
            return self._unary(op, self.lowered(op.inputs[0]), grid)
        kind = {"Sub": "SUB", "Mul": "MUL"}.get(op.type, "ADD")
        operands = self._operands(op, kind, grid)
        shape = self.graph.shape(op.outputs[0])
        return self._elementwise(kind, op.name, operands, shape, grid, fused)

    def _layer(self, op):
        """The product behind an op that adds a bias, and the biases."""
        biases = []
        while op.type in _SUMS:
            constants = [
                tensor for tensor in op.inputs if self.graph.is_constant(tensor)
            ]
            if len(constants) != 1:
                return None, []
            (inner,) = (
                tensor for tensor in op.inputs if tensor is not constants[0]
            )
            units = self.graph.shape(op.outputs[0])[-1]
            value = self.graph.value(constants[0])
            if inner.op.type not in _FUSING or value.size not in (1, units):
                return None, []
            biases.append((constants[0].op.name, value))
            op = inner.op
        return (op, biases) if op.type == "MatMul" else (None, [])

    def _dense(self, op, matmul, biases, grid, fused):
        x, weights = matmul.inputs
        if not self.graph.is_constant(weights):
            if not self.graph.is_constant(x) or matmul.get_attr("transpose_a"):
                raise ValueError(
                    f"The op '{matmul.name}' of type MatMul must multiply by "
                    f"weights, got '{weights.op.name}', which depends on the "
                    "inputs: products of two activations have no integer form."
                )
            _refuse(matmul, "must have its weights on the right")
        if matmul.get_attr("transpose_a"):
            _refuse(matmul, "must have `transpose_a=False`")
        integers, weights = self._weights(matmul, weights)
        x = self.lowered(x)
        self._check_dense(matmul, x)
        bias = np.zeros(len(integers))
        for _, value in biases:
            bias = bias + np.reshape(value, [-1])
        name = biases[0][0] if biases else matmul.name + "/no_bias"
        scale = x.scale * weights.scale
        bias = np.floor(bias / scale + 0.5)
        largest = max(-x.reach[0], x.reach[1])
        sums = np.abs(integers).sum(axis=1) * float(largest) + np.abs(bias)
        factor = scale / grid.scale
        kind = self._bias_type(matmul, name, sums.max(), factor)
        bias = self._numbers(name, bias.astype(np.int64), kind, scale)
        shape = self.graph.shape(matmul.outputs[0])
        made = self._tensor(op.name, shape, grid)
        largest = np.ceil(sums.max() * factor) + 1
        made.reach = _reach(made, largest, fused, self._limits)
        made = self._emit(
            "FULLY_CONNECTED", [x, weights, bias], made, fused=fused
        )
        return self._limited(made)

    def _bias_type(self, matmul, bias, largest, factor):
        """int32, if all sums can be rescaled in 32 bits."""
        _check_factor(matmul.name, factor)
        _, exponent = np.frexp(factor)
        if largest * 2.0 ** max(exponent, 0) <= _INT32:
            return "int32"
        return self._wide_bias(matmul, bias)

    def _check_weights(self, weights):
        rounding = self.graph.rounding_of(weights)
        if rounding is None:
            raise ValueError(
                f"The weights '{weights.op.name}' have no range: {_REWRITE}."
            )
        if not rounding.get_attr("narrow_range"):
            raise ValueError(
                f"The fake quant '{rounding.name}' of weights must have "
                "narrow_range=True, got False."
            )
        bits = rounding.get_attr("num_bits")
        if bits != 8:
            raise ValueError(
                f"The fake quant '{rounding.name}' of weights must have 8 "
                f"bits, got {bits}."
            )

    def _weights(self, matmul, weights):
        """The integers of weights, `[units, inputs]`, and their tensor."""
        name = weights.op.name
        rounding = self.graph.rounding_of(weights)
        grid = self.graph.grid_of(rounding)
        values = self.graph.value(weights)
        if not values.any():
            raise ValueError(
                f"The weights '{name}' are all zero, and so would be what they "
                "are multiplied with: restore a trained checkpoint first."
            )
        transposed = matmul.get_attr("transpose_b")
        key = weights.name, "weights", transposed
        if key not in self._done:
            integers = grid.integers(values if transposed else values.T)
            self._done[key] = (
                integers,
                self._weight_tensor(name, integers, grid),
            )
            self.model.tensors.append(self._done[key][1])
        return self._done[key]

    def _operands(self, op, kind, grid):
        lowered = [
            None if self.graph.is_constant(operand) else self.lowered(operand)
            for operand in op.inputs
        ]
        (other,) = [each for each in lowered if each is not None][:1]
        for number, operand in enumerate(op.inputs):
            if lowered[number] is None:
                shape = self.graph.shape(op.outputs[0])
                values = np.broadcast_to(self.graph.value(operand), shape)
                constants = self.grid_of(operand)
                if constants is None or not self._fits(constants, other):
                    constants = self._constant_grid(
                        op, kind, np.float64(values), other, grid
                    )
                lowered[number] = self._constant_on(
                    operand.op.name, values, constants
                )
        return lowered

    def _fits(self, grid, other):
        return self._type(grid)[0] == other.kind


def _check_known(op):
    if op.type not in _KNOWN:
        raise ValueError(
            f"The op '{op.name}' of type {op.type} has no integer form: a "
            "model may hold cells with `is_quant=True` and `is_train=False` "
            "called once, embeddings by gather, dense layers and softmax."
        )


def _check_factor(name, factor):
    # What TFLite takes for 0.
    if factor < 2.0**-31:
        raise ValueError(
            f"The op '{name}' has operands whose ranges are too small for its "
            f"own, by a factor of {factor:.1e}: train them, or leave it out."
        )


def _refuse(op, rule):
    raise ValueError(
        f"The op '{op.name}' of type {op.type} {rule}: it has no other integer "
        "form."
    )


def _refuse_grids(sentence, grids):
    listed = ", ".join(f"'{name}' on {grid}" for name, grid in grids)
    raise ValueError(
        f"{sentence} more than one range ({listed}), of which there is no "
        "common integer form: apply one tf.fake_quant_with_min_max_vars to all "
        'of it, in training too, or convert with form="int16x8", which can '
        "join all but ranges that are far apart."
    )


def _operand(op):
    """What an op cuts, or passes on."""
    return op.inputs[1 if op.type == "Split" else 0]


def _parts(op):
    """What an op joins."""
    return list(op.inputs)[: None if op.type == "Pack" else -1]


def _shape(tensor):
    return np.array(tensor.shape, np.int32)


def _strided(op, begin, end, strides):
    """The index of numpy that is a StridedSlice."""
    masks = {
        name: op.get_attr(name + "_mask")
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    index = []
    for place, ends in enumerate(zip(begin, end, strides)):
        bit = 1 << place
        if masks["ellipsis"] & bit:
            index.append(Ellipsis)
        elif masks["new_axis"] & bit:
            continue  # the output's shape is not told from this
        elif masks["shrink_axis"] & bit:
            first = int(ends[0])
            index.append(slice(first, first + 1 or None))
        else:
            first = None if masks["begin"] & bit else int(ends[0])
            last = None if masks["end"] & bit else int(ends[1])
            index.append(slice(first, last, int(ends[2])))
    return tuple(index)


def _reach(made, largest, fused, limits):
    """Integers there can be of reals up to `largest` steps, and saturated."""
    low, high = limits(made)
    largest = min(largest, 2.0**31)
    low, high = max(low, -largest), min(high, largest)
    return (0 if fused else int(low)), int(high)


# ---------------------------------------------------------------------------
# uint8


class Uint8(_Lowering):
    """Of 8-bit unsigned integers with zero points, and 16-bit for gates."""

    form = "uint8"
    softmax_grid = BUILT_IN["Softmax"]

    def _type(self, grid):
        if grid.bits == 8:
            return "uint8", 255 - grid.highest
        if (grid.lowest, grid.highest) != UNIT16[1:]:
            raise ValueError(
                f"The range {grid} must be [-a, a * 32767 / 32768]: TFLite's "
                "16-bit integers have no zero point."
            )
        return "int16", 0

    def _common_grid(self, grids):
        return None  # none that holds the values of all

    def _limited(self, made):
        return made  # a grid of 8 bits ends where its integers end

    def _on_grid(self, tensor, grid, name):
        if tensor.grid.same_as(grid):
            return tensor
        if tensor.grid.bits != 8 or grid.bits != 8:
            raise ValueError(
                f"The op '{name}' takes {tensor.grid} to {grid}, and uint8 has "
                "no op between 8 and 16 bits: give both one range, or convert "
                'with form="int16x8".'
            )
        # A concatenation of one, since it rescales what it joins.
        made = self._tensor(name, tensor.shape, grid)
        axis = len(tensor.shape) - 1
        return self._emit("CONCATENATION", [tensor], made, axis=axis)

    def _part(self, op, part, grid):
        own = None if self.graph.is_constant(part) else self.grid_of(part)
        if own is not None and own.bits == grid.bits == 8:
            return self.lowered(part)  # rescaled as it is joined
        return super(Uint8, self)._part(op, part, grid)

    def _gather(self, params, table, ids, name, tensor, grid):
        key = params.name, grid
        if key not in self._done:
            self._done[key] = self._constant_on(params.op.name, table, grid)
        made = self._tensor(name, self.graph.shape(tensor), grid)
        return self._emit("GATHER", [self._done[key], ids], made, axis=0)

    def _softmax(self, tensor, grid):
        x = self.lowered(tensor.op.inputs[0])
        self._need_8_bits(tensor.op, x)
        name = tensor.op.name
        made = self._tensor(name, x.shape, self.softmax_grid)
        made = self._emit("SOFTMAX", [x], made, beta=1.0)
        return self._on_grid(made, grid, name)

    def _need_8_bits(self, op, x):
        if x.grid.bits != 8:
            raise ValueError(
                f"The op '{op.name}' of type {op.type} must have operands of 8 "
                f"bits, got {x.grid} of '{x.name}': a dense layer takes `h`, "
                'not `c`; or convert with form="int16x8".'
            )

    _check_dense = _need_8_bits

    def _wide_bias(self, matmul, bias):
        raise ValueError(
            f"The op '{matmul.name}' overflows 32 bits, with its bias '{bias}' "
            "or without: its weights' range is too small for its values; train "
            'it, or convert with form="int16x8".'
        )

    def _weight_tensor(self, name, integers, grid):
        made = self._tensor(name, integers.shape, grid)
        made.data = integers + made.zero_point
        return made

    def _relu(self, op, fused, x, grid):
        if grid.bits == 8 and x.grid.bits == 8:
            if grid.lowest == 0 and (fused == 1 or grid.ends[1] <= 6.0):
                return self._on_grid(x, grid, op.name)
        zeros = self._constant_on(op.name + "/zero", np.zeros(x.shape), x.grid)
        return self._elementwise(
            "ADD", op.name, [x, zeros], x.shape, grid, fused
        )

    def _unary(self, op, x, grid):
        own = BUILT_IN[op.type] if x.grid.bits == 8 else UNIT16
        if x.grid.bits == 16:
            scales = [2.0**-12] + [2.0**-11] * (op.type == "Tanh")
            if not np.isclose(x.scale, scales, rtol=1e-6, atol=0).any():
                raise ValueError(
                    f"The op '{op.name}' of type {op.type} must have operands "
                    f"on [-8, 8) of 16 bits, got {x.grid}: that range is built "
                    "into TFLite."
                )
        made = self._tensor(op.name, x.shape, own)
        made = self._emit(_UNARY[op.type], [x], made)
        return self._on_grid(made, grid, op.name)

    def _constant_grid(self, op, kind, values, other, grid):
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

    def _elementwise(self, kind, name, operands, shape, grid, fused):
        a, b = operands
        sixteen = {a.grid.bits, b.grid.bits, grid.bits} != {8}
        made = self._tensor(name, shape, grid)
        if sixteen:
            _check_16_bits(kind, name, a, b, made)
        elif kind == "MUL" and not a.scale * b.scale < made.scale:
            raise ValueError(
                f"The op '{name}' has a range that is too small for its "
                f"operands', {grid} for {a.grid} and {b.grid}: widen it."
            )
        return self._emit(kind, operands, made, fused=fused)


def _check_16_bits(kind, name, a, b, made):
    """What TFLite's 16-bit kernels of TensorFlow 1.x take for granted."""
    fix = 'see the ranges of `awd_lstm_tf.quantization`, or form="int16x8".'
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


class Int16x8(_Lowering):
    """Of 16-bit integers without zero points, and weights of 8 bits.

    A grid of 8 bits keeps its scale: its `k` are the integers, of which 16 bits
    could hold more. Where an op can put out more, it is clipped.
    """

    form = "int16x8"
    softmax_grid = UNIT16

    def _type(self, grid):
        if grid.lowest < -(2**15) or grid.highest >= 2**15:
            raise ValueError(
                f"The range {grid} must be [-a, a * 32767 / 32768]: TFLite's "
                "16-bit integers have no zero point."
            )
        return "int16", 0

    def _common_grid(self, grids):
        # Fine enough that rounding to it is not seen.
        largest = max(max(-grid.ends[0], grid.ends[1]) for grid in grids)
        scale = largest / 32767
        if any(grid.bits == 8 and grid.scale < 8 * scale for grid in grids):
            return None
        return Grid(scale, *UNIT16[1:])

    def _limited(self, tensor, grid=None):
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
        limit = self._numbers(f"{name}/end", [end], "int16", tensor.scale)
        made = self._tensor(name, tensor.shape, grid)
        made.reach = reach
        return self._emit(kind, [tensor, limit], made)

    def _on_grid(self, tensor, grid, name):
        if np.isclose(tensor.scale, grid.scale, rtol=1e-6, atol=0):
            return self._limited(tensor, grid)
        made = self._tensor(name, tensor.shape, grid)
        factor = tensor.scale / grid.scale
        made.reach = tuple(
            int(np.clip(np.round(end * factor), *UNIT16[1:]))
            for end in tensor.reach
        )
        # By a product with 1.0, since QUANTIZE rounds a small integer twice.
        ones = self._constant_on(name + "/one", np.ones(tensor.shape), _ONE)
        self._emit("MUL", [tensor, ones], made, fused=0)
        return self._limited(made)

    def _gather(self, params, table, ids, name, tensor, grid):
        # TFLite Micro gathers 8 bits, not 16.
        integers = grid.integers(table)
        shape = self.graph.shape(tensor)
        low, high = int(integers.min()), int(integers.max())
        if high - low > 255:
            _refuse(tensor.op, "must gather from a table of 8 bits")
        offset = 0 if low >= -128 and high <= 127 else low + 128
        key = params.name, grid, "int8"
        if key not in self._done:
            self._done[key] = self._numbers(
                params.op.name, integers - offset, "int8", grid.scale
            )
        narrow = _tflite_file.Tensor(name, shape, "int8", grid.scale)
        self._emit("GATHER", [self._done[key], ids], narrow, axis=0)
        made = self._tensor(name, shape, grid)
        made.reach = low - offset, high - offset
        self._emit("CAST", [narrow], made)
        if not offset:
            return made
        shift = self._numbers(name + "/offset", [offset], "int16", grid.scale)
        shifted = self._tensor(name, shape, grid)
        shifted.reach = low, high
        return self._emit(
            "ADD", [made, shift], shifted, fused=0, pot_scale_int16=False
        )

    def _softmax(self, tensor, grid):
        x, name = self.lowered(tensor.op.inputs[0]), tensor.op.name
        made = self._tensor(name, x.shape, UNIT16)
        made = self._emit("SOFTMAX", [x], made, beta=1.0)
        made.reach = 0, 2**15 - 1
        return self._on_grid(made, grid, name)

    def _check_dense(self, matmul, x):
        pass

    def _wide_bias(self, matmul, bias):
        return "int64"  # five times as slow, and right

    def _weight_tensor(self, name, integers, grid):
        made = _tflite_file.Tensor(
            name, integers.shape, "int8", grid.scale, 0, integers
        )
        made.grid = made.reach = None
        return made

    def _relu(self, op, fused, x, grid):
        zeros = self._constant_on(op.name + "/zero", np.zeros(x.shape), x.grid)
        return self._elementwise(
            "ADD", op.name, [x, zeros], x.shape, grid, fused
        )

    def _unary(self, op, x, grid):
        made = self._tensor(op.name, x.shape, UNIT16)
        made = self._emit(_UNARY[op.type], [x], made)
        return self._on_grid(made, grid, op.name)

    def _constant_grid(self, op, kind, values, other, grid):
        return Grid(float(np.abs(values).max()) / 32767 or 1.0, *UNIT16[1:])

    def _elementwise(self, kind, name, operands, shape, grid, fused):
        if kind == "MUL":
            scales = [tensor.scale for tensor in operands]
            _check_factor(name, scales[0] * scales[1] / grid.scale)
        made = self._tensor(name, shape, grid)
        a, b = (
            tensor.scale * max(-tensor.reach[0], tensor.reach[1])
            for tensor in operands
        )
        largest = np.floor(
            (a * b if kind == "MUL" else a + b) / grid.scale + 0.5
        )
        made.reach = _reach(made, largest, fused, self._limits)
        options = {} if kind == "MUL" else {"pot_scale_int16": False}
        self._emit(kind, operands, made, fused=fused, **options)
        return self._limited(made)
