"""No random net of a user's kind becomes a model that is returned and wrong.

Each net is converted or refused with a sentence; what is converted is run in an
interpreter beside the fake-quant graph.
"""

import collections
import warnings

import beside_graph
import pytest
import random_nets
import runtimes
import tensorflow as tf

from awd_lstm_tf import tflite

# Of the largest difference there may be. From layer to layer differences of one
# step add up; wrong models are off by dozens, and in most of their integers.
STEPS = {8: 4, 16: 150}
EQUAL = 0.5

SEEDS = 240


@pytest.fixture
def convert(open_session):
    """Converts the net of a seed; None and the sentence where it is refused."""

    def convert_one(seed, form):
        tf.reset_default_graph()
        net = random_nets.Builder(seed).build()
        session = open_session()
        session.run(tf.global_variables_initializer())
        # int16x8 has no exact form of others; test_tflite.py has its loss.
        random_nets.set_ranges(session, seed, symmetric=form == "int16x8")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # loss is told
                content = tflite.convert(
                    session, net.inputs, net.outputs, net.states, form=form
                )
        except ValueError as error:
            session.close()
            return None, str(error)
        return (session, net, content), None

    return convert_one


def compared(converted, run_tflite, python):
    session, net, content = converted
    ends = net.inputs + [old for old, _ in net.states]
    outputs = net.outputs + [new for _, new in net.states]
    rows = [net.rows.get(end.op.name) for end in ends]
    wanted, drawn = [], []

    def draw(model):
        for values in beside_graph.draws(model, 12, rows):
            drawn.append(values)
            wanted.append(
                beside_graph.expected(session, model, ends, outputs, values)
            )
        return drawn

    found = runtimes.run_draws(run_tflite, python, content, draw)
    session.close()
    return beside_graph.differences(wanted, found, outputs), outputs


def check(seeds, form, convert, run_tflite, python):
    refusals, right, wrong = collections.Counter(), 0, []
    for seed in seeds:
        converted, sentence = convert(seed, form)
        if converted is None:
            refusals[sentence] += 1
            continue
        found, outputs = compared(converted, run_tflite, python)
        for each, output in zip(found, outputs):
            bits = 8 if is_8_bits(output) else 16
            if each.steps > STEPS[bits] or bits == 8 and each.equal < EQUAL:
                wrong.append((seed, each))
        right += 1
    assert not wrong
    for sentence in refusals:
        assert "'" in sentence and ": " in sentence, sentence
    return right, refusals


def is_8_bits(output):
    op = beside_graph.rounded(output).op
    if not op.type.startswith("FakeQuant"):
        return False
    return op.get_attr("num_bits") == 8


@pytest.mark.parametrize("form", ["uint8", "int16x8"])
def test_some_random_nets(convert, example, form):
    run_tflite = example("run_tflite")
    python = runtimes.for_form(form)
    right, refusals = check(range(8), form, convert, run_tflite, python)
    assert right >= 3, refusals


@pytest.mark.slow
@pytest.mark.parametrize("form", ["uint8", "int16x8"])
def test_many_random_nets(convert, example, form):
    run_tflite = example("run_tflite")
    python = runtimes.for_form(form)
    right, refusals = check(range(SEEDS), form, convert, run_tflite, python)
    print(f"{form}: {right} right, {sum(refusals.values())} refused")
    assert right >= 0.35 * SEEDS, refusals
