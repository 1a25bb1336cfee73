"""Exported models in today's runtimes: against integers, against fake quant.

They run in Pythons of their own, which `make runtimes` sets up; without those
the tests are skipped.

How the runtimes round, which is what is found here:

| | product of matrices | 16-bit logistic and tanh | bit for bit |
|---|---|---|---|
| int16x8, ai-edge-litert and tflite-runtime | halves up | fixed point | yes |
| int16x8, tflite-micro | halves up | a table, within 1 of 2**-15 | no |
| uint8, ai-edge-litert | twice | fixed point | no |
| uint8, tflite-runtime | twice | fixed point | no |

"No": from equal states, `h` is within 1 step of the reference, and `c` within
8, since a peephole multiplies a rounding of its product by 4.
"""

import functools
import os
import sys

import beside_graph
import integer_reference
import numpy as np
import pytest
import quantized_steps
import runtimes
import versions
from versions import tf

from awd_lstm_tf import WeightDropLSTMCell, tflite

EXACT = [
    ("int16x8", "ai-edge-litert"),
    ("int16x8", "tflite-runtime"),
]
NEAR = [
    ("int16x8", "tflite-micro"),
    ("uint8", "ai-edge-litert"),
    ("uint8", "tflite-runtime"),
]
CELLS = {
    "plain": dict(),
    "wide": dict(depth=64, units=64, scale=0.2),
    "wild": dict(units=32, scale=2.0),
    "peepholes": dict(use_peepholes=True),
    "projection": dict(depth=20, units=32, scale=0.2, num_proj=16),
    "all": dict(use_peepholes=True, cell_clip=1.3, num_proj=5, proj_clip=0.3),
    "batch": dict(depth=32, units=32, scale=0.2, batch=3),
}
slow = pytest.mark.slow
# Of run_tflite.py. The first alone, for 200 steps, is in the normal suite.
OPTIONS = [
    pytest.param((), 200),
    pytest.param((), 2000, marks=slow),
    pytest.param(("--threads=2",), 2000, marks=slow),
    pytest.param(("--no-delegate",), 2000, marks=slow),
]
FEW = [
    pytest.param(name, marks=() if name == "all" else slow) for name in CELLS
]


@pytest.fixture
def make_step(open_session):
    return functools.partial(quantized_steps.make, open_session, on_grid=True)


@pytest.fixture
def run_tflite(example):
    return example("run_tflite")


def convert(step, form):
    return tflite.convert(
        step.session,
        [step.inputs],
        [],
        [(step.h, step.new_h), (step.c, step.new_c)],
        form=form,
    )


def draw_inputs(step, form, steps):
    low = 0 if form == "uint8" else -128
    shape = [steps] + step.inputs.shape.as_list()
    return np.random.RandomState(5).randint(low, low + 256, shape)


def reference(step, form, name):
    if form == "uint8":
        return quantized_steps.reference(step, integer_reference.IntegerLSTM)
    return quantized_steps.reference(
        step,
        integer_reference.IntegerLSTM16,
        halves_up=(True, True),
        kernels="rounded" if name == "tflite-micro" else "fixed point",
    )


@pytest.mark.parametrize("form, name", EXACT)
@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("options, steps", OPTIONS)
def test_runtime_is_the_integer_reference(
    make_step, run_tflite, form, name, cell, options, steps
):
    step = make_step(**CELLS[cell])
    fed = draw_inputs(step, form, steps)
    content = convert(step, form)
    hs, cs = runtimes.run_steps(run_tflite, name, content, fed, *options)
    expected = reference(step, form, name)
    h, c = np.zeros_like(hs[0]), np.zeros_like(cs[0])
    for inputs, found_h, found_c in zip(fed, hs, cs):
        h, c = expected.step(inputs, h, c)
        assert (found_h == h).all() and (found_c == c).all()


@pytest.mark.parametrize("form, name", NEAR)
@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("options, steps", OPTIONS)
def test_runtime_is_near_the_integer_reference(
    make_step, run_tflite, form, name, cell, options, steps
):
    if options and name == "tflite-micro":
        pytest.skip("tflite-micro has neither threads nor delegates")
    step = make_step(**CELLS[cell])
    fed = draw_inputs(step, form, steps)
    content = convert(step, form)
    hs, cs = runtimes.run_steps(run_tflite, name, content, fed, *options)
    expected = reference(step, form, name)
    h, c = np.zeros_like(hs[0]), np.zeros_like(cs[0])
    if form == "uint8":
        h = h + 128
    for inputs, found_h, found_c in zip(fed, hs, cs):
        h, c = expected.step(inputs.astype(h.dtype), h, c)
        assert np.abs(found_h.astype(int) - h).max() <= 1
        assert np.abs(found_c.astype(int) - c).max() <= 8
        h, c = found_h, found_c


