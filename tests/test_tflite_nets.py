"""Nets around the cell, in both forms: right, or refused by name."""

import beside_graph
import numpy as np
import pytest
import runtimes
from versions import tf

from awd_lstm_tf import WeightDropLSTMCell, _integer_forms, tflite

FORMS = ("uint8", "int16x8")
needs_contrib = pytest.mark.skipif(
    tf.__version__ >= "2", reason="of TensorFlow 1.x alone"
)
both_forms = pytest.mark.parametrize("form", FORMS)


def rounded_to(value, low, high, **arguments):
    return tf.fake_quant_with_min_max_args(value, low, high, **arguments)


def hidden_range(value):
    return rounded_to(value, -1, 127 / 128)


def placeholder(name, depth, batch=1):
    return tf.placeholder(tf.float32, [batch, depth], name=name)


def weights(rows, columns, seed=0, low=-1.0):
    """Constants with the fake quant of weights."""
    values = np.random.RandomState(seed).normal(0, 0.4, [rows, columns])
    return rounded_to(
        tf.constant(values, tf.float32), low, 1, narrow_range=True
    )


def dense(value, units, low=-4.0, high=3.97, name="dense", seed=0, relu=False):
    """A dense layer with fake quant, as the rewriter makes them."""
    size = value.shape.as_list()[1]
    with tf.variable_scope(name):
        made = tf.matmul(value, weights(size, units, seed), name="product")
        bias = np.random.RandomState(seed + 1).normal(0, 0.3, [units])
        made = tf.nn.bias_add(made, tf.constant(bias, tf.float32))
        if relu:
            made, low = tf.nn.relu(made), 0.0
        return rounded_to(made, low, high)


class Net(object):
    """A cell of 8 units on some inputs, with the ends of a model."""

    def __init__(self, inputs, units=8, batch=1, name="cell", **form):
        cell = WeightDropLSTMCell(
            units,
            is_quant=True,
            is_train=False,
            initializer=tf.random_normal_initializer(0, 0.4, seed=3),
            name=name,
            **form,
        )
        self.cell = cell
        self.c = placeholder(f"{name}_c", units, batch)
        self.h = placeholder(f"{name}_h", cell.output_size, batch)
        _, (self.new_c, self.new_h) = cell(inputs, (self.c, self.h))
        self.states = [(self.c, self.new_c), (self.h, self.new_h)]


def trained(session):
    """Runs the initializers, and sets all ranges of kernels."""
    session.run(tf.global_variables_initializer())
    variables = {each.op.name: each for each in tf.global_variables()}
    for name in variables:
        if name.endswith("kernel_quant/max"):
            stem = name[: -len("_quant/max")]
            bound = np.abs(session.run(variables[stem])).max()
            variables[name].load(bound, session)
            variables[stem + "_quant/min"].load(-bound, session)
    return session


@pytest.fixture
def agrees(open_session, example):
    """Converts, runs, and compares with the graph."""

    def convert_and_compare(
        form, inputs, outputs, states, rows=None, steps=2, equal=0.85
    ):
        session = trained(open_session())
        content = tflite.convert(session, inputs, outputs, states, form=form)
        ends = inputs + [old for old, _ in states]
        names = {output.name for output in outputs}
        put_out = outputs + [new for _, new in states if new.name not in names]
        limits = [(rows or {}).get(end.op.name) for end in ends]
        run_tflite, wanted, drawn = example("run_tflite"), [], []

        def draw(_, model):
            for values in beside_graph.draws(model, 12, limits):
                drawn.append(values)
                wanted.append(
                    beside_graph.expected(session, model, ends, put_out, values)
                )
            return drawn

        python = runtimes.for_form(form)
        (found,) = runtimes.run_draws(run_tflite, python, [content], draw)
        for each in beside_graph.differences(wanted, found, put_out):
            is_16_bits = any(
                each.name == new.op.name and old.op.name.endswith("_c")
                for old, new in states
            )
            assert each.steps <= (25 if is_16_bits else steps), each
            assert is_16_bits or each.equal > equal, each

    return convert_and_compare


def refused(session, match, inputs, outputs, states, form="uint8"):
    with pytest.raises(ValueError, match=match):
        tflite.convert(session, inputs, outputs, states, form=form)


# ---------------------------------------------------------------------------
# One tensor, several uses


