"""What TFLite's operators compute, in numpy: a model run without TFLite.

Each operator is its real function of its operands' reals, rounded to the
integers of its output, as TFLite's specification has it; kernels round inner
values, too, and come a step beside that now and then. Operators whose kernels
differ by more, such as the 16-bit softmax, are done as the kernels do.
"""

import numpy as np


def run(model, inputs):
    """The outputs of a `_tflite_file.Model`, for a list of integer inputs."""
    values = {id(t): t.data for t in model.tensors if t.data is not None}
    for tensor, value in zip(model.inputs, inputs):
        values[id(tensor)] = value
    for operator in model.operators:
        _run_one(operator, values)
    return [values[id(tensor)].astype(tensor.kind) for tensor in model.outputs]


def _run_one(operator, values):
    operands = [np.asarray(values[id(each)]) for each in operator.inputs]
    if operator.kind in _MOVING:
        results = _MOVING[operator.kind](operator, *operands)
        if not isinstance(results, list):
            results = [results]
    else:
        reals = [
            _reals(tensor, value)
            for tensor, value in zip(operator.inputs, operands)
        ]
        result = _COMPUTING[operator.kind](operator, *reals)
        result = _FUSED[operator.options.get("fused", 0)](result)
        results = [_integers(operator.outputs[0], result)]
    for tensor, value in zip(operator.outputs, results):
        values[id(tensor)] = np.reshape(value, tensor.shape)


def _reals(tensor, integers):
    return (integers.astype(np.float64) - tensor.zero_point) * tensor.scale


def _integers(tensor, reals):
    steps = np.float64(reals) / np.float64(np.float32(tensor.scale))
    limits = np.iinfo(tensor.kind)
    nearest = np.floor(steps + 0.5) + tensor.zero_point
    return np.clip(nearest, limits.min, limits.max).astype(np.int64)


_FUSED = {
    0: lambda value: value,
    1: lambda value: np.maximum(value, 0),
    3: lambda value: np.clip(value, 0, 6),
}


def _concatenated(operator, *operands):
    made = operator.outputs[0]
    parts = [
        value
        if tensor.scale == made.scale
        and tensor.zero_point == made.zero_point
        # 8 bits are rescaled, 16 bits are copied.
        or tensor.kind != "uint8"
        else _integers(made, _reals(tensor, value))
        for tensor, value in zip(operator.inputs, operands)
    ]
    return np.concatenate(parts, operator.options["axis"])


def _sliced(operator, whole, begin, size):
    places = [slice(b, b + s) for b, s in zip(begin, size)]
    return whole[tuple(places)]


# Operators that copy integers, whatever they stand for.
_MOVING = {
    "CAST": lambda operator, x: x,
    "CONCATENATION": _concatenated,
    "GATHER": lambda operator, table, ids: table[ids],
    "MAXIMUM": lambda operator, a, b: np.maximum(a, b),
    "MINIMUM": lambda operator, a, b: np.minimum(a, b),
    "RESHAPE": lambda operator, x, shape: x,
    "SLICE": _sliced,
    "SPLIT": lambda operator, axis, x: np.split(
        x, operator.options["num_splits"], int(axis)
    ),
}


def _softmax(operator, x):
    x = x - x.max(-1, keepdims=True)
    if operator.outputs[0].kind == "int16":
        x = np.maximum(x, -10.0)  # where the kernel's table of exp ends
    powers = np.exp(x)
    return powers / powers.sum(-1, keepdims=True)


_COMPUTING = {
    "ADD": lambda operator, a, b: a + b,
    "FULLY_CONNECTED": lambda operator, x, weights, bias: (
        np.matmul(x, weights.T) + bias
    ),
    "LOGISTIC": lambda operator, x: 1 / (1 + np.exp(-x)),
    "MUL": lambda operator, a, b: a * b,
    "SOFTMAX": _softmax,
    "SUB": lambda operator, a, b: a - b,
    "TANH": lambda operator, x: np.tanh(x),
}
