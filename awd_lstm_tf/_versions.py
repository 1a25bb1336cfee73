"""What differs between TensorFlow versions: all that the package knows of it.

Imported before the rest of the package, which then may rely on TensorFlow, and
gets from here what it calls `tf`: the names of TensorFlow 1.x.
"""

import contextlib
import importlib
import operator
import sys
import warnings

TESTED = ("1.11.0", "1.12.3", "1.13.1", "1.13.2", "1.14.0", "1.15.2", "1.15.5")
TESTED += ("2.4.4", "2.8.4", "2.15.1", "2.21.0")
_OLDEST = (1, 11)

_INSTALL = (
    "pip install 'awd-lstm-tf[tf]' brings 1.13.1 (on Python 3.6 or 3.7) or a "
    "tested 2.x, and what it needs."
)

# Parts of TensorFlow that are not public, and that the package uses.
_PARTS = (
    "framework.ops Graph._control_dependencies_stack",
    "framework.ops Graph._get_control_flow_context",
    "framework.ops Graph._set_control_flow_context",
    "framework.ops Operation._get_control_flow_context",
    "framework.ops RegisterGradient",
    "framework.ops init_scope",
    "framework.tensor_util constant_value",
    "framework.tensor_util is_tensor",
    "layers.base InputSpec",
    "layers.base Layer",
    "ops.gen_logging_ops _assert",
    "ops.gen_math_ops sigmoid_grad",
    "ops.gen_math_ops tanh_grad",
    "ops.gen_nn_ops bias_add_grad",
    "ops.resource_variable_ops ResourceVariable",
    "ops.rnn_cell_impl LSTMCell",
    "ops.variable_scope _VariableStore.get_variable",
    "ops.variable_scope _get_default_variable_store",
    "ops.variables PartitionedVariable",
    "ops.variables Variable",
    "training.gradient_descent GradientDescentOptimizer",
    "training.saver BaseSaverBuilder.SaveableObject",
    "training.session_run_hook SessionRunHook",
)


def _import_tensorflow():
    try:
        import tensorflow
    except Exception as error:  # with protobuf 4 it is a TypeError
        reason = str(error).partition("\n")[0]
        raise ImportError(
            f"awd_lstm_tf needs TensorFlow, and importing it failed "
            f"({reason}): {_INSTALL}"
        ) from error
    version = getattr(tensorflow, "__version__", "unknown")
    if _numbers(version) < _OLDEST:
        raise ImportError(
            f"awd_lstm_tf needs TensorFlow 1.{_OLDEST[1]} or later, got "
            f"{version}: {_INSTALL}"
        )
    for part in _PARTS:
        _find(part, version)
    return tensorflow, version


def _numbers(version):
    """Major and minor version as ints; -1 for what is no number."""
    parts = (version.split(".") + [""])[:2]
    return tuple(int(part) if part.isdigit() else -1 for part in parts)


def _find(part, version):
    """Raises ImportError if TensorFlow has not got `part`."""
    module, name = ("tensorflow.python." + part).split()
    try:
        operator.attrgetter(name)(importlib.import_module(module))
    except (AttributeError, ImportError) as error:
        raise ImportError(
            f"awd_lstm_tf needs {module}.{name}, which TensorFlow {version} "
            f"has not got: {_INSTALL}"
        ) from error


_tensorflow, _version = _import_tensorflow()
VERSION = _numbers(_version)
tf = _tensorflow if VERSION < (2,) else _tensorflow.compat.v1


def warn_if_untested():
    """Warns, in one line, of a TensorFlow that the tests do not know."""
    # What follows "+" is a builder's: NVIDIA's 1.15.5 is 1.15.5+nv23.3.
    if _version.partition("+")[0] not in TESTED:
        warnings.warn(
            f"awd_lstm_tf is tested on TensorFlow {', '.join(TESTED)}, got "
            f"{_version}: {_INSTALL}",
            stacklevel=3,
        )


def _stock_classes():
    if VERSION >= (2,):
        try:  # those of Keras 2
            classes = tf.nn.rnn_cell, tf.layers.Layer, tf.layers.InputSpec
            return classes if classes[0].LSTMCell else None
        except (AttributeError, ImportError):
            pass  # Keras 3, or none: TensorFlow has copies of its own
    # Not `tf.layers.Layer`: 1.14 and later note its use, at import.
    base = importlib.import_module("tensorflow.python.layers.base")
    cells = importlib.import_module("tensorflow.python.ops.rnn_cell_impl")
    return cells, base.Layer, base.InputSpec


rnn_cell, Layer, InputSpec = _stock_classes()