@both_forms
@pytest.mark.parametrize("rounded", [False, True])
def test_table_that_is_softmax_weights_too(agrees, form, rounded):
    ids = tf.placeholder(tf.int32, [1], name="ids")
    table = tf.get_variable(
        "table", [30, 8], initializer=tf.random_uniform_initializer(-0.5, 0.5)
    )
    as_weights = rounded_to(table, -0.5, 0.5, narrow_range=True)
    looked_up = as_weights if rounded else table
    net = Net(tf.nn.embedding_lookup(looked_up, ids))
    logits = rounded_to(
        tf.matmul(net.new_h, as_weights, transpose_b=True), -3, 2.9
    )
    agrees(form, [ids], [logits], net.states, {"ids": 30})


@needs_contrib
@both_forms
def test_tied_weights_after_the_rewriter(agrees, form):
    ids = tf.placeholder(tf.int32, [1], name="ids")
    table = tf.get_variable(
        "table", [30, 8], initializer=tf.random_uniform_initializer(-0.5, 0.5)
    )
    net = Net(tf.nn.embedding_lookup(table, ids))
    bias = tf.get_variable("b", [30])
    logits = tf.nn.bias_add(
        tf.matmul(net.new_h, table, transpose_b=True), bias, name="logits"
    )
    if hasattr(tf, "lite"):
        tf.contrib.quantize.experimental_create_eval_graph(symmetric=True)
    else:
        tf.contrib.quantize.create_eval_graph()
    for each in tf.global_variables():
        if "weights_quant" in each.op.name or "act_quant" in each.op.name:
            limit = 0.5 if "weights_quant" in each.op.name else 3.0
            if each.op.name.endswith("min"):
                limit = -limit
            initial = tf.constant(limit)
            each._initializer_op = each.assign(initial).op
    agrees(form, [ids], [logits], net.states, {"ids": 30})


@both_forms
def test_two_lookups_in_one_table(agrees, form):
    ids = [tf.placeholder(tf.int32, [1], name=name) for name in ("a", "b")]
    table = tf.tanh(tf.get_variable("table", [30, 6]))
    found = [hidden_range(tf.gather(table, each)) for each in ids]
    net = Net(tf.concat(found, 1))
    agrees(form, ids, [net.new_h], net.states, {"a": 30, "b": 30})


@both_forms
def test_one_table_with_two_ranges(agrees, form):
    ids = tf.placeholder(tf.int32, [1], name="ids")
    table = tf.get_variable(
        "table", [30, 8], initializer=tf.random_uniform_initializer(-2, 2)
    )
    found = tf.gather(table, ids)
    net = Net(found)
    output = dense(rounded_to(found, -2, 2), 5)
    agrees(form, [ids], [output], net.states, {"ids": 30})


def test_one_input_with_two_ranges(agrees, open_session):
    x = placeholder("x", 6)
    net = Net(x)
    output = dense(rounded_to(x, -4, 3.96875), 5)
    ends = [x], [output], net.states
    refused(
        trained(open_session()),
        "The input 'x' goes into more than one range .*int16x8",
        *ends,
    )
    agrees("int16x8", *ends)


@both_forms
def test_old_state_that_layers_take_too(agrees, form):
    x = placeholder("x", 6)
    net = Net(x)
    output = dense(hidden_range(net.h), 5)
    agrees(form, [x], [output], net.states)


@both_forms
def test_layer_on_a_new_state_of_the_first_cell(agrees, form):
    x = placeholder("x", 6)
    first = Net(x)
    second = Net(first.new_h, name="second", units=6)
    output = dense(second.new_h, 5)
    agrees(form, [x], [output], first.states + second.states)


@both_forms
def test_state_that_holds_an_input(agrees, form):
    x, before = placeholder("x", 6), placeholder("before", 6)
    net = Net(tf.concat([x, before], 1))
    states = net.states + [(before, tf.identity(x, "kept"))]
    agrees(form, [x], [net.new_h], states)


@both_forms
def test_outputs_of_the_same_values(agrees, form):
    x = placeholder("x", 6)
    net = Net(x)
    outputs = [net.new_h, tf.identity(net.new_h, "h_again")]
    agrees(form, [x], outputs, net.states)