@pytest.mark.parametrize("form, name", EXACT + NEAR)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=slow)])
@pytest.mark.parametrize("cell", FEW)
def test_one_step_beside_fake_quant(
    make_step, run_tflite, form, name, cell, seed
):
    step = make_step(seed=seed, **CELLS[cell])
    ends, outputs = [step.inputs, step.h, step.c], [step.new_h, step.new_c]
    hs, cs = beside(run_tflite, name, step.session, form, ends, outputs)
    assert hs.steps <= (1 if step.cell._num_proj is None else 2)
    assert cs.steps <= 20


@pytest.mark.slow
@pytest.mark.parametrize("form, name", EXACT + NEAR)
@pytest.mark.parametrize("seed", range(6))
def test_two_layers_beside_fake_quant(
    open_session, run_tflite, form, name, seed
):
    random = tf.random_normal_initializer(0, 0.3, seed=seed)
    cells = [
        WeightDropLSTMCell(
            units, is_quant=True, is_train=False, initializer=random, name=name
        )
        for name, units in (("first", 16), ("second", 12))
    ]
    x = tf.placeholder(tf.float32, [1, 6], name="x")
    states, hidden = [], x
    for cell in cells:
        old = [
            tf.placeholder(tf.float32, [1, cell.output_size]) for _ in range(2)
        ]
        # The second takes what the first put out a step before, so that each
        # is one step from equal states.
        _, new = cell(hidden, old)
        states += list(zip(old, new))
        hidden = old[1]
    session = open_session()
    session.run(tf.global_variables_initializer())
    for cell in cells:
        quantized_steps.set_ranges(session, cell)
    ends = [x] + [old for old, _ in states]
    outputs = [new for _, new in states]
    found = beside(run_tflite, name, session, form, ends, outputs)
    for c, h in (found[:2], found[2:]):
        assert h.steps <= 1
        assert c.steps <= 20


def beside(run_tflite, name, session, form, ends, outputs, count=60):
    """How far a runtime is from the graph, from the same random states."""
    (x, *old), wanted, drawn = ends, [], []
    content = tflite.convert(
        session, [x], [], list(zip(old, outputs)), form=form
    )

    def draw(_, model):
        for values in beside_graph.draws(model, count, [None] * len(ends)):
            drawn.append(values)
            wanted.append(
                beside_graph.expected(session, model, ends, outputs, values)
            )
        return drawn

    python = runtimes.python(name)
    (found,) = runtimes.run_draws(run_tflite, python, [content], draw)
    return beside_graph.differences(wanted, found, outputs)


@pytest.mark.slow
@pytest.mark.parametrize("depth, units", [(32, 128), (200, 256), (650, 650)])
def test_int16x8_is_no_slower_than_uint8(
    make_step, run_tflite, depth, units, monkeypatch
):
    sizes = dict(depth=depth, units=units, scale=0.05)
    step = make_step(**sizes)
    models = {form: convert(step, form) for form in ("int16x8", "uint8")}
    if versions.VERSION < (2,) and hasattr(tf, "lite"):
        # TensorFlow looks for its converter on PATH alone.
        folder = os.path.dirname(sys.executable)
        monkeypatch.setenv("PATH", folder, prepend=os.pathsep)
        models["float"] = of_floats(make_step(is_quant=False, **sizes))
    fed = draw_inputs(step, "int16x8", 100) / 128.0
    scale = {"int16x8": 128, "uint8": 128, "float": 1}
    offset = {"int16x8": 0, "uint8": 128, "float": 0}
    times = {
        form: runtimes.told(
            run_tflite,
            "ai-edge-litert",
            content,
            scale[form] * fed + offset[form],
            "--repeat=20",
        )["microseconds"]
        for form, content in models.items()
    }
    print(depth, units, {form: round(times[form], 1) for form in times})
    assert times["int16x8"] <= 1.05 * times["uint8"]


def of_floats(step):
    converter = tf.lite.TFLiteConverter.from_session(
        step.session,
        [step.inputs, step.h, step.c],
        [step.new_h, step.new_c],
    )
    return converter.convert()