@contextlib.contextmanager
def quiet():
    """Keeps what stock layers of 2.x say of their own age to themselves."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is deprecated and will be")
        yield


def is_tensor(value):
    """Whether `value` is a graph-time unknown: a tensor or a variable."""
    from tensorflow.python.framework import tensor_util

    return tensor_util.is_tensor(value)


@contextlib.contextmanager
def branches_of_ops():
    """Keeps `tf.cond` from making functions: these read all that they capture.

    That fails for a variable that is no resource and not initialized yet.
    """
    functions = VERSION >= (1, 15) and tf.control_flow_v2_enabled()
    if functions:
        tf.disable_control_flow_v2()
    try:
        yield
    finally:
        if functions:
            tf.enable_control_flow_v2()


def initialized_value(variable):
    """The value of `variable`, or what it will be initialized with."""
    if VERSION < (2,):
        return variable.initialized_value()
    # The resource variables of 2.x have no such method.
    return tf.cond(
        tf.is_variable_initialized(variable),
        variable.read_value,
        lambda: variable.initial_value,
    )


def reference(value):
    """A key for `value` in a dict: the tensors of a `tf.function` are none."""
    return value.ref() if hasattr(value, "ref") else value


# Control flow v2 (1.15 and later) builds loop bodies and branches as graphs of
# their own. They are told by name: 1.13 does not have these classes.
_LOOP_GRAPHS = ("WhileBodyFuncGraph", "WhileCondFuncGraph")
_BRANCH_GRAPHS = ("CondBranchFuncGraph",)


def is_loop_graph(graph):
    return type(graph).__name__ in _LOOP_GRAPHS


def is_branch_graph(graph):
    return type(graph).__name__ in _BRANCH_GRAPHS


def outer_graph(graph):
    """The graph that the function graph `graph` is built in; else None."""
    return getattr(graph, "outer_graph", None)


def waited_for(graph):
    """The ops outside that all of the function graph `graph` waits for."""
    captures = getattr(graph, "function_captures", None)
    found = getattr(graph, "control_captures", ())
    return list(getattr(captures, "control", found))


def captured_by(op):
    """The tensor outside that `op` of a function's graph is; in a list."""
    if op.type != "Placeholder" or outer_graph(op.graph) is None:
        return []
    captures = op.graph.captures
    if hasattr(captures, "items"):  # before 1.15
        captures = captures.items()
    return [outer for outer, inner in captures if inner.op is op]


def keras_backend():
    """The module that has Keras's learning phase; None for Keras 3."""
    try:
        phase = tf.keras.backend.learning_phase
    except (AttributeError, ImportError):
        return None
    return sys.modules[phase.__module__]


def keras_layers():
    """Keras 2's module of layers; None where there is none."""
    try:
        return tf.keras.layers if keras_backend() else None
    except (AttributeError, ImportError):
        return None


def is_layer(value):
    """Whether `value` is a layer or cell, of Keras or not."""
    kinds = [Layer]
    if keras_layers() is not None:
        kinds.append(tf.keras.layers.Layer)
    return isinstance(value, tuple(kinds))


def track(owner, part, name):
    """Has object-based checkpoints of `owner` hold those of `part`."""
    for method in ("_track_trackable", "_track_checkpointable"):
        if hasattr(owner, method):
            return getattr(owner, method)(part, name=name)


def stateless_random_uniform(shape, key, dtype):
    """Numbers in [0, 1) that depend on the two ints of `key` alone."""
    place = "python.ops" if VERSION >= (1, 13) else "contrib.stateless"
    module = f"tensorflow.{place}.gen_stateless_random_ops"
    ops = importlib.import_module(module)
    return ops.stateless_random_uniform(shape, key, dtype)


def has_mkl():
    """Whether matrix products are oneDNN's, once called MKL.

    On 2.x that can be chosen by the environment: TF_ENABLE_ONEDNN_OPTS.
    """
    places = ["python.util._pywrap_util_port", "python._pywrap_util_port"]
    for place in places if VERSION >= (2,) else ["python.pywrap_tensorflow"]:
        try:
            module = importlib.import_module("tensorflow." + place)
        except ImportError:  # the first, until 2.4
            continue
        return module.IsMklEnabled()


def transposed_products_pay():
    """Whether products of large matrices are faster with all transposed.

    They are not on 1.13, nor with MKL (docs/speed.md).
    """
    return VERSION >= (1, 14) and not has_mkl()


def default_form():
    """The form of integer models that this TensorFlow's interpreter runs."""
    return "int16x8" if tflite_module("int16x8") else "uint8"


def tflite_module(form):
    """The module with TFLite's interpreter; None if it cannot run the form."""
    # Before, it takes a bias of 32 bits for one of 64.
    if form == "int16x8" and VERSION < (2, 14):
        return None
    if hasattr(tf, "lite"):
        return tf.lite
    return tf.contrib.lite  # 1.11 and 1.12


def print_to_stderr(message):
    """An op that prints the string `message`."""
    if hasattr(tf, "print"):
        return tf.print(message, output_stream=sys.stderr)
    return tf.Print(0, [], message).op  # 1.11


def as_written(call):
    """Marks a layer's `call` as none for AutoGraph to rewrite.

    The layers of 1.14 and later rewrite `call` and all that it calls, for tests
    of tensors by `if`, which this package has none of; and they wrap the errors
    raised in it, whose sentences are then hard to find.
    """
    call.__ag_compiled = True
    call.autograph_info__ = None  # 2.x
    return call


def _leave_as_written():
    # Functions that it then gets wrong (1.15), and 1.14 `call` all the same.
    config = importlib.import_module("tensorflow.python.autograph.core.config")
    if not hasattr(config, "CONVERSION_RULES"):
        config.DEFAULT_UNCOMPILED_MODULES.add(("awd_lstm_tf",))
        return
    # Through the wrapper it gets to the functions of users that are wrapped.
    wrapper = config.Convert("awd_lstm_tf.weight_drop_wrapper")
    others = config.DoNotConvert("awd_lstm_tf")
    config.CONVERSION_RULES = (wrapper, others, *config.CONVERSION_RULES)


if VERSION >= (1, 14):
    _leave_as_written()
