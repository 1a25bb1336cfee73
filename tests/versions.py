"""What tests must know of the TensorFlow that they run on.

Among it `tf`, as a program with TF1 graphs has it, on each version.
"""

import importlib
import itertools
import os

import numpy as np
import pytest
import tensorflow

VERSION = tuple(map(int, tensorflow.__version__.split(".")[:2]))

# On 2.x: v1 is how most programs begin that were written for 1.x. v2 is the
# other way, and then control flow is made of functions, and variables are
# resources. `make test FLOW=v2` sets it.
FLOW = os.environ.get("FLOW", "v1")

# What a program writes that is not for one version of these alone.
if VERSION < (2,):
    IMPORT = "import tensorflow as tf\n"
    tf = tensorflow
else:
    IMPORT = "import tensorflow.compat.v1 as tf\n"
    tf = tensorflow.compat.v1
    # At this level, it prints that there will be no v1 one day.
    tf.logging.set_verbosity(tf.logging.ERROR)
    if FLOW == "v1":
        IMPORT += "tf.disable_v2_behavior()\n"
        tf.disable_v2_behavior()
    else:
        IMPORT += "tf.disable_eager_execution()\n"
        tf.disable_eager_execution()

# In 1.11, the order in which gradients of one tensor are added up can differ
# between two graphs of the same ops: no two need be bit-equal.
GRADIENTS_REPEAT = VERSION >= (1, 12)


def _has_keras_2():
    try:
        return bool(tf.nn.rnn_cell.LSTMCell)
    except AttributeError:  # "is not available with Keras 3"
        return False


KERAS_2 = _has_keras_2()
if KERAS_2:
    rnn_cell = tf.nn.rnn_cell
else:
    rnn_cell = importlib.import_module("tensorflow.python.ops.rnn_cell_impl")

nest = tf.nest if VERSION >= (1, 14) else tf.contrib.framework.nest

# Why a test is left out.
needs_1 = pytest.mark.skipif(VERSION >= (2,), reason="of TensorFlow 1.x alone")
needs_2 = pytest.mark.skipif(VERSION < (2,), reason="of TensorFlow 2.x alone")
needs_contrib = pytest.mark.skipif(
    VERSION >= (2,), reason="needs tf.contrib (TensorFlow 1.x)"
)
needs_toco = pytest.mark.skipif(
    VERSION >= (2,), reason="needs toco and tf.contrib.quantize (1.x)"
)
needs_estimator = pytest.mark.skipif(
    not hasattr(tf, "estimator"), reason="needs tf.estimator (until 2.15)"
)
needs_keras_2 = pytest.mark.skipif(
    not KERAS_2, reason="needs Keras 2 (tf_keras on TensorFlow 2.16 and later)"
)


def interpreter(model):
    """TFLite's interpreter of `model`, the bytes of a file."""
    lite = tf.lite if VERSION >= (1, 13) else tf.contrib.lite
    return lite.Interpreter(model_content=model)


def tensor_types(interpreter):
    """Names of the types of a model's tensors."""
    if VERSION >= (1, 13):
        details = interpreter.get_tensor_details()
        return {np.dtype(detail["dtype"]).name for detail in details}
    inner = interpreter._interpreter
    types = set()  # with those of scratch tensors
    for number in itertools.count():
        try:
            types.add(np.dtype(inner.TensorType(number)).name)
        except SystemError:  # a scratch tensor without a type
            continue
        except ValueError:  # past the last
            return types


def not_in_v2_flow(reason):
    """A mark for what control flow v2 makes another thing of."""
    return pytest.mark.skipif(FLOW == "v2", reason=f"control flow v2: {reason}")


def saveable_from_iterator(iterator):
    """What savers take for the place of a tf.data iterator."""
    data = tf.data.experimental if VERSION >= (1, 12) else tf.contrib.data
    return data.make_saveable_from_iterator(iterator)


def mirrored_strategy(devices):
    """A copy of the model on each of `devices`."""
    if VERSION >= (1, 14):
        return tf.distribute.MirroredStrategy(devices)
    return tf.contrib.distribute.MirroredStrategy(devices)


def function():
    """`tf.function`, or what stood for it before TensorFlow 1.15."""
    if VERSION < (1, 12):
        pytest.skip("functions have no gradient of stock layers (1.12)")
    if VERSION >= (2,):
        return tensorflow.function
    return tf.function if VERSION >= (1, 15) else tf.contrib.eager.defun


def has_xla():
    """Whether TensorFlow was built with XLA; 2.x is, and lists it no more."""
    with tf.Session() as session:
        kinds = {device.device_type for device in session.list_devices()}
    return VERSION >= (2,) or "XLA_CPU" in kinds


def compiled(call, inputs):
    """What XLA makes of `call` of `inputs`."""
    if VERSION >= (1, 14):
        return tf.xla.experimental.compile(call, inputs)
    from tensorflow.contrib.compiler import xla

    return xla.compile(call, inputs)


def jit_scope():
    """Has XLA compile the ops that are made in it."""
    if VERSION >= (1, 14):
        return tf.xla.experimental.jit_scope()
    return tf.contrib.compiler.jit.experimental_jit_scope()


def call_for_each_replica(strategy, function):
    """What `function` returns in each replica of `strategy`, in a list."""
    if VERSION >= (1, 13):
        call = strategy.extended.call_for_each_replica
    else:
        call = strategy.call_for_each_tower
    if VERSION >= (2,):
        return list(strategy.experimental_local_results(call(function)))
    return strategy.unwrap(call(function))


def load_predictor(folder):
    """The function that a SavedModel serves: from and to dicts of arrays."""
    if VERSION < (2,):
        return tf.contrib.predictor.from_saved_model(folder)
    session = tf.Session(graph=tf.Graph())
    with session.graph.as_default():
        model = tf.saved_model.load(session, ["serve"], folder)
    served = model.signature_def["serving_default"]

    def predict(inputs):
        return session.run(
            {name: each.name for name, each in served.outputs.items()},
            {served.inputs[name].name: inputs[name] for name in inputs},
        )

    return predict
