"""Weights times a mask, and the gradient of that."""

from tensorflow.python.framework import ops

from awd_lstm_tf import _drawing
from awd_lstm_tf._versions import tf

# Graphs on disk bear this name, so it stays as it is; a graph that is imported
# has the gradient once `awd_lstm_tf` is.
GRADIENT = "AwdLstmTfMasked"


def masked(weights, drawn, whole_rows):
    """`weights` times the mask under `whole_rows` rows of ones.

    What is whole is cut off, and put back, as a part of a vector, in one copy.

    Args:
      weights: variable or tensor.
      drawn: `_drawing.Drawn`, of all but the first `whole_rows` of their rows.
      whole_rows: int.
    """
    weights = tf.convert_to_tensor(weights)
    if not whole_rows:
        product = _product(weights, drawn)
    else:
        rows, columns = drawn.kept.shape.as_list()
        flat, border = tf.reshape(weights, [-1]), whole_rows * columns
        part = _product(tf.reshape(flat[border:], [rows, columns]), drawn)
        flat = tf.concat([flat[:border], tf.reshape(part, [-1])], 0)
        product = tf.reshape(flat, [whole_rows + rows, columns])
    # An identity keeps `tf.contrib.quantize` from taking the product for
    # weights with a folded batch norm
    # (test_quantization.py::test_rewriter_leaves_the_cell_alone).
    return tf.identity(product, name="masked_kernel")


def _product(weights, drawn):
    # The op passes on what its gradient needs, as that of the fused layer does.
    # The stock gradient would keep the mask as floats.
    words = _drawing.packed(drawn.kept)
    with tf.get_default_graph().gradient_override_map({"IdentityN": GRADIENT}):
        return tf.identity_n(
            [weights * drawn.dense(), weights, words, drawn.scale]
        )[0]


@ops.RegisterGradient(GRADIENT)
def _gradient(op, gradient, *_):
    product, _, words, scale = op.inputs
    gradient = tf.convert_to_tensor(gradient)  # of a lookup: IndexedSlices
    # Not before the gradient is there: a mask is as large as the weights.
    with tf.control_dependencies([gradient]):
        kept = _drawing.unpacked(words, product.shape.as_list())
        mask = _drawing.Drawn(kept, scale).dense()
    return None, gradient * mask, None, None
