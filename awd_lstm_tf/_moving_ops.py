"""Ops that compute nothing: they pass on, cut, join or look up integers.

Each is lowered by a function of the `Lowering`, the op's output, and the grid
that this is wanted on.
"""

import numpy as np

from awd_lstm_tf import _integer_graph, _op_kinds, _tflite_file


def _rounded(lowering, tensor, grid):
    return lowering.lowered(tensor.op.inputs[0], grid)


def _passed(lowering, tensor, grid):
    inner = tensor.op.inputs[0]
    found = lowering.lowered(inner, grid)
    shape = lowering.graph.shape(tensor)
    if shape == found.shape:
        return found
    name = tensor.op.name
    if grid is None:
        made = _tflite_file.Tensor(name, shape, found.kind)
    else:
        made = lowering.tensor_on(name, shape, grid)
    return lowering.reshape(found, made)


def _cut(lowering, tensor, grid):
    op = tensor.op
    whole = lowering.lowered(_op_kinds.operand(op), grid)
    if op.type == "Split":
        axis = int(lowering.graph.value(op.inputs[0])) % len(whole.shape)
        made = [_like(lowering, whole, output) for output in op.outputs]
        number = lowering.numbers(op.name + "/axis", np.int32(axis), "int32")
        lowering.model.tensors += made
        lowering.model.operators.append(
            _tflite_file.Operator(
                "SPLIT", [number, whole], made, num_splits=len(made)
            )
        )
    else:
        made = [
            _sliced(lowering, whole, output, begin, size)
            for output, begin, size in _pieces(lowering, op, whole.shape)
        ]
    for output, each in zip(op.outputs, made):
        lowering.done[output.name, grid] = each
    return lowering.done[tensor.name, grid]


def _like(lowering, tensor, output):
    shape = lowering.graph.shape(output)
    made = _tflite_file.Tensor(
        output.op.name, shape, tensor.kind, tensor.scale, tensor.zero_point
    )
    made.grid, made.reach = tensor.grid, tensor.reach
    return made


def _sliced(lowering, whole, output, begin, size):
    made = _like(lowering, whole, output)
    shape, made.shape = made.shape, list(size)
    if list(size) != whole.shape:
        numbers = [
            lowering.numbers(made.name + end, np.int32(values), "int32")
            for end, values in (("/begin", begin), ("/size", size))
        ]
        lowering.emit("SLICE", [whole] + numbers, made)
    else:
        made = whole
    if shape == made.shape:
        return made
    reshaped = _like(lowering, whole, output)
    return lowering.reshape(made, reshaped)


def _pieces(lowering, op, shape):
    """Begins and sizes of the outputs of an op that cuts."""
    places = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    constants = [
        lowering.graph.value(tensor)
        if lowering.graph.is_constant(tensor)
        else _op_kinds.refuse(op, "must cut at places that are constants")
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
            _op_kinds.refuse(op, "must leave something")
        corner = np.unravel_index(cut.flat[0], shape)
        last = np.unravel_index(cut.flat[-1], shape)
        size = [int(b - a) + 1 for a, b in zip(corner, last)]
        if np.prod(size) != cut.size:
            _op_kinds.refuse(op, "must have strides of 1")
        yield output, [int(place) for place in corner], size


def _joined(lowering, tensor, grid):
    op = tensor.op
    parts, axis = _op_kinds.parts(op), _axis(lowering, op)
    shape = lowering.graph.shape(tensor)
    if not tensor.dtype.is_floating:
        _op_kinds.refuse(op, "must join floats, not ids")
    lowered = [lowering.part(op, part, grid) for part in parts]
    if op.type == "Pack":
        wide = list(shape)
        wide[axis] = 1
        lowered = [
            lowering.reshape(each, _relabelled(lowering, each, wide))
            for each in lowered
        ]
    made = lowering.tensor_on(op.name, shape, grid)
    reaches = [each.reach for each in lowered]
    if all(each.grid.same_as(grid) for each in lowered):
        made.reach = min(r[0] for r in reaches), max(r[1] for r in reaches)
    return lowering.emit("CONCATENATION", lowered, made, axis=axis)


def _relabelled(lowering, tensor, shape):
    made = lowering.tensor_on(tensor.name, shape, tensor.grid)
    made.reach = tensor.reach
    return made


def _axis(lowering, op):
    if op.type == "Pack":
        axis = op.get_attr("axis")
    else:
        axis = int(lowering.graph.value(op.inputs[-1]))
    return axis % len(lowering.graph.shape(op.outputs[0]))


def _gathered(lowering, tensor, grid):
    op = tensor.op
    params, ids = op.inputs[:2]
    if not lowering.graph.is_constant(params):
        _op_kinds.refuse(op, "must gather from a table of weights")
    axis = 0
    if op.type == "GatherV2":
        axis = int(lowering.graph.value(op.inputs[2]))
    batched = "batch_dims" in op.node_def.attr
    if axis != 0 or (batched and op.get_attr("batch_dims")):
        _op_kinds.refuse(op, "must gather rows (`axis` of 0, no `batch_dims`)")
    own = lowering.grids.own(tensor)
    if own is not None and own != grid:
        return lowering.on_grid(lowering.lowered(tensor, own), grid, op.name)
    table = lowering.graph.value(params)
    _count_rows(lowering, ids, len(table))
    return lowering.gather(
        params, table, lowering.lowered(ids), op.name, tensor, grid
    )


def _count_rows(lowering, ids, rows):
    todo = [ids]
    while todo:
        tensor = todo.pop()
        if tensor.name in lowering.graph.ends:
            known = lowering.rows.get(tensor.name, rows)
            lowering.rows[tensor.name] = min(known, rows)
        elif not lowering.graph.is_constant(tensor):
            todo += list(tensor.op.inputs)


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


# The functions, by the types of ops that they lower.
MAKERS = {
    frozenset(_integer_graph.FAKE_QUANT): _rounded,
    frozenset(_op_kinds.PASSING | {"Cast"}): _passed,
    frozenset(_op_kinds.CUTS): _cut,
    frozenset(_op_kinds.JOINS): _joined,
    frozenset(_op_kinds.GATHERS): _gathered,
}
