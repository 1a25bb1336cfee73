"""The exported model: against integer arithmetic, and against fake quant.

Here in TensorFlow's own interpreter, which in 1.x runs the form uint8; both
forms in today's runtimes are in test_runtimes.py.
"""

import functools
import sys

import integer_reference
import numpy as np
import pytest
import quantized_steps
import versions
from quantized_steps import set_ranges
from versions import tf

from awd_lstm_tf import WeightDropLSTMCell, tflite

# TFLite's 16-bit logistic is off by up to 6.4 of its steps of 2**-15, and `c`
# up to 16 times that: this many of its own steps of 2**-11, which together are
# about one step of `h`.
C_STEPS = 20

ALL_FORMS = [
    dict(),
    dict(use_peepholes=True),
    dict(num_proj=5),
    dict(use_peepholes=True, cell_clip=1.3, num_proj=5, proj_clip=0.3),
]


@pytest.fixture
def make_step(open_session):
    return functools.partial(quantized_steps.make, open_session)


def convert(step, form="uint8", **arguments):
    return tflite.convert(
        step.session,
        [step.inputs],
        [step.new_h],
        [(step.c, step.new_c), (step.h, step.new_h)],
        form=form,
        **arguments,
    )


class Integers(object):
    """A TFLite model, by the names of its inputs and outputs."""

    def __init__(self, model):
        self.interpreter = versions.interpreter(model)
        self.interpreter.allocate_tensors()
        details = self.interpreter.get_input_details()
        self.inputs = {detail["name"]: detail for detail in details}
        details = self.interpreter.get_output_details()
        self.outputs = {detail["name"]: detail for detail in details}

    def run(self, **values):
        for name, value in values.items():
            index = self.inputs[name]["index"]
            self.interpreter.set_tensor(index, value)
        self.interpreter.invoke()
        return {
            name: self.interpreter.get_tensor(detail["index"])
            for name, detail in self.outputs.items()
        }

    def types(self):
        return versions.tensor_types(self.interpreter)


def reference(step):
    batch = step.inputs.shape.as_list()[0]
    return quantized_steps.reference(
        step, integer_reference.IntegerLSTM, halves_up=halves_up(batch)
    )


def halves_up(batch):
    """How TFLite rounds halves in its products with kernel and projection.

    In TensorFlow 1.15 the product of one row rounds them up. In 1.13 all of
    them round halves away from zero. For those of 2.x see test_runtimes.py.
    """
    one_row = (1, 14) <= versions.VERSION < (2,) and batch == 1
    return one_row, one_row


def rounding(step):
    """By how much 2.x may be off in h and c, from equal states."""
    if versions.VERSION < (2,):
        return 0, 0
    projected = step.new_h.shape != step.new_c.shape
    return 1 + projected, 8  # see test_runtimes.py; a projection adds up


def mismatches(step, sequences, steps):
    """Of the model and the reference, from equal states; and how many."""
    model, expected = Integers(convert(step)), reference(step)
    random = np.random.RandomState(3)
    wrong = count = 0
    for _ in range(sequences):
        h = np.full(step.h.shape.as_list(), 128, np.uint8)
        c = np.zeros(step.c.shape.as_list(), np.int16)
        for _ in range(steps):
            inputs = random.randint(0, 256, step.inputs.shape.as_list())
            inputs = inputs.astype(np.uint8)
            new = model.run(inputs=inputs, c=c, h=h)
            h, c = expected.step(inputs, h, c)
            found = [new["new_h"], new["new_c"]]
            for have, need, near in zip(found, [h, c], rounding(step)):
                off = np.abs(have.astype(np.int64) - need.astype(np.int64))
                wrong, count = wrong + np.sum(off > near), count + off.size
    return wrong, count


@pytest.mark.parametrize("form", ALL_FORMS, ids=str)
def test_model_is_the_integer_reference(make_step, form):
    step = make_step(on_grid=True, **form)
    wrong, count = mismatches(step, sequences=10, steps=40)
    assert count >= 8000
    assert wrong == 0


