"""What differs between TensorFlow versions: all that the package knows of it.

Imported before the rest of the package, which then may rely on TensorFlow.
"""

import importlib
import sys
import warnings

TESTED = ("1.11.0", "1.12.3", "1.13.1", "1.13.2", "1.14.0", "1.15.2", "1.15.5")
_OLDEST = 11

_INSTALL = (
    "pip install 'awd-lstm-tf[tf]' (on Python 3.6 or 3.7) brings 1.13.1 and "
    "what it needs."
)


def check():
    """Raises ImportError without a TensorFlow 1.x; warns of untested ones."""
    try:
        import tensorflow
    except Exception as error:  # with protobuf 4 it is a TypeError
        reason = str(error).partition("\n")[0]
        raise ImportError(
            f"awd_lstm_tf needs TensorFlow 1.x, and importing it failed "
            f"({reason}): {_INSTALL}"
        ) from error
    version = getattr(tensorflow, "__version__", "unknown")
    major, minor = _numbers(version)
    if major != 1 or minor < _OLDEST:
        raise ImportError(
            f"awd_lstm_tf needs TensorFlow 1.x, 1.{_OLDEST} or later, got "
            f"{version}: {_INSTALL}"
        )
    if version not in TESTED:
        warnings.warn(
            f"awd_lstm_tf is tested on TensorFlow {', '.join(TESTED)}, got "
            f"{version}: pip install 'tensorflow==1.13.1' for a tested one.",
            stacklevel=3,
        )


def _numbers(version):
    """Major and minor version as ints; -1 for what is no number."""
    parts = (version.split(".") + [""])[:2]
    return [int(part) if part.isdigit() else -1 for part in parts]


# Control flow v2 (1.15) builds loop bodies and branches as graphs of their own.
# They are told by name: 1.13 does not have these classes.
_LOOP_GRAPHS = ("WhileBodyFuncGraph", "WhileCondFuncGraph")
_BRANCH_GRAPHS = ("CondBranchFuncGraph",)


def is_loop_graph(graph):
    return type(graph).__name__ in _LOOP_GRAPHS


def is_branch_graph(graph):
    return type(graph).__name__ in _BRANCH_GRAPHS


def outer_graph(graph):
    """The graph that the function graph `graph` is built in; else None."""
    return getattr(graph, "outer_graph", None)


def has_mkl():
    """Whether TensorFlow was built with MKL."""
    from tensorflow.python import pywrap_tensorflow

    return pywrap_tensorflow.IsMklEnabled()


def transposed_products_pay():
    """Whether products of large matrices are faster with all transposed.

    They are not on 1.13, nor with MKL (docs/speed.md).
    """
    import tensorflow as tf

    return _numbers(tf.__version__)[1] >= 14 and not has_mkl()


def toco_protos(name):
    """The module `name` of the protocol buffers that toco reads."""
    try:
        return importlib.import_module("tensorflow.lite.toco." + name)
    except ImportError:  # 1.11 and 1.12
        return importlib.import_module("tensorflow.contrib.lite.toco." + name)


def print_to_stderr(message):
    """An op that prints the string `message`."""
    import tensorflow as tf

    if hasattr(tf, "print"):
        return tf.print(message, output_stream=sys.stderr)
    return tf.Print(0, [], message).op  # 1.11


def as_written(call):
    """Marks a layer's `call` as none for AutoGraph to rewrite.

    The layers of 1.14 and 1.15 rewrite `call` and all that it calls, for tests
    of tensors by `if`, which this package has none of; and they wrap the errors
    raised in it, whose sentences are then hard to find.
    """
    call.__ag_compiled = True
    return call
