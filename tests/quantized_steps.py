"""Evaluation steps of quantized cells with random weights."""

import collections

import numpy as np
from versions import tf

from awd_lstm_tf import WeightDropLSTMCell

Step = collections.namedtuple("Step", "session cell inputs c h new_c new_h")


def set_ranges(session, cell):
    """As training does: the kernel's largest absolute value."""
    weights = {weight.op.name: weight for weight in cell.weights}
    for name in [name for name in weights if name.endswith("_quant/max")]:
        stem = name[: -len("_quant/max")]
        bound = np.abs(session.run(weights[stem])).max()
        weights[stem + "_quant/min"].load(-bound, session)
        weights[name].load(bound, session)


def make(
    open_session,
    depth=6,
    units=16,
    scale=0.4,
    seed=0,
    batch=1,
    ranges=True,
    on_grid=False,
    **form,
):
    """Makes an evaluation step of random weights.

    `on_grid`: the kernels are multiples of their quantization steps. Of a
    weight half way between two integers, float arithmetic decides which it is.
    """
    form = dict(dict(is_quant=True, is_train=False), **form)
    cell = WeightDropLSTMCell(units, **form)
    inputs, c, h = (
        tf.placeholder(tf.float32, [batch, size], name=name)
        for name, size in zip(
            ("inputs", "c", "h"), (depth, units, cell.output_size)
        )
    )
    output, (new_c, new_h) = cell(inputs, (c, h))
    assert output is new_h
    session = open_session()
    session.run(tf.global_variables_initializer())
    random = np.random.RandomState(seed)
    for weight in cell.trainable_weights:
        deviation = 0.3 if "bias" in weight.op.name else scale
        value = random.normal(0, deviation, weight.shape.as_list())
        if on_grid and "kernel" in weight.op.name:
            step = np.abs(value).max() / 127
            value = np.round(value / step) * step
        weight.load(value, session)
    if ranges:
        set_ranges(session, cell)
    new_c = tf.identity(new_c, "new_c")
    new_h = tf.identity(new_h, "new_h")
    return Step(session, cell, inputs, c, h, new_c, new_h)


def reference(step, kind, **arguments):
    """The step in integer arithmetic, by a class of integer_reference.py."""
    cell = step.cell
    values = {
        weight.op.name.split("lstm_cell/")[-1]: step.session.run(weight)
        for weight in cell.weights
    }
    forget_bias = np.repeat([0, 0, 1, 0], cell.state_size.c)
    peepholes = None
    if "w_i_diag" in values:
        peepholes = [values["w_i_diag"], values["w_f_diag"], values["w_o_diag"]]
    return kind(
        values["kernel"],
        values["kernel_quant/max"],
        values["bias"] + forget_bias.astype(np.float32),
        peepholes,
        values.get("projection/kernel"),
        values.get("projection/kernel_quant/max"),
        cell._cell_clip,
        cell._proj_clip,
        **arguments,
    )