@pytest.mark.parametrize(
    "depth, units, scale", [(64, 64, 0.4), (20, 256, 0.1), (6, 64, 3.0)]
)
def test_model_is_the_integer_reference_at_other_sizes(
    make_step, depth, units, scale
):
    step = make_step(depth, units, scale, on_grid=True)
    wrong, count = mismatches(step, sequences=4, steps=8192 // units)
    assert count >= 50000
    assert wrong == 0


@pytest.mark.smoke
@pytest.mark.parametrize("form", ALL_FORMS, ids=str)
def test_model_is_the_integer_reference_for_a_batch(make_step, form):
    wrong, _ = mismatches(
        make_step(batch=3, on_grid=True, **form), sequences=2, steps=40
    )
    assert wrong == 0


def largest_differences(step, steps=60):
    """Of h and c to the fake-quant graph's, in steps of their own grids."""
    model = Integers(convert(step))
    random = np.random.RandomState(7)
    differences = {"new_h": 0, "new_c": 0}
    for _ in range(steps):
        inputs = random.randint(0, 256, step.inputs.shape.as_list())
        h = random.randint(0, 256, step.h.shape.as_list())
        c = random.normal(0, 4000, step.c.shape.as_list())
        c = np.clip(c, -(2**15), 2**15 - 1).astype(np.int16)
        found = model.run(
            inputs=inputs.astype(np.uint8), h=h.astype(np.uint8), c=c
        )
        values = {
            step.inputs: (inputs - 128) / 128,
            step.h: (h - 128) / 128,
            step.c: c / 2048,
        }
        new_h, new_c = step.session.run([step.new_h, step.new_c], values)
        expected = {"new_h": new_h * 128 + 128, "new_c": new_c * 2048}
        for name, value in expected.items():
            off = np.abs(found[name] - np.round(value)).max()
            differences[name] = max(differences[name], off)
    return differences


@pytest.mark.parametrize(
    "units, scale, seed", [(16, 0.4, 1), (64, 0.9, 2), (256, 0.05, 3)]
)
def test_model_is_within_one_step_of_fake_quant(make_step, units, scale, seed):
    step = make_step(units // 2, units, scale, seed=seed)
    differences = largest_differences(step)
    assert differences["new_h"] <= 1
    assert differences["new_c"] <= C_STEPS


@pytest.mark.slow
@pytest.mark.parametrize("form", [dict(), dict(use_peepholes=True)], ids=str)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "depth, units, scale",
    [
        (6, 16, 0.4),
        (6, 16, 0.9),
        (64, 64, 0.1),
        (64, 64, 0.4),
        (200, 256, 0.05),
    ],
)
def test_many_models_are_within_one_step_of_fake_quant(
    make_step, depth, units, scale, seed, form
):
    step = make_step(depth, units, scale, seed=seed, **form)
    differences = largest_differences(step, steps=150)
    assert differences["new_h"] <= 1
    assert differences["new_c"] <= C_STEPS


def test_model_is_the_same_bytes_each_time(make_step):
    step = make_step()
    assert convert(step) == convert(step)


@pytest.mark.smoke
def test_model_holds_integers_under_the_names_given(make_step):
    step = make_step()
    nodes = len(step.session.graph.get_operations())
    model = Integers(convert(step))
    assert model.types() == {"uint8", "int16", "int32"}
    assert list(model.inputs) == ["inputs", "c", "h"]
    assert list(model.outputs) == ["new_h", "new_c"]
    for name, ends in (("h", model.inputs), ("new_h", model.outputs)):
        assert ends[name]["dtype"] is np.uint8
        assert ends[name]["quantization"] == (2**-7, 128)
    for name, ends in (("c", model.inputs), ("new_c", model.outputs)):
        assert ends[name]["dtype"] is np.int16
        assert ends[name]["quantization"] == (2**-11, 0)
    assert model.inputs["inputs"]["quantization"] == (2**-7, 128)
    # Nothing was added to the graph: it may be finalized.
    assert len(step.session.graph.get_operations()) == nodes


# ---------------------------------------------------------------------------
# Models around the cell


@pytest.fixture
def make_language_model(open_session):
    """Embedding, two cells, two dense layers and softmax, of random weights."""

    def make(batch=1, use_resource=False, rounded=False):
        tf.reset_default_graph()
        shape = [batch, 1] if batch > 1 else [1]
        ids = tf.placeholder(tf.int32, shape, name="ids")
        with tf.variable_scope("model", use_resource=use_resource):
            table = tf.get_variable(
                "table",
                [30, 8],
                initializer=tf.random_uniform_initializer(-1, 1),
            )
            if rounded:
                table = tf.fake_quant_with_min_max_args(table, -1, 127 / 128)
            hidden = tf.nn.embedding_lookup(table, tf.reshape(ids, [batch]))
            states = []
            for units in (16, 12):
                cell = WeightDropLSTMCell(units, is_quant=True, is_train=False)
                old = tf.nn.rnn_cell.LSTMStateTuple(
                    *(
                        tf.placeholder(tf.float32, [batch, units])
                        for _ in range(2)
                    )
                )
                hidden, new = cell(hidden, old)
                states += list(zip(old, new))
            hidden = tf.layers.dense(hidden, 10, activation=tf.nn.relu)
            logits = tf.layers.dense(hidden, 30)
            probabilities = tf.nn.softmax(logits, name="probabilities")
        tf.contrib.quantize.create_eval_graph()
        session = open_session()
        session.run(tf.global_variables_initializer())
        for variable in tf.global_variables():
            name = variable.op.name
            if name.endswith(("weights_quant/min", "kernel_quant/min")):
                variable.load(-0.9, session)
            elif name.endswith(("weights_quant/max", "kernel_quant/max")):
                variable.load(0.9, session)
            elif name.endswith("act_quant/max"):
                variable.load(2.0, session)
            elif name.endswith("dense_1/act_quant/min"):
                variable.load(-2.0, session)
        return session, ids, logits, probabilities, states

    return make


@pytest.mark.parametrize(
    "arguments",
    [
        dict(),
        dict(use_resource=True),
        dict(use_resource=True, rounded=True, batch=3),
    ],
    ids=str,
)
def test_language_model(make_language_model, arguments):
    session, ids, logits, probabilities, states = make_language_model(
        **arguments
    )
    content = tflite.convert(session, [ids], [probabilities, logits], states)
    model = Integers(content)
    assert "float32" not in model.types()
    ends = [ids] + [old for old, _ in states]
    assert list(model.inputs) == [end.op.name for end in ends]
    outputs = [probabilities, logits] + [new for _, new in states]
    assert list(model.outputs) == [end.op.name for end in outputs]
    # What the rewriter made of the logits is that many steps of their range.
    logits_graph = session.graph.get_tensor_by_name(
        "model/dense_1/act_quant/FakeQuantWithMinMaxVars:0"
    )
    random = np.random.RandomState(0)
    state = [
        np.full(
            old.shape.as_list(),
            model.inputs[old.op.name]["quantization"][1],
            model.inputs[old.op.name]["dtype"],
        )
        for old, _ in states
    ]
    for _ in range(40):
        drawn = random.randint(0, 30, ids.shape.as_list()).astype(np.int32)
        values = {ids.op.name: drawn}
        floats = {ids: drawn}
        for (old, _), integers in zip(states, state):
            values[old.op.name] = integers
            scale, zero = model.inputs[old.op.name]["quantization"]
            floats[old] = (integers.astype(np.float64) - zero) * scale
        found = model.run(**values)
        expected = session.run([probabilities, logits_graph], floats)
        for end, value, allowed in zip(
            (probabilities, logits), expected, (1, 3)
        ):
            scale, zero = model.outputs[end.op.name]["quantization"]
            real = (found[end.op.name].astype(np.float64) - zero) * scale
            assert np.abs(real - value).max() <= (allowed + 0.5) * scale
        state = [found[new.op.name] for _, new in states]


# ---------------------------------------------------------------------------
# Bad input


def test_ranges_must_be_trained(make_step):
    step = make_step(ranges=False)
    with pytest.raises(
        ValueError, match="'lstm_cell/kernel_quant/max' was never"
    ):
        convert(step)


def test_weights_must_be_finite(make_step):
    step = make_step()
    kernel = step.cell.trainable_weights[0]
    kernel.load(np.full(kernel.shape.as_list(), np.nan), step.session)
    with pytest.raises(ValueError, match="'lstm_cell/kernel.*' must be finite"):
        convert(step)


def refused(step, match, **replaced):
    ends = dict(
        inputs=[step.inputs],
        outputs=[step.new_h],
        states=[(step.c, step.new_c), (step.h, step.new_h)],
    )
    with pytest.raises(ValueError, match=match):
        tflite.convert(step.session, **dict(ends, **replaced))


def test_op_without_integer_form_is_named(make_step):
    step = make_step()
    output = tf.exp(step.new_h, name="my_exp")
    refused(step, "op 'my_exp' of type Exp has no integer", outputs=[output])


def test_cell_without_quantization_is_refused(make_step):
    refused(make_step(is_quant=False), "weights 'lstm_cell/kernel' have")


def test_cell_in_a_loop_is_refused(open_session):
    inputs = tf.placeholder(tf.float32, [1, 4, 3], name="inputs")
    cell = WeightDropLSTMCell(4, is_quant=True, is_train=False)
    outputs, _ = tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)
    session = open_session()
    session.run(tf.global_variables_initializer())
    set_ranges(session, cell)
    with pytest.raises(ValueError, match="called once"):
        tflite.convert(session, [inputs], [outputs], [])


