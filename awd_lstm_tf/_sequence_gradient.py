"""The gradient of a whole sequence, under a name that graphs on disk bear.

It is that of an op which passes on all that the gradient needs: the results,
what they were made of, and what the forward pass saved. The op is told by its
gradient's name, so the name stays as it is, and a graph that is imported has
its gradient once `awd_lstm_tf` is.
"""

import collections

from tensorflow.python.framework import ops, tensor_util

from awd_lstm_tf._lstm_sequence import Saved, Sequence
from awd_lstm_tf._versions import tf

_FIRST_ORDER = "AwdLstmTfSequence"
_SECOND_ORDER = "AwdLstmTfSecondOrder"

_NO_CLIP = -1.0  # as in LSTMBlockFusedCell

# What an input of the op says: settings, how many tensors follow, and sizes,
# which tensors may have lost on the way (control flow v2).
_Header = collections.namedtuple(
    "_Header",
    "forget_bias cell_clip peepholes alive blocks time batch depth units",
)
_UNKNOWN = -1


def run(tensors, peepholes, alive, save, forget_bias, cell_clip):
    """Outputs, c and h of a sequence, with the gradient that `Sequence` has.

    Args:
      tensors: list of inputs, kernel, bias, c and h.
      peepholes: list of three tensors, or none.
      alive: tensor or None, see `Sequence`.
      save: whether to keep what the gradient needs. Otherwise it runs the
        sequence once more.
      forget_bias: float.
      cell_clip: float or None.
    """
    results, saved = Sequence(
        *tensors, peepholes, alive, forget_bias, cell_clip
    ).forward(save)
    series = [each if isinstance(each, list) else [each] for each in saved]
    header = _Header(
        forget_bias,
        _NO_CLIP if cell_clip is None else cell_clip,
        len(peepholes),
        int(alive is not None),
        len(series[0]) if series else 0,
        *[
            _UNKNOWN if size is None else size
            for size in tensors[0].shape.as_list()
            + tensors[4].shape.as_list()[1:]
        ],
    )
    header = tf.constant(header, tf.float64, name="settings")
    known = list(tensors) + list(peepholes)
    known += [alive] if alive is not None else []
    known += [block for blocks in series for block in blocks]
    return _marked(_FIRST_ORDER, list(results) + [header] + known)[
        : len(results)
    ]


def _marked(gradient, tensors):
    """`tensors`, through an op with the gradient that is called so."""
    graph = tf.get_default_graph()
    with graph.gradient_override_map({"IdentityN": gradient}):
        return tf.identity_n(tensors)


@ops.RegisterGradient(_FIRST_ORDER)
def _gradient(op, d_outputs, d_c, d_h, *_):
    results = 3
    header = _header_of(op.inputs[results])
    tensors, peepholes, alive, series = _parts(header, op.inputs[results + 1 :])
    clip = None if header.cell_clip == _NO_CLIP else header.cell_clip
    sequence = Sequence(*tensors, peepholes, alive, header.forget_bias, clip)
    if not header.blocks:
        _, series = sequence.forward(True)
    # TensorFlow 1.x has no zeros of its own for results of bfloat16.
    d_outputs, d_c, d_h = [
        tf.zeros_like(result) if gradient is None else gradient
        for result, gradient in zip(op.outputs, (d_outputs, d_c, d_h))
    ]
    gradients = sequence.backward(Saved(*series), d_outputs, [d_c, d_h])
    gradients = _marked(_SECOND_ORDER, gradients)
    passed = len(op.inputs) - results - 1 - len(gradients)
    return [None] * (results + 1) + gradients + [None] * passed


def _header_of(tensor):
    values = tensor_util.constant_value(tensor)
    if values is None:
        raise ValueError(
            f"'{tensor.op.name}' must be the constant that "
            "WeightDropLSTMBlockFusedCell made for its gradient, got "
            f"{tensor.op.type}: what rewrote this graph must leave constants."
        )
    floats = _Header._fields[:2]
    return _Header(
        *[
            value if name in floats else int(value)
            for name, value in zip(_Header._fields, values.tolist())
        ]
    )


def _parts(header, known):
    """What the gradient's op was given, as lists: see `run`."""
    known = iter(known)
    sizes = [header.time, header.batch, header.depth, header.units]
    time, batch, depth, units = [
        None if size == _UNKNOWN else size for size in sizes
    ]

    def take(*shape):
        # In the gradient of a user's loop this is where tensors come over from
        # the forward pass: into a loop of ours they cannot
        # (test_fused.py::test_in_a_users_loop).
        tensor = tf.identity(next(known))
        tensor.set_shape(shape)
        return tensor

    tensors = [
        take(time, batch, depth),
        take(depth + units, 4 * units),
        take(4 * units),
        take(batch, units),
        take(batch, units),
    ]
    peepholes = [take(units) for _ in range(header.peepholes)]
    alive = take(None) if header.alive else None
    rows = batch if header.blocks > 1 else None
    series = [
        [take(rows, units) for _ in range(header.blocks)] for _ in Saved._fields
    ]
    if header.blocks == 1:
        series = [block for (block,) in series]
    return tensors, peepholes, alive, series


@ops.RegisterGradient(_SECOND_ORDER)
def _refuse_second_order(*_):
    raise NotImplementedError(
        "Gradients of gradients must not go through "
        "WeightDropLSTMBlockFusedCell, which has none of second order: use "
        "WeightDropLSTMCell in tf.nn.static_rnn."
    )
