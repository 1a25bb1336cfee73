"""Random nets around quantized cells, of the kinds that users build.

Each has one to three inputs (ids looked up in tables, floats), one or two
cells of any form, and dense layers on what was made so far: on `h`, on
concatenations, on old states, on sums and products. Tables may be looked up
twice, and be softmax weights, too.
"""

import collections

import numpy as np
from versions import tf

from awd_lstm_tf import WeightDropLSTMCell

Net = collections.namedtuple("Net", "inputs outputs states rows")
CONTRIB = tf.__version__ < "2"


def with_fake_quant(value, low, high, **arguments):
    return tf.fake_quant_with_min_max_args(value, low, high, **arguments)


class Builder(object):
    """Builds one net in the default graph.

    Args:
      seed: int; another one makes another net.
    """

    def __init__(self, seed):
        self.random = np.random.RandomState(seed)
        self.batch = self.choose([1, 1, 1, 2, 3])
        self.rows, self.tables = {}, []
        self.inputs, self.states, self.outputs = [], [], []
        self.features = []  # what layers may take
        self.count = 0

    def choose(self, options):
        return options[self.random.randint(len(options))]

    def chance(self, share):
        return self.random.uniform() < share

    def build(self):
        for _ in range(self.choose([1, 1, 2, 3])):
            self.add_input()
        hidden = None
        for number in range(self.choose([1, 1, 2])):
            hidden = self.add_cell(number, hidden)
        for _ in range(self.choose([0, 1, 1, 2, 3])):
            self.add_layer()
        if self.tables and self.chance(0.5):
            self.add_tied(hidden)
        if self.outputs and self.chance(0.4):
            self.outputs.append(tf.nn.softmax(self.outputs[-1]))
        self.use_all()
        if CONTRIB:
            tf.contrib.quantize.create_eval_graph()
        return Net(self.inputs, self.outputs, self.states, self.rows)

    def use_all(self):
        """A layer on what nothing takes yet."""
        left = [each for each in self.features if not each.consumers()]
        left = [each for each in left if each is not self.features[-1]]
        if left:
            left = left[0] if len(left) == 1 else tf.concat(left, 1)
            self.outputs.append(self.dense(left, 5))

    def name(self, kind):
        self.count += 1
        return f"{kind}{self.count}"

    # -- Inputs

    def add_input(self):
        if self.chance(0.5):
            self.add_floats()
        else:
            self.add_ids()

    def add_floats(self):
        shape = [self.batch, self.choose([3, 6])]
        value = tf.placeholder(tf.float32, shape, name=self.name("x"))
        self.inputs.append(value)
        if self.chance(0.3):
            value = with_fake_quant(
                value, *self.choose([(-1, 127 / 128), (-4, 3.96875), (0, 2)])
            )
        self.features.append(value)

    def add_ids(self):
        shape = [self.batch, 1]
        ids = tf.placeholder(tf.int32, shape, name=self.name("ids"))
        self.inputs.append(ids)
        if self.tables and self.chance(0.6):
            table = self.choose(self.tables)
        else:
            table = self.add_table()
        self.rows[ids.op.name] = table.shape.as_list()[0]
        flat = tf.reshape(ids, [self.batch])
        read = table
        if self.chance(0.3):
            read = tf.tanh(table)
        elif self.chance(0.3):
            read = with_fake_quant(table, -1, 1, narrow_range=True)
        found = tf.nn.embedding_lookup(read, flat)
        if self.chance(0.4):
            found = with_fake_quant(found, -1, 127 / 128)
        self.features.append(found)

    def add_table(self):
        shape = [self.choose([9, 14]), self.choose([4, 8])]
        limit = self.choose([0.5, 1.0, 1.2])
        table = tf.get_variable(
            self.name("table"),
            shape,
            initializer=tf.random_uniform_initializer(
                -limit, limit, seed=self.random.randint(1000)
            ),
        )
        self.tables.append(table)
        return table

    # -- Cells

    def add_cell(self, number, hidden):
        parts = [self.choose(self.features)]
        if hidden is not None:
            parts = [hidden] + parts * self.chance(0.4)
        elif self.chance(0.5):
            parts.append(self.choose(self.features))
        inputs = parts[0] if len(parts) == 1 else tf.concat(parts, 1)
        units = self.choose([4, 8, 16])
        form = dict(
            use_peepholes=self.chance(0.25),
            num_proj=self.choose([None, None, None, 5]),
            cell_clip=self.choose([None, None, None, 1.5]),
        )
        cell = WeightDropLSTMCell(
            units,
            is_quant=True,
            is_train=False,
            name=f"cell{number}",
            state_is_tuple=True,
            initializer=tf.random_normal_initializer(
                0, self.choose([0.1, 0.4, 1.0]), seed=self.random.randint(1000)
            ),
            **form,
        )
        c = tf.placeholder(tf.float32, [self.batch, units], f"c{number}")
        h = tf.placeholder(
            tf.float32, [self.batch, cell.output_size], f"h{number}"
        )
        output, (new_c, new_h) = cell(inputs, (c, h))
        self.states += [(c, new_c), (h, new_h)]
        self.features += [output, output, h] if self.chance(0.2) else [output]
        if self.chance(0.1):
            self.features.append(new_c)
        return output

    # -- Layers

    def add_layer(self):
        kind = self.choose(["dense", "dense", "skip", "skip", "sum", "relu"])
        value = self.choose(self.features[-3:])
        if kind == "skip":
            parts = [value, self.choose(self.features)]
            value = tf.concat(parts, 1)
            if self.chance(0.3):
                value = with_fake_quant(value, -3, 3)
        elif kind == "sum":
            value = self.summed(value)
        elif kind == "relu":
            value = with_fake_quant(tf.nn.relu(value), 0, 2)
        made = self.dense(value, self.choose([5, 7]))
        self.features.append(made)
        self.outputs.append(made)

    def summed(self, value):
        size = value.shape.as_list()[1]
        same = [
            other for other in self.features if other.shape.as_list()[1] == size
        ]
        other = self.choose(same)
        if self.chance(0.3):
            other = tf.constant(
                self.random.uniform(-1, 1, [1, size]), tf.float32
            )
        combined = self.choose([tf.add, tf.add, tf.subtract, tf.multiply])(
            value, other
        )
        if self.chance(0.3):
            combined = tf.nn.relu(combined)
        return with_fake_quant(combined, -2, 2)

    def dense(self, value, units):
        relu = self.chance(0.4)
        size, name = value.shape.as_list()[1], self.name("dense")
        if CONTRIB:
            made = tf.layers.dense(
                value,
                units,
                activation=tf.nn.relu if relu else None,
                name=name,
                kernel_initializer=tf.random_normal_initializer(
                    0, 0.5, seed=self.random.randint(1000)
                ),
                bias_initializer=tf.random_normal_initializer(
                    0, 0.3, seed=self.random.randint(1000)
                ),
            )
            return made
        kernel = self.random.normal(0, 0.5, [size, units])
        kernel = tf.constant(kernel, tf.float32)
        return self.layer(value, kernel, units, relu)

    def layer(self, value, kernel, units, relu, **arguments):
        """A dense layer with fake quant, for where there is no rewriter."""
        kernel = with_fake_quant(kernel, -1.5, 1.4, narrow_range=True)
        bias = tf.constant(self.random.normal(0, 0.3, [units]), tf.float32)
        made = tf.nn.bias_add(tf.matmul(value, kernel, **arguments), bias)
        if relu:
            return with_fake_quant(tf.nn.relu(made), 0, 3)
        return with_fake_quant(made, -4, 3)

    def add_tied(self, hidden):
        table = self.choose(self.tables)
        rows, size = table.shape.as_list()
        made = self.dense(hidden, size)
        if not CONTRIB:
            made = self.layer(made, table, rows, False, transpose_b=True)
        else:
            made = tf.nn.bias_add(
                tf.matmul(made, table, transpose_b=True),
                tf.get_variable(self.name("bias"), [rows]),
            )
        self.outputs.append(made)


def set_ranges(session, seed, symmetric):
    """What training would set: ranges that suit the random weights.

    `symmetric`: whether those of weights are.
    """
    random = np.random.RandomState(seed)
    variables = {each.op.name: each for each in tf.global_variables()}
    for name in [name for name in variables if name.endswith("_quant/max")]:
        stem = name[: -len("/max")]
        if stem.endswith("kernel_quant"):
            kernel = session.run(variables[stem[: -len("_quant")]])
            low, high = -np.abs(kernel).max(), np.abs(kernel).max()
        elif stem.endswith("weights_quant"):
            low, high = -random.uniform(1, 1.5), random.uniform(1, 1.5)
            low = -high if symmetric else low
        else:
            low, high = -random.uniform(1, 5), random.uniform(1, 5)
            ahead = session.graph.get_operation_by_name(
                stem + "/FakeQuantWithMinMaxVars"
            )
            if ahead.inputs[0].op.type.startswith("Relu"):
                low = 0.0
        variables[name].load(high, session)
        variables[stem + "/min"].load(low, session)