def test_states_paired_with_those_of_another_kind(agrees, open_session):
    x = placeholder("x", 6)
    net = Net(x)
    swapped = [(net.c, net.new_h), (net.h, net.new_c)]
    refused(
        trained(open_session()), "uint8 has no op between", [x], [], swapped
    )
    content = tflite.convert(
        trained(open_session()), [x], [], swapped, form="int16x8", check=True
    )
    assert content


# ---------------------------------------------------------------------------
# Ranges that meet


def test_concatenation_of_unequal_ranges(agrees, open_session):
    x = placeholder("x", 6)
    net = Net(x)
    hidden = dense(net.new_h, 8, high=6.0, relu=True)
    joined = tf.concat([net.new_h, hidden], 1, name="joined")
    output = dense(joined, 5, name="after", seed=5)
    ends = [x], [output], net.states
    refused(
        trained(open_session()), "The op 'joined' joins more than one", *ends
    )
    agrees("int16x8", *ends)


@both_forms
def test_softmax_into_a_cell(agrees, form):
    x = placeholder("x", 6)
    share = tf.nn.softmax(dense(hidden_range(x), 5))
    net = Net(tf.concat([x, share], 1))
    agrees(form, [x], [net.new_h], net.states)


@both_forms
def test_concatenation_with_a_range_of_its_own(agrees, form):
    x = placeholder("x", 6)
    net = Net(x)
    hidden = dense(net.new_h, 8, high=2.0, relu=True)
    joined = rounded_to(tf.concat([net.new_h, hidden], 1), -2, 2)
    agrees(form, [x], [dense(joined, 5, name="after")], net.states)


def test_layer_on_the_cell_state(agrees, open_session):
    x = placeholder("x", 6)
    net = Net(x)
    output = dense(net.new_c, 5)
    ends = [x], [output], net.states
    refused(
        trained(open_session()),
        "'dense/product' of type MatMul must have operands of 8 bits",
        *ends,
    )
    agrees("int16x8", *ends)


@both_forms
def test_constant_added_to_16_bits(agrees, form):
    x = placeholder("x", 6)
    net = Net(x)
    shift = tf.constant(np.linspace(-1, 1, 8)[None], tf.float32)
    output = rounded_to(net.new_c + shift, -16, 16 * 32767 / 32768, num_bits=16)
    agrees(form, [x], [output], net.states, steps=25, equal=0.3)


@both_forms
def test_unrolled_from_the_zero_state(agrees, form):
    xs = [placeholder(f"x{number}", 6) for number in range(3)]
    cell = WeightDropLSTMCell(8, is_quant=True, is_train=False)
    outputs, _ = tf.nn.static_rnn(cell, xs, dtype=tf.float32)
    agrees(form, xs, [outputs[-1]], [], steps=3)


@both_forms
def test_state_in_one_tensor(agrees, form):
    x = placeholder("x", 6)
    net = Net(x)
    joined = dense(tf.concat([net.new_h[:, :4], net.new_h[:, 4:]], 1), 5)
    agrees(form, [x], [joined], net.states)


@both_forms
def test_relu_on_its_own(agrees, form):
    x = placeholder("x", 6)
    net = Net(x)
    output = rounded_to(tf.nn.relu(net.new_h), 0, 1)
    agrees(form, [x], [output], net.states)


@both_forms
def test_sigmoid_of_any_range(agrees, form):
    x = placeholder("x", 6)
    net = Net(x)
    output = rounded_to(tf.sigmoid(net.new_h), 0, 1)
    # In uint8 rounded to 1/256, then to 1/255.
    agrees(form, [x], [output], net.states, equal=0.4)


@both_forms
@pytest.mark.parametrize("combine", [tf.add, tf.subtract, tf.multiply])
def test_residual_connections(agrees, form, combine):
    x = placeholder("x", 8)
    net = Net(x)
    output = rounded_to(combine(net.new_h, hidden_range(x)), -2, 2)
    agrees(form, [x], [output], net.states)


@both_forms
def test_batch_of_three_with_everything(agrees, form):
    x = placeholder("x", 6, batch=3)
    net = Net(
        x,
        batch=3,
        use_peepholes=True,
        cell_clip=1.3,
        num_proj=5,
        proj_clip=0.3,
    )
    agrees(form, [x], [net.new_h], net.states)


