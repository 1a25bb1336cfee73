"""TensorFlow's ops on fake-quantized floats, as TFLite's ops on integers.

A tensor is wanted on a grid, the one of the fake quant that it goes into; and
so, op by op, is what it is computed from. That makes each integer tensor the
fake-quant graph's own, whatever else its values are used for: where one tensor
goes into two fake quants, there are two integer tensors, and a table that is
both embedding and softmax weights becomes two constants.

What the two forms do otherwise is in _integer_forms.py.
"""

import numpy as np

from awd_lstm_tf import _integer_graph, _tflite_file

_ADD = {"Add", "AddV2"}
_SUMS = _ADD | {"BiasAdd"}
_RELUS = {"Relu": 1, "Relu6": 3}  # TFLite's numbers of fused activations
_FUSING = _SUMS | {"MatMul", "Sub", "Mul"}
_GATHERS = {"Gather", "GatherV2", "ResourceGather"}
_CUTS = {"Split", "SplitV", "Slice", "StridedSlice", "Unpack"}
_JOINS = {"ConcatV2", "Pack"}
UNARY = {"Sigmoid": "LOGISTIC", "Tanh": "TANH"}
_KNOWN = _FUSING | _GATHERS | _CUTS | _JOINS | set(UNARY) | set(_RELUS)
_KNOWN |= _integer_graph.PASSING | _integer_graph.FAKE_QUANT
_KNOWN |= {"Softmax", "StopGradient", "Cast"}

_REWRITE = (
    "call tf.contrib.quantize.create_eval_graph before converting (and "
    "create_training_graph before `minimize` in training), or apply "
    "tf.fake_quant_with_min_max_vars"
)
_INT32 = 2**31 - 1


