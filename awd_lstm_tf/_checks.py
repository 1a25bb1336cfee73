"""Argument checks that several modules share.

House form: the argument in backticks, the rule, the value received, the fix.
Each check returns the value it was given, ready to use.
"""

import contextlib
import math
import numbers

import numpy as np
from tensorflow.python.ops import gen_logging_ops

from awd_lstm_tf import _versions
from awd_lstm_tf._versions import tf

_KEEP_RULE = "`{}` must be in (0, 1], got "
_KEEP_RULE_FLOAT16 = "`{}` must be in [1/65504, 1] with float16, got "


def is_tensor(value):
    """Whether `value` is a graph-time unknown: a tensor or a variable."""
    return _versions.is_tensor(value)


def is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def tensor(argument, value, dtype=None):
    """`value` as a tensor, of `dtype` if that is given."""
    try:
        return tf.convert_to_tensor(value, dtype, name=argument)
    except (TypeError, ValueError) as error:
        kind = "" if dtype is None else f" of dtype {dtype.name}"
        raise TypeError(
            f"`{argument}` must be a tensor{kind}, got {value!r}."
        ) from error


def asserted(value, valid, *said):
    """`value`, behind an op that fails the run that finds it not valid.

    Not behind `tf.Assert`, which puts a cond around the op.
    """
    said = [tf.convert_to_tensor(each) for each in said]
    with tf.control_dependencies([gen_logging_ops._assert(valid, said)]):
        return tf.identity(value)


def same_graph(argument, visible):
    """A tensor of the graph that it is used in."""
    if not visible:
        raise ValueError(
            f"`{argument}` must be of the graph that it is used in, got a "
            "tensor of another graph: make it in the same `tf.Graph`."
        )


def scalar_tensor(argument, value, kind):
    if value.shape.ndims not in (None, 0):
        raise ValueError(
            f"`{argument}` must be a scalar, got a tensor of shape "
            f"{value.shape}."
        )
    if not getattr(value.dtype.base_dtype, "is_" + kind):
        raise TypeError(
            f"`{argument}` must be a {kind} tensor, got dtype "
            f"{value.dtype.base_dtype.name}."
        )
    return value


def scalar_at_run_time(argument, value):
    """A tensor that `scalar_tensor` took, as one of known shape."""
    if value.shape.ndims == 0:
        return value
    message = f"`{argument}` must be a scalar, got a tensor of shape "
    shape = tf.shape(value)
    value = asserted(value, tf.equal(tf.size(shape), 0), message, shape)
    # Not `set_shape`: what needs a scalar would have TensorFlow conclude that
    # it got one, and take the check away.
    return tf.reshape(value, [])


def keep_prob(argument, value):
    """A float in (0, 1], or a scalar float tensor (checked when it is read)."""
    if is_tensor(value):
        return scalar_tensor(argument, value, "floating")
    if not is_number(value):
        raise TypeError(
            f"`{argument}` must be a float in (0, 1] or a scalar float "
            f"tensor, got {value!r}."
        )
    if not 0.0 < value <= 1.0:
        raise ValueError(_KEEP_RULE.format(argument) + f"{value}.")
    return float(value)


def _keep_rule(argument, *dtypes):
    """The lowest rate whose inverse the dtypes can hold, and the sentence."""
    if tf.float16 not in dtypes:  # others hold that of the lowest drawn, 2**-16
        return 0.0, _KEEP_RULE.format(argument)
    return 1 / float(tf.float16.max), _KEEP_RULE_FLOAT16.format(argument)


def keep_prob_of_dtype(argument, value, dtype):
    """A keep rate whose inverse, an entry of the mask, is finite."""
    lowest, message = _keep_rule(argument, dtype)
    if not is_tensor(value) and value < lowest:
        raise ValueError(f"{message}{value}: raise it, or use float32.")
    return value


def checked_keep_prob(argument, value, dtype):
    """`value` behind an op that fails the step when it leaves its range."""
    value = scalar_at_run_time(argument, tf.convert_to_tensor(value))
    lowest, message = _keep_rule(argument, value.dtype, dtype)
    valid = tf.logical_and(value > 0, value <= 1)  # False for NaN, too
    if lowest:
        high_enough = tf.cast(value, tf.float64) >= lowest
        valid = tf.logical_and(valid, high_enough)
    return asserted(value, valid, message, value)