def test_table_of_any_range_in_int16x8(agrees):
    ids = tf.placeholder(tf.int32, [1], name="ids")
    table = tf.get_variable(
        "table", [30, 8], initializer=tf.random_uniform_initializer(0, 2)
    )
    found = rounded_to(tf.gather(table, ids), 0, 2)
    net = Net(found)
    output = dense(found, 5)
    agrees("int16x8", [ids], [output], net.states, {"ids": 30})


# ---------------------------------------------------------------------------
# What must not be frozen in


@pytest.mark.parametrize(
    "form, match",
    [
        (dict(auto_update=True), "Random.* is random.*is_train=False"),
        (dict(), "The mask '.*mask.*' would be frozen"),
        (dict(use_vd=False), "Random.* is random"),
        (dict(weight_drop_kr=1.0), "of type Assign.* changes a variable"),
    ],
    ids=str,
)
@pytest.mark.parametrize("known", [True, False])
def test_training_cells_are_refused(open_session, form, match, known):
    form = dict(dict(weight_drop_kr=0.5, use_vd=True), **form)
    is_train = True if known else tf.placeholder_with_default(False, [])
    x = placeholder("x", 6)
    cell = WeightDropLSTMCell(8, is_quant=True, is_train=is_train, **form)
    c, h = placeholder("c", 8), placeholder("h", 8)
    _, (new_c, new_h) = cell(x, (c, h))
    session = trained(open_session())
    kernel = session.run(cell.weights[0])
    refused(session, match, [x], [new_h], [(c, new_c), (h, new_h)])
    assert (session.run(cell.weights[0]) == kernel).all()


def test_dropout_behind_an_output_is_refused(open_session):
    x = placeholder("x", 6)
    net = Net(x)
    output = rounded_to(tf.nn.dropout(net.new_h, 0.5) + net.new_h, -4, 4)
    refused(
        trained(open_session()),
        "The op 'dropout/.*' of type RandomUniform is random",
        [x],
        [output],
        net.states,
    )


def test_data_of_a_pipeline_is_refused(open_session):
    x = placeholder("x", 6)
    net = Net(x)
    data = tf.data.Dataset.from_tensors(np.ones([1, 8], np.float32)).repeat()
    value = data.make_one_shot_iterator().get_next()
    output = rounded_to(net.new_h + hidden_range(value), -2, 2)
    refused(
        trained(open_session()),
        "of type IteratorGetNext gives another value in each run",
        [x],
        [output],
        net.states,
    )


def test_defaults_of_placeholders_are_refused(open_session):
    x = placeholder("x", 6)
    net = Net(x)
    scale = tf.placeholder_with_default(np.ones([1, 8], np.float32), [1, 8])
    output = rounded_to(net.new_h * hidden_range(scale), -1, 1)
    refused(
        trained(open_session()),
        "'PlaceholderWithDefault' is missing",
        [x],
        [output],
        net.states,
    )


@needs_contrib
def test_training_graph_of_the_rewriter_is_refused(open_session):
    x = placeholder("x", 6)
    net = Net(x)
    logits = tf.layers.dense(net.new_h, 3)
    tf.contrib.quantize.create_training_graph(quant_delay=0)
    refused(
        trained(open_session()),
        "changes a variable.*create_eval_graph",
        [x],
        [logits],
        net.states,
    )


# ---------------------------------------------------------------------------
# Bad input


@both_forms
def test_zero_kernel_is_refused(open_session, form):
    x = placeholder("x", 6)
    net = Net(x)
    session = trained(open_session())
    kernel = net.cell.weights[0]
    kernel.load(np.zeros(kernel.shape.as_list()), session)
    refused(session, "weights .* are all zero", [x], [], net.states, form=form)


@pytest.mark.parametrize("size", [1e-5, 1e-8])
def test_bias_that_overflows(open_session, size):
    x = placeholder("x", 6)
    net = Net(x)
    tiny = tf.constant(np.full([8, 3], size), tf.float32)
    tiny = rounded_to(tiny, -size, size, narrow_range=True)
    product = tf.matmul(net.new_h, tiny, name="product")
    bias = tf.constant([1.0, 2.0, 3.0], name="bias")
    output = rounded_to(tf.nn.bias_add(product, bias), -4, 4)
    session = trained(open_session())
    ends = [x], [output], net.states
    if size < 1e-6:
        for form in FORMS:
            refused(session, "'product' .* too small", *ends, form=form)
        return
    refused(session, "'product' overflows 32 bits, with its bias 'bias'", *ends)
    assert tflite.convert(session, *ends, form="int16x8")


