"""An integer model beside the session's graph: how far its outputs are off.

What is allowed, in steps of the output's grid, on random inputs and states:

- an output of 8 bits: as many as there are roundings to 8 bits on the way: 1
  for `h`, 2 with a projection, 1 for a dense layer on `h`, 2 for one on that;
- one of 16 bits, such as `c`: 20, which is about one step of `h`, and 32 more
  for each rounding to 8 bits before;
- a softmax of 16 bits: 20, and half of what its logits may be off.

"On the way" is from inputs, states and other outputs: each output is compared
given the others.
"""

import collections
import warnings

import numpy as np

from awd_lstm_tf import _integer_arithmetic

_DRAWS = 8

# TFLite's 16-bit logistic is off by up to 6.4 of its steps of 2**-15, tanh by
# twice that, and `c`, which a forget gate is multiplied with, by 20 of its own.
_STEPS_OF_16_BITS = 20
_STEPS_OF_16_BITS_MORE = 32

Agreement = collections.namedtuple("Agreement", "name grid equal largest")
Agreement.__doc__ = """How one output compares.

Attributes:
  name: of the output.
  grid: that it is on.
  equal: share of its integers that are the graph's.
  largest: difference there is, in steps of the grid.
"""


def check(graph, lowered, content):
    """Checks that a model computes what the session's graph computes.

    Args:
      graph: `IntegerGraph`.
      lowered: its `Lowering`.
      content: bytes of the model.

    Raises:
      ValueError: naming the output that is off.
    """
    runs = {
        "awd_lstm_tf": lambda ins: _integer_arithmetic.run(lowered.model, ins)
    }
    interpreter = _interpreter(lowered.model.form, content)
    if interpreter is not None:
        runs["TFLite"] = interpreter
    allowed = _allowed(lowered.model)
    for name in sorted(runs):
        for found, limit in zip(compare(graph, lowered, runs[name]), allowed):
            if found.largest > limit:
                raise ValueError(_sentence(lowered.model, found, limit, name))
    if graph.changed:
        found = compare(graph, lowered, runs[max(runs)], changed=False)
        _tell_loss(graph, found)


def _sentence(model, found, limit, runtime):
    kinds = [each.kind for each in model.operators]
    if "SOFTMAX" in kinds and found.name in _names(_behind(model, "SOFTMAX")):
        cause = (
            "TFLite's 16-bit softmax takes all that is 10 below the largest "
            "logit for 10 below: put out the logits instead"
        )
    else:
        cause = (
            f"computed with integers by {runtime}, an op before it comes out "
            "otherwise than with floats, mostly for a range that is far too "
            "wide or too narrow for its values: train the ranges on real inputs"
        )
    return (
        f"The output '{found.name}' of the model is up to {found.largest} "
        f"steps of {found.grid} off the graph's ({found.equal:.1%} of it is "
        f"equal), where at most {limit} are allowed: {cause}; or pass "
        "`check=False` and compare yourself."
    )


def _names(tensors):
    return {tensor.name for tensor in tensors}


def _behind(model, kind):
    """Outputs that an operator of some kind has put out."""
    for operator in model.operators:
        if operator.kind == kind:
            for output in operator.outputs:
                yield output


def _tell_loss(graph, agreements):
    weights = ", ".join(
        "'" + name.split(":")[0] + "'" for name in sorted(graph.changed)
    )
    off = "; ".join(
        f"'{each.name}' is {each.equal:.1%} equal to the graph's, and at most "
        f"{each.largest} steps off"
        for each in agreements
        if each.largest
    )
    if off:
        warnings.warn(
            f"int16x8 has no zero point for weights, and {weights} were "
            f"trained with one: {off}. For no such loss, train with "
            "tf.contrib.quantize.experimental_create_training_graph("
            "symmetric=True).",
            stacklevel=4,
        )


def _interpreter(form, content):
    """A function that runs the model in TFLite; None if this one cannot."""
    from awd_lstm_tf import _versions

    lite = _versions.tflite_module(form)
    if lite is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it will move elsewhere
            interpreter = lite.Interpreter(model_content=content)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "TFLite's interpreter does not load the model, it said: "
            f"{str(error).strip()}: leave out the op that it names, or convert "
            'with the other of form="uint8" and form="int16x8".'
        ) from error
    inputs = [each["index"] for each in interpreter.get_input_details()]
    outputs = [each["index"] for each in interpreter.get_output_details()]

    def run(values):
        for index, value in zip(inputs, values):
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return run


# ---------------------------------------------------------------------------
# How far off an output may be

_ROUNDING = {"ADD", "FULLY_CONNECTED", "LOGISTIC", "MUL", "SOFTMAX", "SUB"}
_ROUNDING |= {"TANH", "CONCATENATION"}


