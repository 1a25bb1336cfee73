"""An exported model beside the fake-quant graph it came from.

Knows the graph and TFLite's interpreters, and nothing of the code under test.
"""

import collections

import numpy as np

Difference = collections.namedtuple("Difference", "name steps equal")


def rounded(tensor):
    """What comes out of the fake quant that a tensor goes into, if any."""
    if not tensor.op.type.startswith("FakeQuant"):
        for user in tensor.consumers():
            if user.type.startswith("FakeQuantWithMinMax"):
                return user.outputs[0]
    return tensor


def draws(model, count, rows, seed=0):
    """Random integers for all inputs, `count` times; the first states are 0.

    Args:
      model: one of run_tflite.py's, which knows the ends of the model.
      rows: for inputs that are ids, how many there are; None for the others.
    """
    random = np.random.RandomState(seed)
    for number in range(count):
        values = []
        for end, limit in zip(model.inputs, rows):
            if limit is not None:
                drawn = random.randint(0, limit, end["shape"])
            elif end["dtype"] == "uint8":
                drawn = random.randint(0, 256, end["shape"])
            elif number == 0:
                drawn = np.zeros(end["shape"])
            elif end["scale"] > 2.0**-11:  # 8 bits in 16
                drawn = random.randint(-128, 128, end["shape"])
            else:
                drawn = random.normal(0, 4000, end["shape"])
            values.append(np.round(drawn).astype(end["dtype"]))
        yield values


def reals(end, values):
    if not end["scale"]:
        return values
    return (values.astype(np.float64) - end["zero_point"]) * end["scale"]


def expected(session, model, ends, outputs, drawn):
    """What the graph puts out, as integers of the model's outputs."""
    feed = {
        end: reals(described, values)
        for end, described, values in zip(ends, model.inputs, drawn)
    }
    values = session.run([rounded(output) for output in outputs], feed)
    return [
        np.round(value / described["scale"]) + described["zero_point"]
        for value, described in zip(values, model.outputs)
    ]


def expected_given(session, model, ends, outputs, drawn, found, number):
    """One output of the graph, given what the model found for the others."""
    feed = {
        end.name: reals(described, values)
        for end, described, values in zip(ends, model.inputs, drawn)
    }
    own = rounded(outputs[number]).name
    for output, described, values in zip(outputs, model.outputs, found):
        if rounded(output).name != own:
            feed[rounded(output).name] = reals(described, values)
    described = model.outputs[number]
    value = session.run(rounded(outputs[number]), feed)
    return np.round(value / described["scale"]) + described["zero_point"]


def differences(wanted, found, outputs):
    """How far off each output is; both are lists by draw, then by output."""
    result = []
    for number, output in enumerate(outputs):
        off = np.abs(
            np.array([each[number] for each in wanted])
            - np.array([each[number] for each in found])
        )
        result.append(
            Difference(output.op.name, int(off.max()), np.mean(off == 0))
        )
    return result
