"""TFLite's file: tensors and operators of one graph, written to bytes.

Of TFLite's schema (schema.fbs in TensorFlow) only what models of LSTMs need.
Numbers below are those of the schema: of tensor types, operators, unions, and
the slots of fields in their tables.
"""

import numpy as np

_TYPES = {"int32": 2, "uint8": 3, "int64": 4, "int16": 7, "int8": 9}


class Kind(object):
    """An operator of TFLite.

    Args:
      code: its number.
      options: number of its options in their union; 0 for none.
      fields: slot and type of each option, by name.
      version: of the operator, on 8-bit unsigned integers and on 16-bit ones.
    """

    def __init__(self, code, options=0, fields=None, version=(1, 1)):
        self.code, self.options = code, options
        self.fields = fields or {}
        self.version = dict(zip(("uint8", "int16x8"), version))


_FUSED = {"fused": (0, "int8")}
_SUM = dict(_FUSED, pot_scale_int16=(1, "bool"))

KINDS = {
    "ADD": Kind(0, 11, _SUM, version=(1, 2)),
    "CAST": Kind(53, 37),
    "CONCATENATION": Kind(2, 10, {"axis": (0, "int32")}, version=(1, 3)),
    "FULLY_CONNECTED": Kind(9, 8, _FUSED, version=(1, 7)),
    "GATHER": Kind(36, 23, {"axis": (0, "int32")}, version=(1, 2)),
    "LOGISTIC": Kind(14, version=(1, 3)),
    "MAXIMUM": Kind(55, 39, version=(1, 3)),
    "MINIMUM": Kind(57, 39, version=(1, 3)),
    "MUL": Kind(18, 21, _FUSED, version=(1, 2)),
    "RESHAPE": Kind(22, 17, {"new_shape": (0, "int32s")}),
    "SLICE": Kind(65, 48, version=(1, 2)),
    "SOFTMAX": Kind(25, 9, {"beta": (0, "float32")}, version=(1, 3)),
    "SPLIT": Kind(49, 35, {"num_splits": (0, "int32")}, version=(1, 4)),
    "SUB": Kind(41, 28, _SUM, version=(1, 2)),
    "TANH": Kind(28, version=(1, 3)),
}


class Tensor(object):
    """A tensor of integers.

    Args:
      name: string.
      shape: list of ints.
      kind: name of the integer type.
      scale: what one step is worth; None where integers are just integers.
      zero_point: the integer that stands for 0.0.
      data: array of constants; None for what operators write.

    Attributes:
      grid: the `Grid` that its reals are on; None where there are none.
      reach: the least and the largest integer `k` there can be; None so, too.
    """

    def __init__(self, name, shape, kind, scale=None, zero_point=0, data=None):
        self.name, self.shape, self.kind = name, list(shape), kind
        self.scale, self.zero_point, self.data = scale, zero_point, data
        self.grid = self.reach = None


class Operator(object):
    """An operator: its kind, its tensors, and its options by name."""

    def __init__(self, kind, inputs, outputs, **options):
        self.kind, self.inputs, self.outputs = kind, inputs, outputs
        self.options = options


class Model(object):
    """Operators in the order they run in, and the ends of the graph.

    Args:
      form: "uint8" or "int16x8", which says the operators' versions.
    """

    def __init__(self, form):
        self.form = form
        self.tensors, self.operators = [], []
        self.inputs, self.outputs = [], []

    def write(self):
        """Returns the file, as bytes."""
        return _Writer(self).file()


