"""The part of a session's graph that becomes an integer-only model.

Between inputs and outputs there are ops; all else that leads into them, such
as variables and what is computed from them, is evaluated to constants.
"""

import collections

import numpy as np

from awd_lstm_tf import _frozen_in
from awd_lstm_tf._integer_grids import Grid, fake_quant_grid
from awd_lstm_tf._versions import tf

FAKE_QUANT = {"FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars"}
PASSING = {"Identity", "Reshape", "Squeeze", "ExpandDims"}  # same values
# Where a tensor's values come from, but for their order.
_REARRANGING = PASSING | {"Transpose", "Split", "SplitV", "Slice"}
_REARRANGING |= {"StridedSlice", "StopGradient"}
# Known from shapes alone, whatever goes in.
_OF_SHAPES = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}

# What both range variables hold before they are trained.
_UNTRAINED = {"kernel_quant": (0.0, 0.0), "weights_quant": (-6.0, 6.0)}


def _reach(starts, neighbours):
    found, todo = {}, list(starts)
    while todo:
        op = todo.pop()
        if op.name not in found:
            found[op.name] = op
            todo += neighbours(op)
    return found


def _producers(op):
    return [tensor.op for tensor in op.inputs] + list(op.control_inputs)


def _consumers(op):
    return [user for output in op.outputs for user in output.consumers()]


def _at_the_end(output):
    """The op that puts out, and fake quants that its output goes into."""
    yield output.op
    while True:
        for user in output.consumers():
            if user.type in FAKE_QUANT:
                yield user
        if output.op.type not in PASSING:
            break
        output = output.op.inputs[0]