def test_dense_layer_must_be_rewritten(make_step):
    step = make_step()
    logits = tf.layers.dense(step.new_h, 3)
    step.session.run(tf.variables_initializer(tf.global_variables()[-2:]))
    refused(
        step,
        "weights 'dense/kernel.* call .*create_eval_graph",
        outputs=[logits],
    )


def test_dense_layer_must_be_trained(make_step):
    step = make_step()
    logits = tf.layers.dense(step.new_h, 3)
    tf.contrib.quantize.create_eval_graph()
    step.session.run(tf.global_variables_initializer())
    set_ranges(step.session, step.cell)
    refused(step, "'dense/weights_quant/max' was never", outputs=[logits])


def test_activation_must_have_a_range(make_step):
    step = make_step()
    output = tf.add(step.new_h, step.new_h, name="twice")
    refused(step, "op 'twice' of type Add.* no range", outputs=[output])


def test_float_input_must_have_a_range(make_step):
    step = make_step()
    more = tf.placeholder(tf.float32, [1, 16], name="more")
    output = tf.concat([step.new_h, more], 1)
    refused(
        step, "'more' has none", inputs=[step.inputs, more], outputs=[output]
    )


def test_weights_must_be_symmetric(make_step):
    step = make_step()
    weights = tf.fake_quant_with_min_max_args(
        tf.ones([16, 2]), -1, 1, name="wide"
    )
    output = tf.fake_quant_with_min_max_args(
        tf.matmul(step.new_h, weights), -1, 1
    )
    refused(step, "'wide' of weights must have narrow_range", outputs=[output])


@pytest.mark.parametrize(
    "grid, match",
    [
        (dict(num_bits=4), "must have 8 or 16 bits, got 4"),
        (dict(max=-2.0), "must not be empty, got \\[-1.0, -2.0\\]"),
    ],
    ids=str,
)
def test_grids_must_be_tflites(make_step, grid, match):
    step = make_step()
    grid = {"min": -1.0, "max": 1.0, **grid}
    ends = [tf.constant(grid.pop(end)) for end in ("min", "max")]
    output = tf.fake_quant_with_min_max_vars(
        step.new_h + step.new_h, *ends, **grid
    )
    refused(step, match, outputs=[output])


def test_every_placeholder_must_be_given(make_step):
    step = make_step()
    refused(step, "'h' is missing", states=[(step.c, step.new_c)])


def test_inputs_must_be_used(make_step):
    step = make_step()
    more = tf.placeholder(tf.float32, [1, 2], name="more")
    refused(step, "'more' does not", inputs=[step.inputs, more])


def test_missing_flatbuffers_is_named(make_step, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match=r"awd-lstm-tf\[tflite\]"):
        convert(make_step())