def test_range_without_0_is_refused(open_session):
    x = placeholder("x", 6)
    net = Net(x)
    low, high = tf.constant(0.5), tf.constant(2.0)
    output = tf.fake_quant_with_min_max_vars(
        net.new_h + net.new_h, low, high, name="high"
    )
    refused(
        trained(open_session()),
        r"'high' must hold 0, got \[0.5, 2.0\]",
        [x],
        [output],
        net.states,
    )


def test_float16_and_unknown_batches_are_refused(open_session):
    x = placeholder("x", 6)
    net = Net(x)
    session = trained(open_session())
    half = tf.placeholder(tf.float16, [1, 6], name="half")
    with pytest.raises(TypeError, match="'half' of float16"):
        tflite.convert(session, [half], [net.new_h], net.states)
    free = tf.placeholder(tf.float32, [None, 6], name="free")
    refused(session, "'free' of shape", [free], [net.new_h], net.states)


def test_products_of_activations_are_refused(open_session):
    x = placeholder("x", 6)
    net = Net(x)
    output = rounded_to(
        tf.matmul(net.new_h, tf.reshape(net.new_h, [8, 1])), -8, 8
    )
    refused(
        trained(open_session()),
        "must multiply by weights|have no range",
        [x],
        [output],
        net.states,
    )


@pytest.mark.parametrize(
    "arguments, error",
    [
        (dict(form="int8"), "`form` must be 'uint8' or 'int16x8', got 'int8'"),
        (dict(check=1), "`check` must be True or False"),
    ],
    ids=str,
)
def test_arguments_are_checked(open_session, arguments, error):
    x = placeholder("x", 6)
    net = Net(x)
    with pytest.raises((TypeError, ValueError), match=error):
        tflite.convert(
            trained(open_session()), [x], [], net.states, **arguments
        )


# ---------------------------------------------------------------------------
# The check


@pytest.fixture
def spoil(monkeypatch):
    """Has models changed after they are made."""

    def change(function):
        def lower_wrongly(form):
            def lower(graph):
                lowered = form(graph)
                function(lowered.model)
                return lowered

            return lower

        for name, form in list(_integer_forms.FORMS.items()):
            monkeypatch.setitem(_integer_forms.FORMS, name, lower_wrongly(form))

    return change


@both_forms
def test_wrong_models_are_not_returned(open_session, form, spoil):
    x = placeholder("x", 6)
    net = Net(x)
    session = trained(open_session())

    def swap_gates(model):
        (split,) = [op for op in model.operators if op.kind == "SPLIT"]
        split.outputs.reverse()

    spoil(swap_gates)
    ends = [x], [], net.states
    match = "The output '.*' of the model is up to .* steps of .* off"
    refused(session, match, *ends, form=form)
    assert tflite.convert(session, *ends, form=form, check=False)


def test_models_that_do_not_load_are_not_returned(open_session, spoil):
    x = placeholder("x", 6)
    net = Net(x)

    def drop_an_operand(model):
        (product,) = [
            op for op in model.operators if op.kind == "FULLY_CONNECTED"
        ]
        product.inputs[1].shape = [1, 1]

    spoil(drop_an_operand)
    match = "interpreter does not load the model, it said: "
    refused(trained(open_session()), match, [x], [], net.states)


def test_softmax_of_wide_logits_is_not_returned(open_session):
    # TFLite's 16-bit softmax takes exp(-10) for all that is less.
    x = placeholder("x", 6)
    net = Net(x)
    logits = dense(net.new_h, 400, low=-60, high=59.5)
    logits = rounded_to(logits * tf.constant(15.0), -60, 59.5)
    refused(
        trained(open_session()),
        "'Softmax' of the model is .*put out the logits instead",
        [x],
        [logits, tf.nn.softmax(logits)],
        net.states,
        form="int16x8",
    )


def test_loss_of_asymmetric_weights_is_told(open_session):
    x = placeholder("x", 6)
    net = Net(x)
    product = tf.matmul(net.new_h, weights(8, 5, low=-0.6))
    output = rounded_to(product, -1, 1, name="rounded")
    session = trained(open_session())
    with pytest.warns(UserWarning, match="equal to the graph's.*symmetric"):
        tflite.convert(session, [x], [output], net.states, form="int16x8")
