"""TensorFlow's ops on fake-quantized floats, as TFLite's ops on integers.

A tensor is wanted on a grid, the one of the fake quant that it goes into; and
so, op by op, is what it is computed from. That makes each integer tensor the
fake-quant graph's own, whatever else its values are used for: where one tensor
goes into two fake quants, there are two integer tensors, and a table that is
both embedding and softmax weights becomes two constants.

Which grids these are is in _wanted_grids.py; the ops are in _moving_ops.py and
_computing_ops.py, and what the two forms do otherwise in _integer_forms.py.
"""

import numpy as np

from awd_lstm_tf import (
    _computing_ops,
    _integer_graph,
    _moving_ops,
    _op_kinds,
    _tflite_file,
    _wanted_grids,
)


class Lowering(object):
    """The integer model of a graph, while and after it is made.

    A form of integers is a subclass.

    Args:
      graph: `IntegerGraph`.

    Attributes:
      graph: as given.
      grids: `WantedGrids` of the graph's tensors.
      model: the `_tflite_file.Model`.
      rows: of tables, by the name of the input that ids are gathered with.
      done: what is lowered, by tensor's name and grid.
    """

    form = None

    def __init__(self, graph):
        self.graph = graph
        self.grids = _wanted_grids.WantedGrids(
            graph, self.softmax_grid, self.common_grid
        )
        self.model = _tflite_file.Model(self.form)
        self.rows, self.done = {}, {}
        for op in graph.members():
            _op_kinds.check_known(op)
            if op.type == "MatMul" and graph.is_constant(op.inputs[1]):
                _computing_ops.check_weights(graph, op.inputs[1])
        graph.evaluate()
        if self.form == "int16x8":
            graph.make_weights_symmetric()  # they have no zero point
        for end in graph.inputs + [old for old, _ in graph.states]:
            self.model.inputs.append(self._input(end))
        self._taken = {tensor.name for tensor in self.model.inputs}
        for output in graph.outputs:
            self._add_output(output)
        self._name_apart()

    # -- Ends

    def _input(self, end):
        name, shape = end.op.name, end.shape.as_list()
        if end.dtype.is_floating:
            made = self.tensor_on(name, shape, self.grids.own(end))
            if end.name not in {old.name for old, _ in self.graph.states}:
                # What is fed may lie outside of the grid.
                made.reach = self._limits(made)
        else:
            made = _tflite_file.Tensor(name, shape, end.dtype.name)
        self.model.tensors.append(made)
        self.done[end.name, None] = made
        return made

    def _add_output(self, output):
        found = self.lowered(output, self._output_grid(output))
        if found.data is not None or found.name in self._taken:
            found = self._copy(found)
        found.name = output.op.name
        self._taken.add(found.name)
        self.model.outputs.append(found)

    def _output_grid(self, output):
        for old, new in self.graph.states:
            if new.name == output.name:
                return self.grids.own(old)
        return self.grids.settled(output)

    def _copy(self, tensor):
        made = self.tensor_on(tensor.name, tensor.shape, tensor.grid)
        return self.reshape(tensor, made)

    def _name_apart(self):
        taken = set(self._taken)
        ends = {id(end) for end in self.model.inputs + self.model.outputs}
        for tensor in self.model.tensors:
            if id(tensor) in ends:
                continue
            name, number = tensor.name, 0
            while tensor.name in taken:
                number += 1
                tensor.name = f"{name}_{number}"
            taken.add(tensor.name)

    # -- Tensors

    def lowered(self, tensor, grid=None):
        """The integer tensor that holds a tensor's values.

        Args:
          tensor: of TensorFlow.
          grid: that the values are rounded to; None for their own. None for
            ids, too.

        Returns:
          A `_tflite_file.Tensor`.
        """
        if grid is None and tensor.dtype.is_floating:
            grid = self.grids.wanted(tensor)
        if self.graph.is_constant(tensor):
            return self._constant(tensor, grid)
        key = tensor.name, grid
        if key not in self.done:
            self.done[key] = self._lower(tensor, grid)
        return self.done[key]

    def _lower(self, tensor, grid):
        op, is_end = tensor.op, tensor.name in self.graph.ends
        own = self.grids.own(tensor) if tensor.dtype.is_floating else None
        if own is not None and own != grid:
            if own.same_as(grid):
                return self.lowered(tensor, own)
            if is_end or op.type in _integer_graph.FAKE_QUANT:
                made = self.lowered(tensor, own)
                return self.on_grid(made, grid, op.name)
        if is_end:
            made = self.done[tensor.name, None]
            return made if grid is None else self.on_grid(made, grid, op.name)
        if op.type == "Softmax":
            return self.softmax(tensor, grid)
        for kinds, make in _moving_ops.MAKERS.items():
            if op.type in kinds:
                return make(self, tensor, grid)
        return _computing_ops.computed(self, tensor, grid)

    def part(self, op, part, grid):
        """What an op joins, on the grid of the whole."""
        if self.graph.is_constant(part):
            values = self.graph.value(part)
            exact = grid.reals(grid.integers(values))
            if np.abs(exact - values).max() > 0.51 * grid.scale:
                raise ValueError(
                    f"The op '{op.name}' joins the constant '{part.op.name}' "
                    f"to {grid}, which does not hold it: apply fake quant "
                    "after the op."
                )
        return self.lowered(part, grid)

    def _constant(self, tensor, grid):
        name = tensor.op.name
        if tensor.op.type == "Const" and not tensor.dtype.is_floating:
            grid = None
        key = tensor.name, grid
        if key not in self.done:
            values = self.graph.value(tensor)
            if grid is None:
                made = self.numbers(name, values, tensor.dtype.name)
            else:
                made = self.constant_on(name, values, grid)
            self.done[key] = made
        return self.done[key]

    def constant_on(self, name, values, grid):
        """A constant of reals, rounded to a grid."""
        integers = grid.integers(values)
        made = self.tensor_on(name, integers.shape, grid)
        made.data = integers + made.zero_point
        made.reach = int(integers.min()), int(integers.max())
        self.model.tensors.append(made)
        return made

    def numbers(self, name, values, kind, scale=None):
        """A constant of plain integers."""
        values = np.asarray(values)
        made = _tflite_file.Tensor(name, values.shape, kind, scale, 0, values)
        self.model.tensors.append(made)
        return made

    def tensor_on(self, name, shape, grid):
        """A tensor that is not in the model yet."""
        kind, zero_point = self.type_of(grid)
        made = _tflite_file.Tensor(name, shape, kind, grid.scale, zero_point)
        made.grid, made.reach = grid, (grid.lowest, grid.highest)
        return made

    def reach_of(self, made, largest, fused):
        """Integers there can be of reals up to `largest` steps, saturated."""
        low, high = self._limits(made)
        largest = min(largest, 2.0**31)
        low, high = max(low, -largest), min(high, largest)
        return (0 if fused else int(low)), int(high)

    @staticmethod
    def _limits(tensor):
        limits = np.iinfo(tensor.kind)
        return (
            int(limits.min) - tensor.zero_point,
            int(limits.max) - tensor.zero_point,
        )

    def reshape(self, tensor, made):
        """Has `made` be the same integers in its own shape."""
        made.reach = tensor.reach
        shape = self.numbers(
            made.name + "/shape", np.int32(made.shape), "int32"
        )
        return self.emit(
            "RESHAPE", [tensor, shape], made, new_shape=list(made.shape)
        )

    def emit(self, kind, inputs, output, **options):
        """Adds an operator with one output; returns that."""
        if not any(output is tensor for tensor in self.model.tensors):
            self.model.tensors.append(output)
        self.model.operators.append(
            _tflite_file.Operator(kind, inputs, [output], **options)
        )
        return output
