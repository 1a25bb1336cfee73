"""Weights times a mask, and the gradient of that."""

from tensorflow.python.framework import ops

from awd_lstm_tf import _drawing, _placing
from awd_lstm_tf._versions import tf

# Graphs on disk bear this name, so it stays as it is; a graph that is imported
# has the gradient once `awd_lstm_tf` is.
GRADIENT = "AwdLstmTfMasked"

NAMES = ("scaled_kernel", "masked_kernel")  # of ops that weights go through


def masked(owner, weights, drawn, whole_rows):
    """`weights` times the mask under `whole_rows` rows of ones.

    Args:
      owner: of the mask. What is the same at each step is made once in a
        sequence.
      weights: variable or tensor.
      drawn: `_drawing.Drawn`, of all but the first `whole_rows` of their rows.
      whole_rows: int.
    """

    def once(name, make, *inputs):
        return _placing.once_per_sequence(owner, name, make, inputs)

    # A vector is cut, and put together again, in one copy, not a matrix.
    border = whole_rows and whole_rows * drawn.shape[1]

    def dropped():
        if not border:
            return weights
        rest = tf.reshape(weights, [-1])[border:]
        return tf.reshape(rest, drawn.shape)

    scaled = once(
        "scaled",
        lambda: tf.multiply(dropped(), drawn.scale, name=NAMES[0]),
        weights,
        drawn.scale,
    )
    product = _product(scaled, drawn)
    if border:
        whole = once(
            "whole", lambda: tf.reshape(weights, [-1])[:border], weights
        )
        flat = tf.concat([whole, tf.reshape(product, [-1])], 0)
        product = tf.reshape(flat, [-1] + scaled.shape.as_list()[1:])
    # An identity keeps `tf.contrib.quantize` from taking the product for
    # weights with a folded batch norm
    # (test_quantization.py::test_rewriter_leaves_the_cell_alone).
    return tf.identity(product, name=NAMES[1])


def _product(weights, drawn):
    # The op passes on what its gradient needs, as that of the fused layer does:
    # words, where the stock gradient would keep floats.
    kept = _drawing.ones_where(drawn.kept, drawn.shape, weights.dtype)
    product = weights * kept
    with tf.get_default_graph().gradient_override_map({"IdentityN": GRADIENT}):
        return tf.identity_n([product, weights, drawn.kept])[0]


@ops.RegisterGradient(GRADIENT)
def _gradient(op, gradient, *_):
    gradient = tf.convert_to_tensor(gradient)  # of a lookup: IndexedSlices
    shape = gradient.shape  # which control flow v2 may have lost
    known = shape.is_fully_defined()
    shape = shape.as_list() if known else tf.shape(gradient)
    # Not before the gradient is there: a mask is as large as the weights.
    with tf.control_dependencies([gradient]):
        kept = _drawing.ones_where(op.inputs[2], shape, gradient.dtype)
        return None, gradient * kept, None
