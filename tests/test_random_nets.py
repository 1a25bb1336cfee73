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
from versions import tf

from awd_lstm_tf import tflite

# Of the largest difference there may be. From layer to layer differences of one
# step add up; wrong models are off by dozens, and in most of their integers.
STEPS = {"8 bits": 4, "16 bits": 150}
SOFTMAX = 0.02
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


class Comparison(object):
    """What a graph puts out for draws, and what it came to in a model.

    Each output is compared given the others: the graph computes the logits from
    the `h` that the model put out. One step of rounding in a first layer may be
    many in a later one, and no layer is wrong.
    """

    def __init__(self, session, net):
        self.session, self.net = session, net
        self.ends = net.inputs + [old for old, _ in net.states]
        self.outputs = net.outputs + [new for _, new in net.states]

    def draw(self, model):
        rows = [self.net.rows.get(end.op.name) for end in self.ends]
        self.model = model
        self.drawn = list(beside_graph.draws(model, 12, rows))
        return self.drawn

    def wrong(self, found):
        """The outputs that are further off than they may be."""
        wanted = [
            [
                beside_graph.expected_given(
                    self.session,
                    self.model,
                    self.ends,
                    self.outputs,
                    values,
                    each,
                    number,
                )
                for number in range(len(self.outputs))
            ]
            for values, each in zip(self.drawn, found)
        ]
        self.session.close()
        return [
            each
            for each, output, end in zip(
                beside_graph.differences(wanted, found, self.outputs),
                self.outputs,
                self.model.outputs,
            )
            if not is_right(each, output, end["scale"])
        ]


def check(seeds, form, convert, run_tflite, python):
    """Asserts that none is wrong; number of right ones, and all refusals."""
    refusals, made = collections.Counter(), {}
    for seed in seeds:
        converted, sentence = convert(seed, form)
        if converted is None:
            assert "'" in sentence and ": " in sentence, sentence
            refusals[sentence.split("'")[0]] += 1
        else:
            session, net, content = converted
            made[seed] = Comparison(session, net), content
    comparisons, contents = zip(*made.values())
    found = runtimes.run_draws(
        run_tflite,
        python,
        contents,
        lambda number, model: comparisons[number].draw(model),
    )
    wrong = {
        seed: comparison.wrong(each)
        for seed, comparison, each in zip(made, comparisons, found)
    }
    assert not any(wrong.values()), wrong
    return len(made), refusals


def is_right(difference, output, scale):
    op = beside_graph.rounded(output).op
    if op.type == "Softmax":
        return difference.steps * scale <= SOFTMAX
    bits = op.get_attr("num_bits")
    if difference.steps > STEPS[f"{bits} bits"]:
        return False
    return bits == 16 or difference.equal >= EQUAL


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