def boolean(argument, value):
    """A Python (or numpy) bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{argument}` must be True or False, got {value!r}.")
    return bool(value)


def is_train(value):
    """A Python bool or a scalar bool tensor."""
    if is_tensor(value):
        return scalar_tensor("is_train", value, "bool")
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(
            "`is_train` must be True, False or a scalar bool tensor, got "
            f"{value!r}."
        )
    return bool(value)


def integer(argument, value, least=None):
    """An int, or None where `least` does not forbid it."""
    if isinstance(value, bool) or not isinstance(
        value, (numbers.Integral, np.integer, tf.Dimension)
    ):
        raise TypeError(f"`{argument}` must be an integer, got {value!r}.")
    value = int(value)
    if least is not None and value < least:
        raise ValueError(f"`{argument}` must be at least {least}, got {value}.")
    return value


def num_units(value):
    """A positive integer, which may be a float, as in LSTMCell: 4.0."""
    if is_number(value) and value % 1 == 0:
        value = int(value)
    return integer("num_units", value, 1)


def optional_integer(argument, value, least=None):
    """`integer`, or None."""
    return None if value is None else integer(argument, value, least)


def finite(argument, value):
    """A finite Python number."""
    if not is_number(value):
        raise TypeError(f"`{argument}` must be a number, got {value!r}.")
    if not math.isfinite(value):
        raise ValueError(f"`{argument}` must be finite, got {value}.")
    return float(value)


def floating(argument, value):
    """A floating dtype."""
    try:
        dtype = tf.as_dtype(value).base_dtype
    except TypeError:  # no dtype at all
        dtype = None
    if dtype is None or not dtype.is_floating:
        given = repr(value) if dtype is None else dtype.name
        raise TypeError(f"`{argument}` must be a floating dtype, got {given}.")
    return dtype


def optional_floating(argument, value):
    """`floating`, or None."""
    return None if value is None else floating(argument, value)


def collection_names(argument, value):
    """Names of graph collections, as a list."""
    names = [value] if isinstance(value, str) else value or []
    if not isinstance(names, (list, tuple)) or not all(
        isinstance(name, str) for name in names
    ):
        raise TypeError(
            f"`{argument}` must be a name or a list of names, got {value!r}."
        )
    return list(names)


def same_dtype(owner, dtype, inputs):
    """`inputs`, if of the mask's dtype."""
    if inputs.dtype.base_dtype != dtype:
        raise TypeError(
            f"`dtype` of {owner} is {dtype.name}, got inputs of "
            f"{inputs.dtype.base_dtype.name}: pass "
            f"`dtype=tf.{inputs.dtype.base_dtype.name}`."
        )
    return inputs


def mask_dtype(have, need):
    """A mask made from `input_size` has the dtype of the kernel."""
    if have != need:
        raise ValueError(
            f"`dtype` must be given with `input_size` when the weights are not "
            f"{have.name}, got weights of {need.name}: pass "
            f"`dtype=tf.{need.name}`."
        )


def graph_mode(argument):
    """Masks live in graphs."""
    if tf.executing_eagerly():
        raise ValueError(
            f"`{argument}` below 1.0 needs a graph, got eager execution: call "
            "`tf.disable_eager_execution()` (of `tf.compat.v1`) first, build "
            "the model in a `tf.Graph`, or keep the rate at 1.0."
        )


def mask_exists(method, built):
    """The update and reset ops need a mask variable of known shape."""
    if not built:
        raise ValueError(
            f"`{method}` needs the mask, whose shape is not known yet: pass "
            "`input_size`, or call the cell first."
        )


def mask_owner(value, form):
    """Something with a mask to show."""
    if not hasattr(type(value), "mask_changed"):
        raise TypeError(
            "`owners` must be cells, layers, wrappers or dropouts of "
            f"awd_lstm_tf, {form}, got {value!r}: of what holds such ones, "
            "give those."
        )
    return value


@contextlib.contextmanager
def not_finalized(graph, name):
    """What is made here, when a user asks for it, a finalized graph lacks."""
    try:
        yield
    except RuntimeError as error:
        if not graph.finalized:
            raise
        raise RuntimeError(
            f"`{name}` must be asked for before the graph is finalized, as "
            "monitored sessions and Estimators do: do so where the graph is "
            "built, and fetch what you got."
        ) from error


