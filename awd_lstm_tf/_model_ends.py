"""The tensors that an integer model begins and ends with, checked."""

from awd_lstm_tf import _checks
from awd_lstm_tf._versions import tf

_TYPES = {
    "inputs": ("float32", "int32", "int64"),
    "outputs": ("float32",),
    "states": ("float32",),
}


def checked(session, inputs, outputs, states):
    """Returns the three as lists, of tensors and of pairs of tensors.

    Raises:
      ValueError: naming the tensor that a model cannot begin or end with.
      TypeError: for what is no tensor, or one of another dtype.
    """
    inputs = _checks.listed("inputs", inputs)
    outputs = _checks.listed("outputs", outputs)
    states = [_pair(pair) for pair in _checks.listed("states", states)]
    graph = _checks.session(session).graph
    for argument, tensors in (
        ("inputs", inputs),
        ("outputs", outputs),
        ("states", [end for pair in states for end in pair]),
    ):
        for tensor in tensors:
            _check(argument, tensor, graph)
    if not outputs + states:
        raise ValueError("`outputs` must not be empty, got [].")
    given = inputs + [old for old, _ in states]
    _check_once("`inputs` and `states`", given)
    _check_once("`outputs`", outputs)
    _check_apart(given, outputs + [new for _, new in states])
    for pair in states:
        _check_shapes(*pair)
    return inputs, outputs, states


def _pair(value):
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise TypeError(
            "`states` must hold pairs of an input and an output tensor, got "
            f"{value!r}."
        )
    return tuple(value)


def _check(argument, tensor, graph):
    if not isinstance(tensor, tf.Tensor):
        raise TypeError(f"`{argument}` must hold tensors, got {tensor!r}.")
    name = tensor.op.name
    if tensor.graph is not graph:
        raise ValueError(
            f"`{argument}` must be of the session's graph, got '{name}' of "
            "another."
        )
    if not tensor.shape.is_fully_defined():
        raise ValueError(
            f"`{argument}` must be of known shapes, got '{name}' of shape "
            f"{tensor.shape}: build the graph with the batch size given."
        )
    if tensor.value_index:
        raise ValueError(
            f"`{argument}` must bear op names, got '{tensor.name}', not the "
            "first output of its op: wrap it in tf.identity."
        )
    if tensor.dtype.name not in _TYPES[argument]:
        names = " or ".join(_TYPES[argument])
        raise TypeError(
            f"`{argument}` must be of dtype {names}, got '{name}' of "
            f"{tensor.dtype.name}."
        )


# By name: in TensorFlow 2, `==` of tensors is an op.


def _check_once(arguments, tensors):
    names = [tensor.name for tensor in tensors]
    for tensor in tensors:
        if names.count(tensor.name) > 1:
            raise ValueError(
                f"{arguments} must hold each tensor once, got "
                f"'{tensor.op.name}' twice."
            )


def _check_apart(given, put_out):
    names = {tensor.name for tensor in given}
    for tensor in put_out:
        if tensor.name in names:
            raise ValueError(
                "`outputs` and `states` must not put out what is put in, got "
                f"'{tensor.op.name}': wrap it in tf.identity."
            )


def _check_shapes(old, new):
    if old.shape.as_list() != new.shape.as_list():
        raise ValueError(
            f"`states` must be pairs of one shape, got '{old.op.name}' of "
            f"shape {old.shape} and '{new.op.name}' of shape {new.shape}."
        )