def _allowed(model):
    """Steps that each output may be off."""
    outputs = {id(tensor): tensor for tensor in model.outputs}
    roundings, allowed = {}, {}
    for operator in model.operators:
        before = max(roundings.get(id(each), 0) for each in operator.inputs)
        for tensor in operator.outputs:
            count = before + _rounds(operator, tensor)
            if id(tensor) in outputs:
                allowed[id(tensor)] = _steps(operator, tensor, count)
                count = 0  # the others are compared given this one
            roundings[id(tensor)] = count
    return [allowed.get(id(tensor), 0) for tensor in model.outputs]


def _rounds(operator, tensor):
    if operator.kind not in _ROUNDING or tensor.grid is None:
        return False
    if operator.kind in ("ADD", "SUB", "CONCATENATION"):
        exact = all(each.scale == tensor.scale for each in operator.inputs)
        return tensor.grid.bits == 8 and not exact
    return tensor.grid.bits == 8


def _steps(operator, tensor, count):
    if tensor.grid.bits == 8:
        return max(1, count)
    more = _STEPS_OF_16_BITS_MORE
    if operator.kind == "SOFTMAX":
        more = 0.5 * operator.inputs[0].scale / tensor.scale
    return _STEPS_OF_16_BITS + int(more * count)


# ---------------------------------------------------------------------------
# Running both


def compare(graph, lowered, run, draws=_DRAWS, changed=True):
    """Runs the model and the graph on the same random inputs and states.

    Each output is compared given the others: where one is computed from
    another, such as the logits from `h`, the graph computes it from the
    model's. So differences do not add up from layer to layer.

    Args:
      graph: `IntegerGraph`.
      lowered: its `Lowering`.
      run: function that runs the model: list of integer arrays, in and out.
      draws: how often.
      changed: whether the graph gets the weights that the form had to change.

    Returns:
      A list of `Agreement`s, one for each output.
    """
    random = np.random.RandomState(0)
    off = [[] for _ in graph.outputs]
    for number in range(draws):
        inputs = [
            _drawn(graph, lowered, tensor, random, zero_states=number == 0)
            for tensor in lowered.model.inputs
        ]
        outputs = run(inputs)
        feed = graph.feed(
            _reals(tensor, value)
            for tensor, value in zip(lowered.model.inputs, inputs)
        )
        if changed:
            feed.update(graph.changed)
        reals = [
            _reals(tensor, value)
            for tensor, value in zip(lowered.model.outputs, outputs)
        ]
        for place, output in enumerate(graph.outputs):
            made = lowered.model.outputs[place]
            given = _others(graph.outputs, reals, place)
            value = graph.session.run(output, dict(given, **feed))
            expected = made.grid.integers(value)
            found = outputs[place].astype(np.int64) - made.zero_point
            off[place].append(np.abs(found - expected))
    return [
        Agreement(
            output.op.name,
            made.grid,
            float(np.mean(np.equal(each, 0))),
            int(np.max(each)),
        )
        for output, made, each in zip(graph.outputs, lowered.model.outputs, off)
    ]


def _drawn(graph, lowered, tensor, random, zero_states):
    (end,) = (end for end in graph.ends.values() if end.op.name == tensor.name)
    if tensor.grid is None:
        rows = lowered.rows.get(end.name, 1)
        return random.randint(0, rows, tensor.shape).astype(tensor.kind)
    is_state = any(end.name == old.name for old, _ in graph.states)
    low, high = tensor.grid.lowest, tensor.grid.highest
    if is_state and zero_states:
        drawn = np.zeros(tensor.shape)
    elif tensor.grid.bits == 16:
        # As cell states are: most of them small.
        drawn = random.normal(0, (high - low) / 16, tensor.shape)
    elif is_state:
        drawn = random.randint(low, high + 1, tensor.shape)
    else:
        # Beyond the range, too, if the type holds that.
        more = (high - low) // 8
        drawn = random.randint(low - more, high + more + 1, tensor.shape)
    limits = np.iinfo(tensor.kind)
    if is_state:
        drawn = np.clip(drawn, low, high)
    drawn = np.round(drawn) + tensor.zero_point
    return np.clip(drawn, limits.min, limits.max).astype(tensor.kind)


def _reals(tensor, value):
    if tensor.grid is None:
        return value
    integers = value.astype(np.int64) - tensor.zero_point
    # An input is clipped to its grid, by its type or by operators.
    integers = np.clip(integers, tensor.grid.lowest, tensor.grid.highest)
    return tensor.grid.reals(integers)


def _source(tensor):
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor.name


def _others(outputs, reals, place):
    """What to feed for the outputs that are not the one at `place`."""
    own = _source(outputs[place])
    return {
        _source(output): value
        for output, value in zip(outputs, reals)
        if _source(output) != own
    }