class IntegerGraph(object):
    """The graph to convert: its ends, its constants, its grids.

    Tensors and ops are known by their names here: those of TensorFlow 2 cannot
    be told apart by `==`, nor be keys.

    Args:
      session: `tf.Session` that holds the variables' values.
      inputs: list of placeholders.
      outputs: list of tensors.
      states: list of (placeholder, tensor) pairs.

    Attributes:
      session, inputs, states: as given.
      outputs: those given, and the new states that are not among them.
      ends: inputs and old states, by name.
      changed: values that weights were changed to, by tensor's name.

    Raises:
      ValueError: naming the op that must not be frozen in, or the range.
    """

    def __init__(self, session, inputs, outputs, states):
        self.session = session
        self.inputs, self.states = list(inputs), list(states)
        self.outputs = list(outputs)
        names = {tensor.name for tensor in outputs}
        self.outputs += [new for _, new in states if new.name not in names]
        self.ends = {tensor.name: tensor for tensor in self.inputs}
        self.ends.update((old.name, old) for old, _ in self.states)
        ends = {tensor.op.name: tensor.op for tensor in self.ends.values()}
        behind = _reach(
            [op for tensor in self.outputs for op in _at_the_end(tensor)],
            lambda op: [] if op.name in ends else _producers(op),
        )
        _frozen_in.check(session.graph, ends, behind)
        ahead = _reach(
            ends.values(),
            lambda op: [
                user for user in _consumers(op) if user.type not in _OF_SHAPES
            ],
        )
        self._members = {name for name in behind if name in ahead} | set(ends)
        self._behind = behind
        self.changed, self._grids = {}, {}
        self._values = {}

    # -- Constants

    def is_constant(self, tensor):
        """Whether it is the same for all inputs."""
        return tensor.op.name not in self._members

    def value(self, tensor):
        """The value of a constant tensor."""
        if tensor.name not in self._values:
            self._values.update(self._run({tensor.name: tensor}))
        return self._values[tensor.name]

    def shape(self, tensor):
        """The tensor's shape, a list of ints."""
        if tensor.shape.is_fully_defined():
            return tensor.shape.as_list()
        return list(self._values[tensor.name + "/shape"])

    def feed(self, values):
        """What to feed for the values of inputs and of old states."""
        ends = self.inputs + [old for old, _ in self.states]
        return {end.name: value for end, value in zip(ends, values)}

    def evaluate(self):
        """Runs the session for the constants.

        Raises:
          ValueError: naming the range that was never trained, or weights that
            are not finite.
        """
        self._check_variables()
        self._values = self._evaluated()

    def _evaluated(self):
        fetches = {}
        for op in self._behind.values():
            if op.name in self._members:
                self._add_fetches(fetches, op)
            elif op.type in FAKE_QUANT:
                for tensor in op.inputs[1:]:
                    fetches[tensor.name] = tensor
        return self._run(fetches)

    def _run(self, fetches):
        # Of constants, only shapes depend on what is fed.
        ends = self.inputs + [old for old, _ in self.states]
        zeros = [
            np.zeros(end.shape.as_list(), end.dtype.as_numpy_dtype)
            for end in ends
        ]
        feed = dict(self.feed(zeros), **self.changed)
        values = self.session.run(fetches, feed)
        for name in [name for name in values if name.endswith("/shape")]:
            values[name] = np.shape(values[name])
        for name, value in values.items():
            _check_finite(name.split(":")[0], value)
        return values

    def _add_fetches(self, fetches, op):
        for tensor in op.inputs:
            if self.is_constant(tensor):
                fetches[tensor.name] = tensor
                if tensor.dtype == tf.resource:
                    fetches[tensor.name] = _read(tensor.op)
        for tensor in op.outputs:
            if not tensor.shape.is_fully_defined():
                fetches[tensor.name + "/shape"] = tensor

    def _check_variables(self):
        fetches = {
            name: _read(op)
            for name, op in self._behind.items()
            if op.type in ("VariableV2", "Variable", "VarHandleOp")
        }
        values = self.session.run(fetches) if fetches else {}
        for name in sorted(values):
            _check_finite(name, values[name])
            stem, _, end = name.rpartition("/")
            for ending, untrained in _UNTRAINED.items():
                if end == "max" and stem.endswith(ending):
                    low = values.get(stem + "/min", untrained[0])
                    _check_trained(name, (low, values[name]) != untrained)

    def members(self):
        """The ops between the ends, those that must become integer ops."""
        ends = {end.op.name for end in self.ends.values()}
        return [
            op
            for op in self.session.graph.get_operations()
            if op.name in self._members and op.name not in ends
        ]

    # -- Grids

    def grid_of(self, fake_quant):
        """The grid of a fake-quant op."""
        if fake_quant.name not in self._grids:
            self._grids[fake_quant.name] = self._find_grid(fake_quant)
        return self._grids[fake_quant.name]

    def _find_grid(self, fake_quant):
        op, narrow = fake_quant, fake_quant.get_attr("narrow_range")
        if op.type == "FakeQuantWithMinMaxArgs":
            low, high = op.get_attr("min"), op.get_attr("max")
        else:
            for tensor in op.inputs[1:]:
                if not self.is_constant(tensor):
                    raise ValueError(
                        f"The range of the fake quant '{op.name}' must be "
                        f"known, got '{tensor.op.name}', which depends on the "
                        "inputs: freeze it in a variable."
                    )
            low, high = (float(self.value(end)) for end in op.inputs[1:])
        return fake_quant_grid(
            op.name, low, high, op.get_attr("num_bits"), narrow
        )

    def make_weights_symmetric(self):
        """Gives weights that were trained with a zero point steps without one.

        They are then other weights, about as far from the trained ones as those
        are from floats. `changed` has them, by the name of the fake quant's
        output.
        """
        for op in self.members():
            if op.type == "MatMul" and self.is_constant(op.inputs[1]):
                self._make_symmetric(self.rounding_of(op.inputs[1]))
        if self.changed:
            self._values = self._evaluated()

    def _make_symmetric(self, rounding):
        if rounding is None or rounding.outputs[0].name in self.changed:
            return
        grid, rounded = self.grid_of(rounding), rounding.outputs[0]
        if grid.bits == 8 and grid.lowest != -grid.highest:
            values = self.value(rounded)
            largest = float(np.abs(values).max()) or 1.0
            grid = Grid(largest / 127, -127, 127)
            self.changed[rounded.name] = grid.reals(grid.integers(values))
            self._grids[rounding.name] = grid

    def rounding_of(self, tensor):
        """The fake-quant op that a constant's values come from; or None."""
        op = tensor.op
        while op.type in _REARRANGING:
            op = op.inputs[op.type == "Split"].op
        return op if op.type in FAKE_QUANT else None

    def grids_ahead(self, tensor):
        """The grids that fake quants ahead round an input to, by op name."""
        found = collections.OrderedDict()
        todo, seen = [tensor], set()
        while todo:
            for user in todo.pop(0).consumers():
                if user.name in seen or user.name not in self._behind:
                    continue
                seen.add(user.name)
                if user.type in FAKE_QUANT:
                    found[user.name] = self.grid_of(user)
                elif user.type in _REARRANGING | {"ConcatV2", "Pack", "Unpack"}:
                    todo += user.outputs
        return found


def _check_finite(name, value):
    # Fake quant makes a number of NaN.
    if np.issubdtype(np.asarray(value).dtype, np.floating):
        if not np.isfinite(value).all():
            raise ValueError(
                f"The weights '{name}' must be finite, got NaN or inf."
            )


def _check_trained(name, trained):
    if not trained:
        raise ValueError(
            f"The range '{name}' was never trained: train with "
            "`is_train=True` first, or restore such a checkpoint."
        )


def _read(variable):
    """A tensor with the value of the variable made by an op."""
    if variable.type != "VarHandleOp":
        return variable.outputs[0]
    for user in variable.outputs[0].consumers():
        if user.type == "ReadVariableOp":
            return user.outputs[0]
    raise ValueError(
        f"The variable '{variable.name}' has no op that reads it: make it with "
        "tf.get_variable."
    )
