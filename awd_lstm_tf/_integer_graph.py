"""The part of a graph that becomes an integer-only model.

Between inputs and outputs there are ops; all else that leads into them, such
as variables and what is computed from them, is evaluated to constants. Each op
is checked to have an integer form, because the converter, toco, says with an
abort at most that something has none, and converts some ops to wrong ones.
"""

from awd_lstm_tf import _checks, _versions
from awd_lstm_tf._versions import tf

_FAKE_QUANT = {"FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars"}
_GATHER = {"Gather", "GatherV2", "ResourceGather"}
_PASSING = {"Identity", "Reshape", "Squeeze", "ExpandDims"}  # same values
_RELU = {"Relu", "Relu6"}  # only together with the op before
_ADD = {"Add", "AddV2"}
_ELEMENTWISE = _ADD | {"Sub", "Mul"}
_RANGED = _ELEMENTWISE | _RELU | {"MatMul", "BiasAdd", "Sigmoid", "Tanh"}
_RANGELESS = {"ConcatV2", "Split", "Slice", "StridedSlice", "Softmax"}
_INTEGER = _FAKE_QUANT | _GATHER | _PASSING | _RANGED | _RANGELESS

# What may come between an op and its fake quant: TFLite computes it together
# with the op.
_FUSED_AFTER = {"MatMul": _ADD | _RELU | {"BiasAdd"}, "BiasAdd": _RELU}
_FUSED_AFTER.update(dict.fromkeys(_ADD, _RELU))

# Ranges that are built into TFLite's kernels, by bits.
_BUILT_IN_RANGES = {
    "Sigmoid": {8: (0.0, 255 / 256), 16: (-1.0, 32767 / 32768)},
    "Tanh": {8: (-1.0, 127 / 128), 16: (-1.0, 32767 / 32768)},
}

# What range variables hold before they are trained.
_UNTRAINED = {"/kernel_quant/max": 0.0, "/weights_quant/max": 6.0}


def _reach(starts, neighbours):
    found, todo = set(), list(starts)
    while todo:
        op = todo.pop()
        if op not in found:
            found.add(op)
            todo += neighbours(op)
    return found


def _producers(op):
    return [tensor.op for tensor in op.inputs]


def _consumers(op):
    return [user for output in op.outputs for user in output.consumers()]


def _rounded(tensor):
    """What comes out of the fake quant that `tensor` goes into, if any."""
    if tensor.op.type in _RANGED:
        for user in tensor.consumers():
            if user.type in _FAKE_QUANT:
                return user.outputs[0]
    return tensor


