"""Which grid each tensor of a graph is on, or wanted on."""

from awd_lstm_tf import _integer_graph, _op_kinds


class WantedGrids(object):
    """The grids of a graph's tensors, as far as fake quant and ends say.

    Args:
      graph: `IntegerGraph`.
      softmax: the grid of softmax's output.
      common: a function of several grids, to one that holds the values of all;
        or to None.
    """

    def __init__(self, graph, softmax, common):
        self._graph, self._softmax_grid, self._common = graph, softmax, common
        self._found, self._asked = {}, []

    def own(self, tensor):
        """The grid that the tensor's own values are on; None if on none."""
        if tensor.name not in self._found:
            if tensor.name in self._asked:
                raise ValueError(
                    f"The state '{tensor.op.name}' must not be passed on as it "
                    "is by another state that depends on it: compute it from "
                    "the inputs."
                )
            self._asked.append(tensor.name)
            self._found[tensor.name] = self._find(tensor)
            self._asked.pop()
        return self._found[tensor.name]

    def wanted(self, tensor):
        """The grid of a tensor that is used as it is."""
        grid = self.own(tensor)
        if grid is None:
            op = tensor.op
            if op.type in _op_kinds.GATHERS or self._graph.is_constant(tensor):
                name = (op.inputs[0] if op.inputs else tensor).op.name
                raise ValueError(
                    f"The weights '{name}' have no range: {_op_kinds.REWRITE}."
                )
            if op.type in _integer_graph.PASSING | _op_kinds.CUTS:
                return self.wanted(_op_kinds.operand(op))
            if op.type in _op_kinds.JOINS:
                parts = [
                    p
                    for p in _op_kinds.parts(op)
                    if not self._graph.is_constant(p)
                ]
                grids = [(p.op.name, self.wanted(p)) for p in parts]
                if grids:
                    _refuse_grids(f"The op '{op.name}' joins", grids)
            raise ValueError(
                f"The op '{op.name}' of type {op.type} has no range, its "
                "output must go into fake quant and nothing else: "
                f"{_op_kinds.REWRITE}."
            )
        return grid

    def _find(self, tensor):
        op = tensor.op
        if op.type in _integer_graph.FAKE_QUANT:
            return self._graph.grid_of(op)
        if self._graph.is_constant(tensor):
            return None
        if tensor.name in self._graph.ends:
            return self._input_grid(tensor)
        if op.type in _integer_graph.PASSING | _op_kinds.CUTS | {
            "StopGradient"
        }:
            return self.own(_op_kinds.operand(op))
        if op.type in _op_kinds.JOINS:
            return self._joint_grid(op)
        if op.type in _op_kinds.GATHERS:
            rounding = self._graph.rounding_of(op.inputs[0])
            return rounding and self._graph.grid_of(rounding)
        if op.type == "Softmax":
            return self._softmax_grid
        return None

    def _joint_grid(self, op):
        parts = [
            part
            for part in _op_kinds.parts(op)
            if not self._graph.is_constant(part)
        ]
        grids = [self.own(part) for part in parts]
        if not grids or None in grids:
            return None
        if all(grids[0].same_as(grid) for grid in grids):
            return grids[0]
        return self._common(grids)

    def _input_grid(self, end):
        grids = self._graph.grids_ahead(end)
        for old, new in self._graph.states:
            if old.name == end.name:
                if not self._graph.is_constant(new):
                    # What is fed is on the grid of what was put out.
                    return self.settled(new)
        if not grids:
            raise ValueError(
                f"`inputs` must have ranges, '{end.op.name}' has none: feed it "
                "to a cell with `is_quant=True`, or apply "
                "tf.fake_quant_with_min_max_args."
            )
        first, *others = grids.values()
        if all(first.same_as(other) for other in others):
            return first
        common = self._common(grids.values())
        if common is None:
            _refuse_grids(f"The input '{end.op.name}' goes into", grids.items())
        return common

    def settled(self, tensor):
        """The grid of an output, which may be that of a fake quant after it."""
        inner = tensor
        while self.own(inner) is None:
            for user in inner.consumers():
                if user.type in _integer_graph.FAKE_QUANT:
                    return self._graph.grid_of(user)
            if inner.op.type not in _integer_graph.PASSING:
                return self.wanted(inner)
            inner = inner.op.inputs[0]
        return self.own(inner)


def _refuse_grids(sentence, grids):
    listed = ", ".join(f"'{name}' on {grid}" for name, grid in grids)
    raise ValueError(
        f"{sentence} more than one range ({listed}), of which there is no "
        "common integer form: apply one tf.fake_quant_with_min_max_vars to all "
        'of it, in training too, or convert with form="int16x8", which can '
        "join all but ranges that are far apart."
    )
