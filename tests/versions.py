"""What tests must know of the TensorFlow that they run on."""

import tensorflow as tf

MINOR = int(tf.__version__.split(".")[1])


def interpreter(model):
    """TFLite's interpreter of `model`, the bytes of a file."""
    lite = tf.lite if MINOR >= 13 else tf.contrib.lite
    return lite.Interpreter(model_content=model)


def call_for_each_replica(strategy, function):
    """What `function` returns in each replica of `strategy`, in a list."""
    if MINOR >= 13:
        call = strategy.extended.call_for_each_replica
    else:
        call = strategy.call_for_each_tower
    return strategy.unwrap(call(function))
