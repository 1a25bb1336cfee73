"""Ops that compute: dense layers, sums and products, sigmoid, tanh, relu."""

import numpy as np

from awd_lstm_tf import _op_kinds

_INT32 = 2**31 - 1


def computed(lowering, tensor, grid):
    """Lowers the op of `tensor`, with an activation and biases if it has."""
    op, fused = tensor.op, 0
    if op.type in _op_kinds.RELUS:
        fused, inner = _op_kinds.RELUS[op.type], op.inputs[0]
        if inner.op.type not in _op_kinds.FUSING or lowering.graph.is_constant(
            inner
        ):
            return lowering.relu(op, fused, lowering.lowered(inner), grid)
        op = inner.op
    matmul, biases = _layer(lowering, op)
    if matmul is not None:
        return _dense(lowering, op, matmul, biases, grid, fused)
    if op.type in _op_kinds.UNARY:
        return lowering.unary(op, lowering.lowered(op.inputs[0]), grid)
    kind = {"Sub": "SUB", "Mul": "MUL"}.get(op.type, "ADD")
    operands = _operands(lowering, op, kind, grid)
    shape = lowering.graph.shape(op.outputs[0])
    return lowering.elementwise(kind, op.name, operands, shape, grid, fused)


def _layer(lowering, op):
    """The product behind an op that adds a bias, and the biases."""
    biases = []
    while op.type in _op_kinds.SUMS:
        constants = [
            tensor for tensor in op.inputs if lowering.graph.is_constant(tensor)
        ]
        if len(constants) != 1:
            return None, []
        (inner,) = (
            tensor for tensor in op.inputs if tensor is not constants[0]
        )
        units = lowering.graph.shape(op.outputs[0])[-1]
        value = lowering.graph.value(constants[0])
        if inner.op.type not in _op_kinds.FUSING or value.size not in (
            1,
            units,
        ):
            return None, []
        biases.append((constants[0].op.name, value))
        op = inner.op
    return (op, biases) if op.type == "MatMul" else (None, [])


def _dense(lowering, op, matmul, biases, grid, fused):
    _check_product(lowering, matmul)
    integers, weights = _weights(lowering, matmul)
    x = lowering.lowered(matmul.inputs[0])
    lowering.check_dense(matmul, x)
    scale = x.scale * weights.scale
    bias = np.zeros(len(integers))
    for _, value in biases:
        value = np.float64(value).reshape([-1])
        bias = bias + np.floor(value / scale + 0.5)
    largest = max(-x.reach[0], x.reach[1])
    sums = np.abs(integers).sum(axis=1) * float(largest) + np.abs(bias)
    factor = scale / grid.scale
    name = biases[0][0] if biases else matmul.name + "/no_bias"
    kind = _bias_type(lowering, matmul, name, sums.max(), factor)
    bias = lowering.numbers(name, bias.astype(np.int64), kind, scale)
    made = lowering.tensor_on(
        op.name, lowering.graph.shape(matmul.outputs[0]), grid
    )
    largest = np.ceil(sums.max() * factor) + 1
    made.reach = lowering.reach_of(made, largest, fused)
    made = lowering.emit(
        "FULLY_CONNECTED", [x, weights, bias], made, fused=fused
    )
    return lowering.limited(made)


def _check_product(lowering, matmul):
    x, weights = matmul.inputs
    if lowering.graph.is_constant(x):
        _op_kinds.refuse(matmul, "must have its weights on the right")
    if matmul.get_attr("transpose_a"):
        _op_kinds.refuse(matmul, "must have `transpose_a=False`")
    if not lowering.graph.is_constant(weights):
        raise ValueError(
            f"The op '{matmul.name}' of type MatMul must multiply by "
            f"weights, got '{weights.op.name}', which depends on the "
            "inputs: products of two activations have no integer form."
        )


def _bias_type(lowering, matmul, bias, largest, factor):
    """int32, if all sums can be rescaled in 32 bits."""
    check_factor(matmul.name, factor)
    _, exponent = np.frexp(factor)
    if largest * 2.0 ** max(exponent, 0) <= _INT32:
        return "int32"
    return lowering.wide_bias(matmul, bias)


def check_weights(graph, weights):
    rounding = graph.rounding_of(weights)
    if rounding is None:
        read = weights.op.type in ("Identity", "ReadVariableOp")
        name = (weights.op.inputs[0] if read else weights).op.name
        raise ValueError(
            f"The weights '{name}' have no range: {_op_kinds.REWRITE}."
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


def _weights(lowering, matmul):
    """The integers of weights, `[units, inputs]`, and their tensor."""
    weights = matmul.inputs[1]
    name = weights.op.name
    rounding = lowering.graph.rounding_of(weights)
    grid = lowering.graph.grid_of(rounding)
    values = lowering.graph.value(weights)
    if not values.any():
        raise ValueError(
            f"The weights '{name}' are all zero, and so would be what they "
            "are multiplied with: restore a trained checkpoint first."
        )
    transposed = matmul.get_attr("transpose_b")
    key = weights.name, "weights", transposed
    if key not in lowering.done:
        integers = grid.integers(values if transposed else values.T)
        lowering.done[key] = (
            integers,
            lowering.weight_tensor(name, integers, grid),
        )
        lowering.model.tensors.append(lowering.done[key][1])
    return lowering.done[key]


def _operands(lowering, op, kind, grid):
    lowered = [
        None
        if lowering.graph.is_constant(operand)
        else lowering.lowered(operand)
        for operand in op.inputs
    ]
    (other,) = [each for each in lowered if each is not None][:1]
    for number, operand in enumerate(op.inputs):
        if lowered[number] is None:
            shape = lowering.graph.shape(op.outputs[0])
            values = np.broadcast_to(lowering.graph.value(operand), shape)
            constants = lowering.grids.own(operand)
            if constants is None or not _fits(lowering, constants, other):
                constants = lowering.constant_grid(
                    op, kind, np.float64(values), other, grid
                )
            lowered[number] = lowering.constant_on(
                operand.op.name, values, constants
            )
    return lowered


def _fits(lowering, grid, other):
    return lowering.type_of(grid)[0] == other.kind


def check_factor(name, factor):
    # What TFLite takes for 0.
    if factor < 2.0**-31:
        raise ValueError(
            f"The op '{name}' has operands whose ranges are too small for its "
            f"own, by a factor of {factor:.1e}: train them, or leave it out."
        )