def keep_prob_outside_loops(argument, visible):
    """The mask is drawn outside of loops, so its keep rate must be there."""
    if not visible:
        raise ValueError(
            f"`{argument}` must be made outside of the loop for a mask that "
            "is drawn outside of it, got a tensor made inside: move it out."
        )


def size(value, axis):
    """A size of a tensor: an int, or a tensor where only a run knows it."""
    known = value.shape.as_list()[axis]
    return tf.shape(value)[axis] if known is None else known


def of_shape(argument, value, **sizes):
    """A tensor of this shape; where a run says otherwise, it fails.

    Else one row would do for all: TensorFlow repeats it.

    Args:
      argument: the user's name for `value`.
      value: tensor.
      **sizes: ints, or scalar tensors, see `size`.
    """
    known = [None if is_tensor(each) else each for each in sizes.values()]
    if not value.shape.is_compatible_with(known):
        shape = ", ".join(f"{name}={each}" for name, each in zip(sizes, known))
        raise ValueError(
            f"`{argument}` must be of shape [{shape}], got a tensor of shape "
            f"{value.shape}."
        )
    if value.shape.is_fully_defined() and None not in known:
        return value
    shape, wanted = tf.shape(value), tf.stack(list(sizes.values()))
    # As long as each other, whatever the rank is.
    padded = [
        tf.concat([one, tf.fill(tf.shape(other), -1)], 0)
        for one, other in ((shape, wanted), (wanted, shape))
    ]
    value = asserted(
        value,
        tf.reduce_all(tf.equal(*padded)),
        f"`{argument}` must be of shape [{', '.join(sizes)}], got and wanted:",
        shape,
        wanted,
    )
    return tf.reshape(value, wanted)


def session(value):
    """Something that runs a graph."""
    if not hasattr(value, "graph") or not hasattr(value, "run"):
        raise TypeError(f"`session` must be a tf.Session, got {value!r}.")
    return value


def quantizable_dtype(dtype):
    """Fake quantization is float32 in TensorFlow 1.x."""
    if dtype != tf.float32:
        raise TypeError(
            f"`dtype` must be float32 with `is_quant`, got {dtype.name}."
        )


def assignable(name, variable):
    """A variable that a custom getter has left one."""
    if not hasattr(variable, "assign"):
        raise TypeError(
            f"`custom_getter` must leave '{name}' a variable, got {variable}: "
            "change only what it is meant for, by name or `trainable`."
        )
    return variable


def listed(argument, value):
    """A list."""
    try:
        return list(value)
    except TypeError as error:
        raise TypeError(
            f"`{argument}` must be a list, got {value!r}."
        ) from error


def non_negative(argument, value):
    """A number of at least 0, or a scalar float tensor checked when read."""
    if not is_tensor(value):
        value = finite(argument, value)
        if value < 0:
            raise ValueError(f"`{argument}` must be at least 0, got {value}.")
        return value
    value = tf.convert_to_tensor(scalar_tensor(argument, value, "floating"))
    value = scalar_at_run_time(argument, value)
    message = f"`{argument}` must be at least 0, got "
    return asserted(value, value >= 0, message, value)


def float_tensor(argument, value, rank=0):
    """A float tensor of known rank, at least `rank` where that is not 0."""
    if not value.dtype.is_floating:
        raise TypeError(
            f"`{argument}` must be of a floating dtype, got {value.dtype.name}."
        )
    if rank and (value.shape.ndims is None or value.shape.ndims < rank):
        raise ValueError(
            f"`{argument}` must have at least {rank} dimensions, got a tensor "
            f"of shape {value.shape}."
        )
    return value


def integer_tensor_argument(argument, value):
    """int32 or int64."""
    if value.dtype not in (tf.int32, tf.int64):
        raise TypeError(
            f"`{argument}` must be int32 or int64, got {value.dtype.name}."
        )
    return value


def one_of(argument, value, options):
    """One of a few names."""
    if value not in options:
        names = " or ".join(repr(option) for option in options)
        raise ValueError(f"`{argument}` must be {names}, got {value!r}.")
    return value


def function(argument, value):
    """Something to call."""
    if not callable(value):
        raise TypeError(f"`{argument}` must be a function, got {value!r}.")
    return value
