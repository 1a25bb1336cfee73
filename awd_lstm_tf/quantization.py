"""What a quantized cell does to what it is fed.

A cell with `is_quant=True` rounds all tensors of its step to grids, so that
`awd_lstm_tf.tflite` can turn each op into an integer op of TFLite that computes
the same. The grids are in docs/quantization.md; the one of the inputs is
`[-1, 1)`.
"""

from awd_lstm_tf import _checks
from awd_lstm_tf._versions import tf


def clipped_share(inputs):
    """Tells which share of `inputs` a quantized cell will clip.

    A quantized cell holds its inputs in `[-1, 1)`. Scale or constrain what is
    fed to it, such as trained embeddings, until this is close to 0.

    Args:
      inputs: float tensor of any shape.

    Returns:
      Scalar float32 tensor: the share of values outside of `[-1, 1)`.

    Example:

        tf.summary.scalar("clipped", quantization.clipped_share(embedded))
    """
    with tf.name_scope("clipped_share"):
        inputs = _checks.tensor("inputs", inputs)
        _checks.float_tensor("inputs", inputs)
        inside = tf.logical_and(inputs >= -1, inputs < 1)  # False for NaN, too
        return 1 - tf.reduce_mean(tf.cast(inside, tf.float32))