class _Writer(object):
    # Flatbuffers are written from their leaves to their root.

    def __init__(self, model):
        import flatbuffers  # only export needs it

        self._builder = flatbuffers.Builder(1 << 16)
        self._model = model
        self._numbers = {id(t): n for n, t in enumerate(model.tensors)}
        self._kinds = sorted({each.kind for each in model.operators})
        self._datas = [None]  # of the buffers; the first is nobody's

    def file(self):
        tensors = [self._tensor(each) for each in self._model.tensors]
        operators = [self._operator(each) for each in self._model.operators]
        subgraph = self._table(
            (0, "offset", self._vector("offset", tensors)),
            (1, "offset", self._indices(self._model.inputs)),
            (2, "offset", self._indices(self._model.outputs)),
            (3, "offset", self._vector("offset", operators)),
            (4, "offset", self._builder.CreateString("main")),
        )
        codes = [self._operator_code(kind) for kind in self._kinds]
        buffers = [self._buffer(data) for data in self._datas]
        model = self._table(
            (0, "uint32", 3),  # version of the schema
            (1, "offset", self._vector("offset", codes)),
            (2, "offset", self._vector("offset", [subgraph])),
            (3, "offset", self._builder.CreateString("awd_lstm_tf")),
            (4, "offset", self._vector("offset", buffers)),
        )
        self._builder.Finish(model, file_identifier=b"TFL3")
        return bytes(self._builder.Output())

    def _tensor(self, tensor):
        quantization = tensor.scale is not None and self._table(
            (2, "offset", self._vector("float32", [tensor.scale])),
            (3, "offset", self._vector("int64", [tensor.zero_point])),
        )
        fields = [
            (0, "offset", self._vector("int32", tensor.shape)),
            (1, "int8", _TYPES[tensor.kind]),
            (2, "uint32", self._data_number(tensor)),
            (3, "offset", self._builder.CreateString(tensor.name)),
        ]
        if quantization:
            fields.append((4, "offset", quantization))
        return self._table(*fields)

    def _data_number(self, tensor):
        if tensor.data is None:
            return 0
        data = np.ascontiguousarray(tensor.data, tensor.kind).tobytes()
        if data not in self._datas:  # equal constants are stored once
            self._datas.append(data)
        return self._datas.index(data)

    def _operator(self, operator):
        kind = KINDS[operator.kind]
        fields = [
            (0, "uint32", self._kinds.index(operator.kind)),
            (1, "offset", self._indices(operator.inputs)),
            (2, "offset", self._indices(operator.outputs)),
        ]
        if kind.options:
            options = []
            for name, value in sorted(operator.options.items()):
                slot, kind_of_field = kind.fields[name]
                if kind_of_field == "int32s":
                    kind_of_field = "offset"
                    value = self._vector("int32", value)
                options.append((slot, kind_of_field, value))
            fields.append((3, "uint8", kind.options))
            fields.append((4, "offset", self._table(*options)))
        return self._table(*fields)

    def _operator_code(self, name):
        kind = KINDS[name]
        return self._table(
            (0, "int8", min(kind.code, 127)),
            (2, "int32", kind.version[self._model.form]),
            (3, "int32", kind.code),
        )

    def _buffer(self, data):
        if data is None:
            return self._table()
        builder = self._builder
        builder.StartVector(1, len(data), 16)  # aligned as kernels want it
        builder.head = builder.Head() - len(data)
        builder.Bytes[builder.Head() : builder.Head() + len(data)] = data
        return self._table((0, "offset", self._end_vector(len(data))))

    def _indices(self, tensors):
        return self._vector("int32", [self._numbers[id(t)] for t in tensors])

    def _vector(self, kind, values):
        size = {"int64": 8}.get(kind, 4)
        self._builder.StartVector(size, len(values), size)
        prepend = getattr(self._builder, "Prepend" + _PREPENDED[kind])
        for value in reversed(values):
            prepend(value)
        return self._end_vector(len(values))

    def _end_vector(self, length):
        try:
            return self._builder.EndVector()
        except TypeError:  # flatbuffers 1.12, of TensorFlow 2.4
            return self._builder.EndVector(length)

    def _table(self, *fields):
        # All fields are written, those of their default value, too.
        builder = self._builder
        builder.StartObject(max([slot for slot, _, _ in fields] + [-1]) + 1)
        for slot, kind, value in fields:
            getattr(builder, "Prepend" + _PREPENDED[kind])(value)
            builder.Slot(slot)
        return builder.EndObject()


# What the methods of flatbuffers that write each type are called.
_PREPENDED = {
    "bool": "Bool",
    "float32": "Float32",
    "int8": "Int8",
    "int32": "Int32",
    "int64": "Int64",
    "offset": "UOffsetTRelative",
    "uint8": "Uint8",
    "uint32": "Uint32",
}
