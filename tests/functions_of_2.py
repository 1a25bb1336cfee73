"""What the package does in eager mode and in a `tf.function`, for its tests.

A process of its own: the tests' has eager mode switched off. Prints a dict.
"""

import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow
import tensorflow.compat.v1 as tf

import awd_lstm_tf

BATCH, TIME, DEPTH, UNITS = 2, 6, 3, 4
INPUTS = np.random.RandomState(0).randn(BATCH, TIME, DEPTH).astype("float32")
AUTO = dict(weight_drop_kr=0.5, use_vd=True, auto_update=True, input_size=DEPTH)


def reference(kernel, bias, inputs):
    """An LSTM from its equations, batch-major outputs."""
    c, h, outputs = tf.zeros([BATCH, UNITS]), tf.zeros([BATCH, UNITS]), []
    for step in range(TIME):
        gates = tf.concat([inputs[:, step], h], 1) @ kernel + bias
        i, j, f, o = tf.split(gates, 4, 1)
        c = tf.sigmoid(f + 1.0) * c + tf.sigmoid(i) * tf.tanh(j)
        h = tf.sigmoid(o) * tf.tanh(c)
        outputs.append(h)
    return tf.stack(outputs, 1)


def cell():
    made = awd_lstm_tf.WeightDropLSTMCell(UNITS, **AUTO)

    def run(inputs):
        return tf.nn.dynamic_rnn(made, inputs, dtype=tf.float32)[0]

    return made, run


def fused():
    made = awd_lstm_tf.WeightDropLSTMBlockFusedCell(UNITS, **AUTO)

    def run(inputs):
        by_time = tf.transpose(inputs, [1, 0, 2])
        return tf.transpose(made(by_time, dtype=tf.float32)[0], [1, 0, 2])

    return made, run


def trained(make):
    """Largest errors of outputs and gradients over some calls; masks seen."""
    layers = []

    @tensorflow.function
    def step(inputs):
        if not layers:
            layers.append(make())
        layer, run = layers[0]
        with tensorflow.GradientTape() as tape:
            outputs = run(inputs)
            loss = tf.reduce_sum(tf.square(outputs))
        kernel, bias = layer.trainable_weights
        gradients = tape.gradient(loss, [kernel, bias])
        return outputs, gradients

    errors, masks = [], set()
    step(tf.constant(INPUTS))
    kernel, bias = layers[0][0].trainable_weights
    bias.assign(np.random.RandomState(1).randn(4 * UNITS))
    for _ in range(10):
        outputs, gradients = step(tf.constant(INPUTS))
        # What was dropped has no gradient, and all else has one: with biases
        # that are not 0, no unit is.
        mask = 2.0 * (np.asarray(gradients[0]) != 0)
        with tensorflow.GradientTape() as tape:
            expected = reference(kernel * mask, bias, INPUTS)
            loss = tf.reduce_sum(tf.square(expected))
        wanted = tape.gradient(loss, [kernel, bias])
        pairs = zip([outputs, *gradients], [expected, *wanted])
        errors += [float(np.max(np.abs(a - b))) for a, b in pairs]
        masks.add(mask.tobytes())
    return {"error": max(errors), "masks": len(masks)}


def held():
    @tensorflow.function
    def step(inputs):
        made = awd_lstm_tf.WeightDropLSTMCell(
            UNITS, weight_drop_kr=0.5, use_vd=True, input_size=DEPTH
        )
        return tf.nn.dynamic_rnn(made, inputs, dtype=tf.float32)[0]

    return step(tf.constant(INPUTS))


def said(function):
    """The last sentence of what a function raises; "" if it does not."""
    try:
        function()
    except Exception as error:
        lines = str(error).strip().splitlines()
        kind = type(error).__name__
        return f"{kind}: {[x for x in lines if x.strip()][-1].strip()}"
    return ""


def differs(function, *arguments):
    """Whether calls of a compiled function differ from one another."""
    compiled = tensorflow.function(function)
    results = [np.asarray(compiled(*arguments)).tobytes() for _ in range(8)]
    return len(set(results)) > 4


def main():
    table, ids = tf.ones([50, 2]), tf.range(50)
    dropouts = []

    def dropped(inputs):
        if not dropouts:
            dropouts.append(
                awd_lstm_tf.VariationalDropout(
                    [BATCH, 1, DEPTH], 0.5, auto_update=True
                )
            )
        return dropouts[0](inputs)

    def apply():
        optimizer = awd_lstm_tf.NTASGDOptimizer(0.1)
        optimizer.apply_gradients([(tf.ones([1]), tensorflow.Variable([1.0]))])

    results = {
        "cell": trained(cell),
        "fused": trained(fused),
        "dropout differs": differs(dropped, tf.constant(INPUTS)),
        "embedding differs": differs(
            lambda: awd_lstm_tf.embedding_dropout(table, ids, 0.5)
        ),
        "held": said(held),
        "eager cell": said(lambda: cell()),
        "eager dropout": said(lambda: awd_lstm_tf.VariationalDropout([2], 0.5)),
        "eager embedding": said(
            lambda: awd_lstm_tf.embedding_dropout(table, ids, 0.5)
        ),
        "eager optimizer": said(apply),
        "eager off": said(
            lambda: awd_lstm_tf.WeightDropLSTMCell(UNITS)(
                tf.ones([1, DEPTH]), [tf.zeros([1, UNITS])] * 2
            )
        ),
        "eager AR": float(
            awd_lstm_tf.activation_regularization(tf.ones([2, 3, 4]), 2.0)
        ),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
