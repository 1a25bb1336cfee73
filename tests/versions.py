"""What tests must know of the TensorFlow that they run on."""

import itertools

import numpy as np
import tensorflow as tf

MINOR = int(tf.__version__.split(".")[1])

# In 1.11, the order in which gradients of one tensor are added up can differ
# between two graphs of the same ops: no two need be bit-equal.
GRADIENTS_REPEAT = MINOR >= 12


def interpreter(model):
    """TFLite's interpreter of `model`, the bytes of a file."""
    lite = tf.lite if MINOR >= 13 else tf.contrib.lite
    return lite.Interpreter(model_content=model)


def tensor_types(interpreter):
    """Names of the types of a model's tensors."""
    if MINOR >= 13:
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


def saveable_from_iterator(iterator):
    """What savers take for the place of a tf.data iterator."""
    data = tf.data.experimental if MINOR >= 12 else tf.contrib.data
    return data.make_saveable_from_iterator(iterator)


def call_for_each_replica(strategy, function):
    """What `function` returns in each replica of `strategy`, in a list."""
    if MINOR >= 13:
        call = strategy.extended.call_for_each_replica
    else:
        call = strategy.call_for_each_tower
    return strategy.unwrap(call(function))