class IntegerGraph(object):
    """The graph to convert, checked, and what toco is told about it.

    Args:
      session: `tf.Session` that holds the variables' values.
      inputs: list of placeholders.
      outputs: list of tensors.
      states: list of (placeholder, tensor) pairs.

    Raises:
      ValueError: naming the op or the range at fault.
    """

    def __init__(self, session, inputs, outputs, states):
        self._inputs, self._states = inputs, states
        self._outputs = list(outputs)
        for _, state in states:
            if state not in outputs:
                self._outputs.append(state)
        ends = {tensor.op for tensor in inputs}
        ends |= {state.op for state, _ in states}
        self._rounded = {tensor: _rounded(tensor) for tensor in self._outputs}
        behind = _reach(
            [tensor.op for tensor in self._rounded.values()],
            lambda op: [] if op in ends else _producers(op),
        )
        _checks.every_placeholder(ends, behind)
        self._find_ops(ends, behind)
        for op in self._ops:
            _checks.integer_op(op.name, op.type, op.type in _INTEGER)
        self._find_constants(session, behind)
        for op in self._ops:
            self._check(op)

    def _find_ops(self, ends, behind):
        # Fake quant of weights stays, for its range; its inputs do not.
        fake_quants = {op for op in behind if op.type in _FAKE_QUANT}
        ahead = _reach(ends | fake_quants, _consumers)
        self._members = (ahead & behind) | ends
        self._ops = [
            op
            for op in self._outputs[0].graph.get_operations()
            if op in self._members and op not in ends
        ]

    def _find_constants(self, session, behind):
        variables = {
            variable.op.name: variable
            for variable in session.graph.get_collection("variables")
            if variable.op in behind
        }
        for name in sorted(variables):
            for ending, untrained in _UNTRAINED.items():
                if name.endswith(ending):
                    value = session.run(variables[name])
                    _checks.trained_range(name, value != untrained)
        # A resource is a variable that is gathered from.
        fetches = {
            tensor: variables[tensor.op.name]
            if tensor.dtype == tf.resource
            else tensor
            for op in self._ops
            for tensor in op.inputs
            if tensor.op not in self._members
        }
        self._constants = session.run(fetches)
        for tensor, value in self._constants.items():
            _checks.finite_constant(tensor.op.name, value)

    # -- The check of each op

    def _check(self, op):
        if op.type in _FAKE_QUANT:
            _checks.fake_quant(op.name, *self._range(op))
        if op.type == "MatMul":
            self._check_weights(op.inputs[1])
        if op.type in _RANGED:
            _checks.ranged(op.name, op.type, self._is_ranged(op))
        if op.type in _RELU:
            fused = op.type in _FUSED_AFTER.get(op.inputs[0].op.type, ())
            _checks.fused_relu(op.name, op.type, fused)
        if op.type in _BUILT_IN_RANGES:
            self._check_built_in_range(op)
        if op.type in _ELEMENTWISE:
            self._check_sizes(op)

    def _check_weights(self, weights):
        name = weights.op.name
        _checks.ranged_weights(name, weights not in self._constants)
        if weights.op.type in _FAKE_QUANT:
            _checks.narrow_range(name, weights.op.get_attr("narrow_range"))

    def _users(self, op):
        return [user for user in _consumers(op) if user in self._members]

    def _is_ranged(self, op):
        users = self._users(op)
        follow = _FAKE_QUANT | _FUSED_AFTER.get(op.type, set())
        return bool(users) and all(user.type in follow for user in users)

    def _check_built_in_range(self, op):
        for fake_quant in self._users(op):
            low, high, bits = self._range(fake_quant)
            needed = _BUILT_IN_RANGES[op.type][bits]
            _checks.built_in_range(op.name, op.type, (low, high), needed)

    def _check_sizes(self, op):
        bits = [
            self._range(user)[2]
            for user in self._users(op)
            if user.type in _FAKE_QUANT
        ]
        sizes = [tensor.shape.num_elements() for tensor in op.inputs]
        _checks.same_sizes(op.name, 16 not in bits or sizes[0] == sizes[1])

    def _range(self, fake_quant):
        bits = fake_quant.get_attr("num_bits")
        if fake_quant.type == "FakeQuantWithMinMaxArgs":
            return fake_quant.get_attr("min"), fake_quant.get_attr("max"), bits
        low, high = (self._constants[end] for end in fake_quant.inputs[1:])
        return low, high, bits

    def _fake_quant_after(self, op):
        """The fake quant that what comes from `op` goes through; or None."""
        users = self._users(op)
        for user in users:
            if user.type in _PASSING:
                users += self._users(user)
        found = [user for user in users if user.type in _FAKE_QUANT]
        return found[0] if found else None

    # -- What toco is told

    def protos(self):
        """Returns toco's model flags, its own flags, and the GraphDef."""
        return self._model_flags(), _toco_flags(), self._graph_def()

    def _model_flags(self):
        flags = _versions.toco_protos("model_flags_pb2").ModelFlags()
        for tensor in self._inputs:
            self._describe_input(flags.input_arrays.add(), tensor)
        flags.output_arrays.extend(tensor.op.name for tensor in self._outputs)
        for state, new_state in self._states:
            flags.rnn_states.add(
                state_array=state.op.name,
                back_edge_source_array=new_state.op.name,
                size=state.shape.as_list()[-1],
            )
            # Else it gets as many dimensions as the first input, which may be
            # ids, has.
            array = flags.arrays_extra_info.entries.add(name=state.op.name)
            array.shape.dims.extend(state.shape.as_list())
        return flags

    def _describe_input(self, array, tensor):
        types_pb2 = _versions.toco_protos("types_pb2")
        array.name = tensor.op.name
        array.shape.dims.extend(tensor.shape.as_list())
        if tensor.dtype != tf.float32:
            array.data_type = types_pb2.IODataType.Value(
                tensor.dtype.name.upper()
            )
            return
        array.data_type = types_pb2.FLOAT
        fake_quant = self._fake_quant_after(tensor.op)
        _checks.ranged_input(tensor.op.name, fake_quant is not None)
        low, high, _ = self._range(fake_quant)
        array.std_value = 255 / (high - low)
        array.mean_value = -low * array.std_value

    def _graph_def(self):
        graph_def = tf.GraphDef()
        for tensor, value in self._constants.items():
            _add_constant(graph_def, self._name(tensor), value)
        for tensor in self._inputs:
            node = graph_def.node.add(name=tensor.op.name, op="Placeholder")
            node.attr["dtype"].type = tensor.dtype.as_datatype_enum
            node.attr["shape"].shape.CopyFrom(tensor.shape.as_proto())
        for op in self._ops:
            self._add_op(graph_def, op)
        for tensor in self._outputs:
            # Toco removes fake-quant ops, and what is named after them.
            node = graph_def.node.add(name=tensor.op.name, op="Identity")
            node.input.append(self._name(self._rounded[tensor]))
            node.attr["T"].type = tensor.dtype.as_datatype_enum
        return graph_def

    def _name(self, tensor):
        name, index = tensor.op.name, tensor.value_index
        if tensor in self._constants:
            return f"{name}/output_{index}" if index else name
        if any(tensor.op is output.op for output in self._outputs):
            name += "/value"  # the output's name is that of an Identity
        return f"{name}:{index}" if index else name

    def _add_op(self, graph_def, op):
        node = graph_def.node.add()
        node.CopyFrom(op.node_def)
        node.name = self._name(op.outputs[0])
        node.input[:] = [self._name(tensor) for tensor in op.inputs]
        node.attr.pop("_class", None)  # colocation
        if op.type in _GATHER:
            self._finish_gather(graph_def, node, op)

    def _finish_gather(self, graph_def, node, op):
        if op.type == "ResourceGather":
            node.op = "Gather"
            node.attr["Tparams"].CopyFrom(node.attr.pop("dtype"))
        if op.inputs[0] in self._constants:
            # Rounding what is gathered is the same as gathering what is
            # rounded, and the latter is what an integer model can do.
            fake_quant = self._fake_quant_after(op)
            _checks.ranged_weights(op.inputs[0].op.name, fake_quant is not None)
            rounding = graph_def.node.add()
            rounding.CopyFrom(fake_quant.node_def)
            rounding.name = node.input[0] + "/rounded"
            ends = [self._name(tensor) for tensor in fake_quant.inputs[1:]]
            rounding.input[:] = [node.input[0]] + ends
            node.input[0] = rounding.name


def _add_constant(graph_def, name, value):
    node = graph_def.node.add(name=name, op="Const")
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    node.attr["dtype"].type = node.attr["value"].tensor.dtype


def _toco_flags():
    types_pb2 = _versions.toco_protos("types_pb2")
    toco_flags_pb2 = _versions.toco_protos("toco_flags_pb2")
    return toco_flags_pb2.TocoFlags(
        input_format=toco_flags_pb2.TENSORFLOW_GRAPHDEF,
        output_format=toco_flags_pb2.TFLITE,
        inference_type=types_pb2.QUANTIZED_UINT8,
        inference_input_type=types_pb2.QUANTIZED_UINT8,
        drop_control_dependency=True,
        # Without it, the 16 bits of a fake quant silently become 8.
        propagate_fake_quant_num_bits=True,
    )