class Lowering(object):
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
            self._done[key] = self._lower(tensor, grid)
        return self._done[key]

    def _lower(self, tensor, grid):
        op, is_end = tensor.op, tensor.name in self.graph.ends
        own = self.grid_of(tensor) if tensor.dtype.is_floating else None
        if own is not None and own != grid:
            if own.same_as(grid):
                return self.lowered(tensor, own)
            if is_end or op.type in _integer_graph.FAKE_QUANT:
                made = self.lowered(tensor, own)
                return self._on_grid(made, grid, op.name)
        if is_end:
            made = self._done[tensor.name, None]
            return made if grid is None else self._on_grid(made, grid, op.name)
        for kinds, make in _MAKERS.items():
            if op.type in kinds:
                return getattr(self, make)(tensor, grid)
        return self._computed(tensor, grid)

    def _rounded(self, tensor, grid):
        return self.lowered(tensor.op.inputs[0], grid)

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

    def _cut(self, tensor, grid):
        op = tensor.op
        whole = self.lowered(_operand(op), grid)
        if op.type == "Split":
            axis = int(self.graph.value(op.inputs[0])) % len(whole.shape)
            made = [self._like(whole, output) for output in op.outputs]
            number = self._numbers(op.name + "/axis", np.int32(axis), "int32")
            self.model.tensors += made
            self.model.operators.append(
                _tflite_file.Operator(
                    "SPLIT", [number, whole], made, num_splits=len(made)
                )
            )
        else:
            made = [
                self._sliced(whole, output, begin, size)
                for output, begin, size in self._pieces(op, whole.shape)
            ]
        for output, each in zip(op.outputs, made):
            self._done[output.name, grid] = each
        return self._done[tensor.name, grid]

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
            else refuse(op, "must cut at places that are constants")
            for tensor in op.inputs[1:]
        ]
        if op.type == "Slice":
            begin, size = constants
            ends = [b + s if s >= 0 else None for b, s in zip(begin, size)]
            cuts = [places[tuple(map(slice, begin, ends))]]
        elif op.type == "SplitV":
            axis, sizes = int(constants[1]), np.array(constants[0])
            rest = shape[axis] - sizes[sizes >= 0].sum()
            sizes = np.where(sizes < 0, rest, sizes)  # one may be -1
            cuts = np.split(places, np.cumsum(sizes)[:-1], axis)
        elif op.type == "Unpack":
            axis = op.get_attr("axis")
            cuts = np.split(places, shape[axis], axis)
        else:
            cuts = [places[_strided(op, *constants)]]
        for output, cut in zip(op.outputs, cuts):
            if not cut.size:
                refuse(op, "must leave something")
            corner = np.unravel_index(cut.flat[0], shape)
            last = np.unravel_index(cut.flat[-1], shape)
            size = [int(b - a) + 1 for a, b in zip(corner, last)]
            if np.prod(size) != cut.size:
                refuse(op, "must have strides of 1")
            yield output, [int(place) for place in corner], size

    def _joined(self, tensor, grid):
        op = tensor.op
        parts, axis = _parts(op), self._axis(op)
        shape = self.graph.shape(tensor)
        if not tensor.dtype.is_floating:
            refuse(op, "must join floats, not ids")
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
            refuse(op, "must gather from a table of weights")
        axis = 0
        if op.type == "GatherV2":
            axis = int(self.graph.value(op.inputs[2]))
        batched = "batch_dims" in op.node_def.attr
        if axis != 0 or (batched and op.get_attr("batch_dims")):
            refuse(op, "must gather rows (`axis` of 0, no `batch_dims`)")
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
        if op.type in UNARY:
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
        self._check_product(matmul)
        integers, weights = self._weights(matmul)
        x = self.lowered(matmul.inputs[0])
        self._check_dense(matmul, x)
        scale = x.scale * weights.scale
        bias = np.zeros(len(integers))
        for _, value in biases:
            value = np.float64(value).reshape([-1])
            bias = bias + np.floor(value / scale + 0.5)
        largest = max(-x.reach[0], x.reach[1])
        sums = np.abs(integers).sum(axis=1) * float(largest) + np.abs(bias)
        factor = scale / grid.scale
        name = biases[0][0] if biases else matmul.name + "/no_bias"
        kind = self._bias_type(matmul, name, sums.max(), factor)
        bias = self._numbers(name, bias.astype(np.int64), kind, scale)
        made = self._tensor(op.name, self.graph.shape(matmul.outputs[0]), grid)
        largest = np.ceil(sums.max() * factor) + 1
        made.reach = reach(made, largest, fused, self._limits)
        made = self._emit(
            "FULLY_CONNECTED", [x, weights, bias], made, fused=fused
        )
        return self._limited(made)

    def _check_product(self, matmul):
        x, weights = matmul.inputs
        if self.graph.is_constant(x):
            refuse(matmul, "must have its weights on the right")
        if matmul.get_attr("transpose_a"):
            refuse(matmul, "must have `transpose_a=False`")
        if not self.graph.is_constant(weights):
            raise ValueError(
                f"The op '{matmul.name}' of type MatMul must multiply by "
                f"weights, got '{weights.op.name}', which depends on the "
                "inputs: products of two activations have no integer form."
            )

    def _bias_type(self, matmul, bias, largest, factor):
        """int32, if all sums can be rescaled in 32 bits."""
        check_factor(matmul.name, factor)
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

    def _weights(self, matmul):
        """The integers of weights, `[units, inputs]`, and their tensor."""
        weights = matmul.inputs[1]
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


# The method that lowers an op that computes nothing, by its type.
_MAKERS = {
    frozenset(_integer_graph.FAKE_QUANT): "_rounded",
    frozenset(_integer_graph.PASSING | {"StopGradient", "Cast"}): "_passed",
    frozenset(_CUTS): "_cut",
    frozenset(_JOINS): "_joined",
    frozenset(_GATHERS): "_gathered",
    frozenset({"Softmax"}): "_softmax",
}


def _check_known(op):
    if op.type not in _KNOWN:
        raise ValueError(
            f"The op '{op.name}' of type {op.type} has no integer form: a "
            "model may hold cells with `is_quant=True` and `is_train=False` "
            "called once, embeddings by gather, dense layers and softmax."
        )


def check_factor(name, factor):
    # What TFLite takes for 0.
    if factor < 2.0**-31:
        raise ValueError(
            f"The op '{name}' has operands whose ranges are too small for its "
            f"own, by a factor of {factor:.1e}: train them, or leave it out."
        )


def refuse(op, rule):
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


def reach(made, largest, fused, limits):
    """Integers there can be of reals up to `largest` steps, and saturated."""
    low, high = limits(made)
    largest = min(largest, 2.0**31)
    low, high = max(low, -largest), min(high, largest)
    return (0 if fused else int(low)), int(high)
