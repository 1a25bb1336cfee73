"""What has a mask, and the programs that it is put in: one table of each.

A *row* is an owner of masks: how it is made, how it is called for one step, and
its stock twin. A *net* is one owner called some times, in a loop; a *program*
has it differentiated, trained at a rate of 0, and wired to its update ops. The
oracle is stock TensorFlow in a graph of its own, a new layer for every call in
a Python loop, on weights multiplied in numpy.

So that a mask can be had from anywhere (a loop, a function, a graph that was
imported), what a layer computes with is carried out of there beside its
results. That these come of it is what the oracle then finds, or not.
"""

import collections
import contextlib
import copy
import functools
import pickle
import sys

import numpy as np
import versions
from versions import nest, rnn_cell, tf

import awd_lstm_tf
from awd_lstm_tf import masks

BATCH, TIME, DEPTH, UNITS, WORDS = 3, 3, 7, 4, 24
LENGTHS = [TIME - 2, TIME, TIME]
RATE = 0.5
IDS = [5, 0, 23]
LIMIT = 1e-5


def function(python_function):
    return versions.function()(python_function)


def run_config():
    return tf.ConfigProto(
        intra_op_parallelism_threads=1, inter_op_parallelism_threads=2
    )


def session_of(graph=None, target=""):
    return tf.Session(target, graph, run_config())


# ---------------------------------------------------------------------------
# Masks, from where they are used


class Uses(object):
    """What is computed with, instead of weights, in the calls made meanwhile.

    `found`: pairs of the name of a variable and the masked weights; or of
    "mask" and a mask.
    """

    def __init__(self):
        self.found = []
        self._depth = 0

    def __enter__(self):
        self._methods = {
            name: getattr(masks.Mask, name)
            for name in ("drop", "value", "value_for")
        }
        for name, method in self._methods.items():
            setattr(masks.Mask, name, self._watched(name, method))
        return self

    def __exit__(self, *_):
        for name, method in self._methods.items():
            setattr(masks.Mask, name, method)

    def _watched(self, name, method):
        def call(mask, *args):
            self._depth += 1
            try:
                result = method(mask, *args)
            finally:
                self._depth -= 1
            if not self._depth:
                key = args[0].name if name == "drop" else "mask"
                self.found.append((key, result))
            return result

        return call


# ---------------------------------------------------------------------------
# The owners


class Row(object):
    """An owner of masks, in the form of a step of a recurrent net.

    `shapes` are those of what `Uses` finds in one call. `sizes` are those of
    the state. Without `modes`, all three.
    """

    modes = ("standard", "held", "auto")
    sizes = property(lambda self: (UNITS,))
    arguments = {}
    configured = deep = True  # get_config and deepcopy are for it
    primed = False  # get_vd_update_op needs a call first
    once = True

    def make(self, **drop):
        """The owner."""
        raise NotImplementedError

    def bare(self):
        """Stock's layer, to be called as `make`'s is; nothing is dropped."""
        raise NotImplementedError

    def stock(self):
        """A new stock layer as a function of `x` and state: the oracle."""
        layer = self.bare()
        return lambda x, state: self.step(layer, x, state)

    def step(self, layer, x, state):
        """One step: outputs and new state, a list."""
        h = tf.tanh(self.apply(layer, x) + state[0])
        return h, [h]

    def updates(self, owner):
        return owner.get_vd_update_op()

    def resets(self, owner):
        return owner.get_vd_reset_op()

    def public(self, owner):
        """The masks that users get, in the order of `shapes`; or []."""
        return [] if owner.mask is None else [owner.mask]

    def factors(self, values, used):
        """What stock's variables are to be, and what their gradients count.

        Args:
          values: dict of arrays, by the names of the owner's variables.
          used: dict of arrays, as `Uses` found them in one call.

        Returns:
          List of pairs, in the order of stock's variables.
        """
        return [
            (used[name], used[name] / np.where(value == 0, 1, value))
            if name in used
            else (value, np.ones_like(value))
            for name, value in values.items()
        ]

    def is_legal(self, values, used):
        """Whether all entries are dropped or scaled, or all are whole."""
        for name, kept in used.items():
            if not legal(values[name], kept):
                return False
        return True

    def is_whole(self, values, used):
        return all(np.all(kept == values[name]) for name, kept in used.items())

    def whole(self, values, names):
        """What `Uses` finds where nothing is dropped."""
        return {name: values[name] for name in names}


def legal(weights, kept, rate=RATE):
    scaled = weights * np.float32(1 / rate)
    return np.all(kept == weights) or np.all((kept == 0) | (kept == scaled))


class Cell(Row):
    shapes = property(lambda self: ((DEPTH + UNITS, 4 * UNITS),))
    sizes = property(lambda self: (UNITS, UNITS))

    def make(self, **drop):
        return awd_lstm_tf.WeightDropLSTMCell(
            UNITS, **dict(self.arguments, input_size=DEPTH, **drop)
        )

    def bare(self):
        return rnn_cell.LSTMCell(UNITS)

    def step(self, layer, x, state):
        out, state = layer(x, rnn_cell.LSTMStateTuple(*state))
        return out, list(state)


class RecurrentCell(Cell):
    arguments = dict(recurrent_only=True)

    def is_legal(self, values, used):
        (name,) = used
        weights, kept = values[name], used[name]
        top = np.all(kept[:DEPTH] == weights[:DEPTH])
        return top and legal(weights[DEPTH:], kept[DEPTH:])


class Fused(Row):
    modes = ("held", "auto")
    shapes, sizes = Cell.shapes, Cell.sizes
    deep = False  # as tf.layers.Layer, once built

    def make(self, **drop):
        return awd_lstm_tf.WeightDropLSTMBlockFusedCell(
            UNITS, input_size=DEPTH, **drop
        )

    def bare(self):
        return awd_lstm_tf.WeightDropLSTMBlockFusedCell(UNITS)

    def stock(self):
        cell = CELL.bare()
        return lambda x, state: CELL.step(cell, x, state)

    def step(self, layer, x, state):
        out, state = layer(tf.expand_dims(x, 0), tuple(state))
        return tf.squeeze(out, 0), list(state)

    def sequence(self, layer, x, state):
        by_time = tf.transpose(x, [1, 0, 2])
        out, state = layer(by_time, tuple(state))
        return tf.transpose(out, [1, 0, 2]), list(state)


class Dropout(Row):
    modes = ("held", "auto")
    shapes = property(lambda self: ((BATCH, DEPTH),))
    sizes = property(lambda self: (DEPTH,))
    configured = False

    def make(self, **drop):
        held = dict(drop, keep_prob=drop["weight_drop_kr"])
        del held["weight_drop_kr"], held["use_vd"]
        return awd_lstm_tf.VariationalDropout([BATCH, DEPTH], **held)

    def bare(self):
        return tf.identity

    def stock(self):
        mask = tf.get_variable("mask", [BATCH, DEPTH])
        return lambda x, state: self.step(lambda x: x * mask, x, state)

    def apply(self, layer, x):
        return layer(x)

    def updates(self, owner):
        return owner.get_update_mask_op()

    def resets(self, owner):
        return owner.get_reset_mask_op()

    def factors(self, values, used):
        return [(used["mask"], None)]

    def is_legal(self, values, used):
        mask = used["mask"]
        return legal(np.ones_like(mask), mask)

    def is_whole(self, values, used):
        return np.all(used["mask"] == 1)

    def whole(self, values, names):
        return {"mask": np.ones(self.shapes[0], np.float32)}


class Embedding(Dropout):
    modes = ("auto",)
    shapes = property(lambda self: ((WORDS,),))
    deep = False
    once = False  # a mask for each call, unless one loop has them all

    def make(self, **drop):
        return functools.partial(
            awd_lstm_tf.embedding_dropout,
            keep_prob=drop["weight_drop_kr"],
            is_train=drop.get("is_train", True),
        )

    def bare(self):
        return tf.nn.embedding_lookup

    def stock(self):
        return lambda x, state: self.step(self.bare(), x, state)

    def apply(self, layer, x):
        with tf.variable_scope("words", reuse=tf.AUTO_REUSE):
            table = tf.get_variable("table", [WORDS, DEPTH])
        return x * layer(table, tf.constant(IDS))

    def updates(self, owner):
        return []

    def public(self, owner):
        return []

    def factors(self, values, used):
        (table,) = values.values()
        mask = used["mask"][:, None]
        return [(table * mask, mask)]


class Wrapped(Row):
    """`WeightDropWrapper` around what `bare` makes."""

    primed = True
    configured = False

    def make(self, **drop):
        return awd_lstm_tf.WeightDropWrapper(self.bare(), **drop)

    def apply(self, layer, x):
        return layer(x)

    def public(self, owner):
        return list(owner.masks.values())


class WrappedCell(Wrapped):
    shapes = property(
        lambda self: ((DEPTH + UNITS, 2 * UNITS), (DEPTH + UNITS, UNITS))
    )

    def bare(self):
        return rnn_cell.GRUCell(UNITS)

    def step(self, layer, x, state):
        out, state = layer(x, state[0])
        return out, [state]


class WrappedLayer(Wrapped):
    shapes = property(lambda self: ((DEPTH, UNITS),))
    deep = False  # a built layer of tf.layers holds its graph

    def bare(self):
        return tf.layers.Dense(UNITS)


class WrappedKeras(Wrapped):
    shapes = property(lambda self: ((DEPTH, UNITS),))
    configured = True
    deep = False

    def bare(self):
        return tf.keras.layers.Dense(UNITS)


class WrappedFunction(Wrapped):
    shapes = property(lambda self: ((DEPTH, UNITS),))

    def bare(self):
        return dense


def dense(x):
    with tf.variable_scope("dense", reuse=tf.AUTO_REUSE):
        kernel = tf.get_variable("kernel", [DEPTH, UNITS])
        bias = tf.get_variable("bias", [UNITS])
    return tf.matmul(x, kernel) + bias


CELL = Cell()
# All that has a mask. A new owner is a new row, and its tests are all there.
ROWS = collections.OrderedDict(
    cell=CELL,
    cell_recurrent_only=RecurrentCell(),
    fused=Fused(),
    dropout=Dropout(),
    embedding=Embedding(),
    wrapped_cell=WrappedCell(),
    wrapped_layer=WrappedLayer(),
    wrapped_keras=WrappedKeras(),
    wrapped_function=WrappedFunction(),
)

DROPS = dict(
    standard=dict(weight_drop_kr=RATE),
    held=dict(weight_drop_kr=RATE, use_vd=True),
    auto=dict(weight_drop_kr=RATE, use_vd=True, auto_update=True),
)


def rows_and_modes(*modes):
    """Ids of rows, with each of its modes, or those of them that are named."""
    return [
        (name, mode)
        for name, row in ROWS.items()
        for mode in row.modes
        if not modes or mode in modes
    ]


# ---------------------------------------------------------------------------
# Loops: of a step that also returns what it used, a list of `[BATCH, n]`


class _StepCell(rnn_cell.RNNCell):
    """A step, as what TensorFlow's loops take."""

    def __init__(self, step, row):
        super(_StepCell, self).__init__()
        self._step, self._row = step, row

    state_size = property(lambda self: tuple(self._row.sizes))

    @property
    def output_size(self):
        sizes = [int(np.prod(shape)) for shape in self._row.shapes]
        return tuple([self._row.sizes[-1]] + sizes)

    def __call__(self, inputs, state, scope=None):
        out, state, used = self._step(inputs, list(state))
        return tuple([out] + used), tuple(state)


def dynamic_rnn(step, x, state, row):
    outputs, state = tf.nn.dynamic_rnn(
        _StepCell(step, row),
        x,
        initial_state=tuple(state),
        scope=tf.get_variable_scope(),
    )
    used = [each[-1] for each in outputs[1:]]
    return outputs[0], list(state), used


def static_rnn(step, x, state, row):
    outputs, state = tf.nn.static_rnn(
        _StepCell(step, row),
        tf.unstack(x, axis=1),
        initial_state=tuple(state),
        sequence_length=LENGTHS,
        scope=tf.get_variable_scope(),
    )
    stacked = [tf.stack(each, 1) for each in zip(*outputs)]
    return stacked[0], list(state), [each[-1] for each in stacked[1:]]


def _while(step, x, state, arrays, row, first=0):
    def body(now, state, arrays):
        out, state, used = step(x[:, now], list(state))
        for part, size in zip(state, row.sizes):
            part.set_shape([BATCH, size])
        written = [out] + used
        arrays = [
            array.write(first + now, each)
            for array, each in zip(arrays, written)
        ]
        return now + 1, state, arrays

    return tf.while_loop(lambda now, *_: now < TIME, body, (0, state, arrays))[
        1:
    ]


def _arrays(row, size):
    depths = [row.sizes[-1]] + [int(np.prod(shape)) for shape in row.shapes]
    return [
        tf.TensorArray(tf.float32, size, element_shape=[BATCH, depth])
        for depth in depths
    ]


def _stacked(arrays):
    outs, *used = [tf.transpose(array.stack(), [1, 0, 2]) for array in arrays]
    return outs, [each[-1] for each in used]


def while_loop(step, x, state, row):
    state, arrays = _while(step, x, state, _arrays(row, TIME), row)
    outs, used = _stacked(arrays)
    return outs, list(state), used


def nested(step, x, state, row):
    def body(count, state, arrays):
        state, arrays = _while(step, x, state, arrays, row, count * TIME)
        return count + 1, list(state), list(arrays)

    _, state, arrays = tf.while_loop(
        lambda count, *_: count < 2, body, (0, state, _arrays(row, 2 * TIME))
    )
    outs, used = _stacked(arrays)
    return outs, list(state), used


def cond(step, x, state, row):
    def branch(x):
        out, new, used = step(x, state)
        return [out] + new + used

    found = tf.cond(
        tf.reduce_sum(x) > 0, lambda: branch(x[:, 0]), lambda: branch(-x[:, 0])
    )
    new, used = found[1 : 1 + len(state)], found[1 + len(state) :]
    return found[0][:, None], new, [each[-1:] for each in used]


def single(step, x, state, row):
    out, state, used = step(x[:, 0], state)
    return out[:, None], state, [each[-1:] for each in used]


LOOPS = collections.OrderedDict(
    dynamic_rnn=dynamic_rnn,
    static_rnn=static_rnn,
    while_loop=while_loop,
    cond=cond,
    nested=nested,
    single=single,
)


def calls_of(loop, x):
    """The inputs of each call in `loop`, and the number of each sequence."""
    steps = tf.unstack(x, axis=1)
    if loop == "cond":
        return [steps[0] * tf.sign(tf.reduce_sum(x))], [0]
    if loop == "single":
        return steps[:1], [0]
    if loop == "nested":
        return steps * 2, [0] * TIME + [1] * TIME
    return steps, [0] * TIME


# ---------------------------------------------------------------------------
# The oracle


class Oracle(object):
    """Stock layers, one for each call, in a Python loop."""

    def __init__(self, row, loop):
        with tf.Graph().as_default() as graph:
            x = tf.placeholder(tf.float32, [BATCH, TIME, DEPTH])
            state = zero_state(row)
            outs, self._variables = [], []
            for time, inputs in enumerate(calls_of(loop, x)[0]):
                with tf.variable_scope(f"call{time}"):
                    count = len(tf.trainable_variables())
                    out, new = row.stock()(inputs, state)
                    self._variables.append(tf.trainable_variables()[count:])
                if loop == "static_rnn":
                    alive = tf.constant(LENGTHS) > time
                    out = tf.where(alive, out, tf.zeros_like(out))
                    new = [tf.where(alive, a, b) for a, b in zip(new, state)]
                outs.append(out)
                state = new
            results = [tf.stack(outs, 1)] + list(state)
            flat = sum(self._variables, [])
            gradients = tf.gradients(loss_of(results), flat + [x])
            self._fetches = [
                results,
                list(map(tf.convert_to_tensor, gradients)),
            ]
            self._initialize = tf.variables_initializer(flat)
        self._x, self._session = x, tf.Session(graph=graph)

    def run(self, x, values):
        """Results, gradients of the variables by call, and that of `x`.

        Args:
          x: `[BATCH, TIME, DEPTH]`.
          values: for each call, a list of the values of its variables.
        """
        feeds = {
            variable.initial_value: value
            for pair in zip(self._variables, values)
            for variable, value in zip(*pair)
        }
        self._session.run(self._initialize, feeds)
        results, flat = self._session.run(self._fetches, {self._x: x})
        gradients, count = [], 0
        for variables in self._variables:
            gradients.append(flat[count : count + len(variables)])
            count += len(variables)
        return results, gradients, flat[-1]


@functools.lru_cache(None)
def oracle(row_name, loop):
    return Oracle(ROWS[row_name], loop)


def loss_of(results):
    return tf.add_n([tf.reduce_sum(tf.square(each)) for each in results])


# ---------------------------------------------------------------------------
# Nets and programs


class Net(object):
    """An owner that is called in a loop, with what to fetch.

    `results` are the outputs and the last state, `used` what was computed with,
    `[calls, ...]` by the names of variables.
    """

    def __init__(self, row, owner, loop, x):
        self.names = []

        def step(x, state):
            with Uses() as uses:
                out, state = row.step(owner, x, state)
            names = [name for name, _ in uses.found]
            assert self.names in ([], names)
            self.names[:] = names
            flat = [tf.reshape(each, [1, -1]) for _, each in uses.found]
            if not flat:  # stock's layer
                flat = [tf.zeros([1, np.prod(shape)]) for shape in row.shapes]
            used = [tf.tile(each, [BATCH, 1]) for each in flat]
            return out, state, used

        state = zero_state(row)
        self._row = row
        if loop == "sequence":
            outs, state, used = self._sequence(owner, x, state)
        else:
            outs, state, used = LOOPS[loop](step, x, state, row)
        self.results = [outs] + state
        self.used = [
            tf.reshape(each, (-1,) + shape)
            for each, shape in zip(used, row.shapes)
        ]

    def _sequence(self, owner, x, state):
        with Uses() as uses:
            outs, state = self._row.sequence(owner, x, state)
        self.names[:] = [name for name, _ in uses.found]
        if not uses.found:
            return outs, state, []
        return outs, state, [tf.stack([each] * TIME) for _, each in uses.found]


WIRINGS = ("never", "before", "together", "around", "minimize", "UPDATE_OPS")
WAITS_FIRST = ("before", "around")  # whose first run has a mask that was drawn

Situation = collections.namedtuple(
    "Situation", "row mode wiring loop road resource seed"
)


class Program(object):
    """What is run and looked at: from a net, trained and wired.

    Args:
      situation: `Situation`.
      results, used: lists of tensors.
      names: what `used` is, by the names of variables.
      x: the placeholder of the inputs.
      variables: those that the net has.
      updates: the update ops.
      feeds: of each run.
      gradients: of the variables and `x`, if they are made already.
    """

    def __init__(
        self,
        situation,
        results,
        used,
        names,
        x,
        variables,
        updates,
        feeds=None,
        gradients=None,
    ):
        self.situation, self.names = situation, list(names)
        self.graph, self.x = x.graph, x
        self.feeds = dict(feeds or {})
        self.variables, self.results = list(variables), list(results)
        wiring, waits = situation.wiring, situation.loop != "nested"
        around = updates if wiring in ("minimize", "UPDATE_OPS") else []
        loss = loss_of(results)
        # TensorFlow cannot have the gradient of a loop in a loop wait, nor with
        # stock layers.
        with tf.control_dependencies(around if waits else []):
            if gradients is None:
                gradients = tf.gradients(loss, self.variables + [x])
        pairs = [
            (tf.convert_to_tensor(gradient), variable)
            for gradient, variable in zip(gradients, self.variables)
        ]
        train = []
        if pairs:
            with tf.control_dependencies(around):
                optimizer = tf.train.GradientDescentOptimizer(0.0)
                train = [optimizer.apply_gradients(pairs)]
        elif around:
            train = list(around)
        self._before = updates if wiring == "before" else []
        self.fetches = dict(
            results=list(results),
            used=list(used),
            gradients=[gradient for gradient, _ in pairs],
            d_x=gradients[-1],
            values=self.variables,
            train=train + (updates if wiring == "together" else []),
        )
        with self.graph.as_default():
            self._initialize = tf.global_variables_initializer()
            self._all = tf.global_variables()

    def initialize(self, session, seed=0):
        """Gives all variables, also biases, random values."""
        random = np.random.RandomState(seed)
        feeds = {
            variable.initial_value: random.uniform(
                -1, 1, variable.shape.as_list()
            )
            for variable in self._all
        }
        session.run(self._initialize, feeds)

    def run(self, session, x, feeds=None):
        feeds = {**self.feeds, **(feeds or {}), self.x: x}
        if self._before:
            session.run(self._before, feeds)
        return session.run(self.fetches, feeds)

    def compare(self, got, x):
        """Raises AssertionError where `got` is not what stock has of it.

        Returns:
          What was used in each call: a dict of arrays.
        """
        situation = self.situation
        row = ROWS[situation.row]
        loop = situation.loop
        values = collections.OrderedDict(
            zip([v.name for v in self.variables], got["values"])
        )
        if loop == "sequence":
            loop = "dynamic_rnn"
        with tf.Graph().as_default():
            shape = tf.zeros([BATCH, TIME, DEPTH])
            _, sequence = calls_of(loop, shape)
        used = [
            dict(zip(self.names, [each[call] for each in got["used"]]))
            for call in range(len(sequence))
        ]
        factors = [row.factors(values, each) for each in used]
        expected, d_values, d_x = oracle(situation.row, loop).run(
            x, [[value for value, _ in call] for call in factors]
        )
        gradients = []
        for each in zip(*[zip(*pair) for pair in zip(d_values, factors)]):
            parts = [
                gradient * factor
                for gradient, (_, factor) in each
                if factor is not None
            ]
            if parts:
                gradients.append(sum(parts))
        assert_close("results", got["results"], expected)
        assert_close("gradients", got["gradients"], gradients)
        assert_close("gradient of the inputs", [got["d_x"]], [d_x])
        self._check_masks(row, values, used, sequence)
        return used

    def _check_masks(self, row, values, used, sequence):
        for each in used:
            assert row.is_legal(values, each), "entries that no mask has"
        for number, one in enumerate(used):
            for other, same in zip(used[:number], sequence[:number]):
                alike = equal(one, other)
                if self.situation.mode == "standard":
                    assert not alike, "one mask for two steps"
                elif not row.once and self.situation.loop == "static_rnn":
                    assert not alike, "one mask for two calls"
                elif self.situation.mode == "held" or same == sequence[number]:
                    assert alike, "two masks in one sequence"


def equal(left, right):
    return left.keys() == right.keys() and all(
        np.array_equal(left[key], right[key]) for key in left
    )


def assert_close(what, got, expected):
    assert len(got) == len(expected), what
    for one, other in zip(got, expected):
        assert one.shape == other.shape, what
        error = np.max(np.abs(one - other)) if one.size else 0
        size = max(np.max(np.abs(other)), 1) if one.size else 1
        assert error <= LIMIT * size, f"{what}: off by {error}"


def inputs_value(seed):
    random = np.random.RandomState(seed)
    return random.uniform(-1, 1, [BATCH, TIME, DEPTH]).astype(np.float32)


# ---------------------------------------------------------------------------
# Roads


ROADS = ("plain", "copied", "imported", "function", "tower", "library")


def drop_arguments(situation, is_train=True):
    drop = dict(DROPS[situation.mode], is_train=is_train)
    if situation.row != "embedding" and situation.wiring == "UPDATE_OPS":
        drop["updates_collections"] = tf.GraphKeys.UPDATE_OPS
    return drop


def prime(row, owner):
    """A call made elsewhere, so that variables and masks are there."""
    return row.step(owner, tf.zeros([BATCH, DEPTH]), zero_state(row))[0]


def zero_state(row):
    return [tf.zeros([BATCH, size]) for size in row.sizes]


def copied(row, owner):
    """Another, made from its config, or by `copy.deepcopy`."""
    if row.configured:
        return type(owner).from_config(owner.get_config())
    return copy.deepcopy(owner)


@contextlib.contextmanager
def as_in(situation):
    """A fresh graph, and a scope for what kind of variables is asked for."""
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(situation.seed)
        with tf.variable_scope("", use_resource=situation.resource):
            yield graph


def placeholder(seed):
    return tf.placeholder_with_default(
        inputs_value(seed), [BATCH, TIME, DEPTH], "x"
    )


def build(situation, bare=False):
    """Programs of a situation, each in a graph of its own.

    Args:
      situation: `Situation`.
      bare: build it of stock's layers, to see what TensorFlow can do.

    Returns:
      A list of `Program`s, of one graph.
    """
    with as_in(situation):
        return getattr(Road(situation, bare), situation.road)()


class Road(object):
    def __init__(self, situation, bare):
        self._situation, self._bare = situation, bare
        self._row = ROWS[situation.row]

    def owner(self, is_train=True):
        if self._bare:
            return self._row.bare()
        return self._row.make(**drop_arguments(self._situation, is_train))

    def _updates(self, owner):
        if self._bare or self._situation.mode != "held":
            return []
        return self._row.updates(owner)

    def _around(self, owner):
        """The ops that the net's call waits for."""
        if self._situation.wiring != "around":
            return []
        if self._row.primed:
            prime(self._row, owner)
        return self._updates(owner)

    def _net(self, owner, x):
        return Net(self._row, owner, self._situation.loop, x)

    def _program(self, owner, x, net, feeds=None):
        return Program(
            self._situation,
            net.results,
            net.used,
            net.names,
            x,
            trained_by(net.results),
            self._updates(owner),
            feeds,
        )

    def plain(self):
        return [self.of(self.owner())]

    def of(self, owner, feeds=None):
        x = placeholder(self._situation.seed)
        with tf.control_dependencies(self._around(owner)):
            net = self._net(owner, x)
        return self._program(owner, x, net, feeds)

    def copied(self):
        owner = self.owner()
        if not self._bare:
            owner = copied(self._row, owner)
        return [self.of(owner)]

    def library(self):
        phase = awd_lstm_tf.training_phase()

        def cell_class():  # the mode is not known in there
            return self.owner(awd_lstm_tf.training_phase())

        return [self.of(cell_class(), {phase: True})]

    def tower(self):
        programs = []
        for number in range(2):
            with tf.name_scope(f"tower_{number}") as scope:
                with tf.variable_scope(
                    tf.get_variable_scope(), reuse=tf.AUTO_REUSE
                ):
                    owner = self.owner()
                    programs.append(self.of(owner))
                if self._situation.wiring == "UPDATE_OPS":
                    found = tf.get_collection(tf.GraphKeys.UPDATE_OPS, scope)
                    assert found == self._updates(owner), "UPDATE_OPS of scope"
        return programs

    def function(self):
        owner = self.owner()
        x = placeholder(self._situation.seed)
        if not (self._row.primed and self._situation.wiring == "around"):
            prime(self._row, owner)  # a function must not make variables
        made = []

        @function
        def compute(x):
            made.append(self._net(owner, x))
            return made[-1].results + made[-1].used

        with tf.control_dependencies(self._around(owner)):
            found = compute(x)
        net = made[-1]
        net.results, net.used = (
            found[: len(net.results)],
            found[len(net.results) :],
        )
        program = Program(
            self._situation,
            net.results,
            net.used,
            net.names,
            x,
            tf.trainable_variables(),
            self._updates(owner),
        )
        return [program]

    def imported(self):
        owner = self.owner()
        x = placeholder(self._situation.seed)
        with tf.control_dependencies(self._around(owner)):
            net = self._net(owner, x)
        saved = Saved(self._situation, net, x, self._updates(owner))
        with tf.Graph().as_default():
            tf.set_random_seed(self._situation.seed)
            return [saved.taken()]


class Saved(object):
    """A net of the current graph, to be found again in another by its names."""

    def __init__(self, situation, net, x, updates):
        self._situation, self._net_names = situation, list(net.names)
        parts = [net.results, net.used, x, trained_by(net.results), updates]
        self._names = nest.map_structure(lambda each: each.name, parts)
        self._meta_graph = tf.train.export_meta_graph().SerializeToString()

    def taken(self, scope=None):
        """The program, imported into the current graph."""
        prefix = scope + "/" if scope else ""
        meta_graph = tf.MetaGraphDef.FromString(self._meta_graph)
        tf.train.import_meta_graph(meta_graph, import_scope=scope)
        graph = tf.get_default_graph()
        variables = {v.name: v for v in tf.trainable_variables()}
        results, used, x, trained, updates = self._names
        results, used, x, updates = nest.map_structure(
            lambda name: graph.as_graph_element(prefix + name),
            [results, used, x, updates],
        )
        return Program(
            self._situation,
            results,
            used,
            [
                name if name == "mask" else prefix + name
                for name in self._net_names
            ],
            x,
            [variables[prefix + name] for name in trained],
            updates,
        )


def trained_by(results):
    variables = tf.trainable_variables()
    gradients = tf.gradients(loss_of(results), variables) if variables else []
    return [
        variable
        for variable, gradient in zip(variables, gradients)
        if gradient is not None
    ]


RUNS = 2


def check(situation):
    """Builds and runs a situation, and compares it with the oracle."""
    programs = build(situation)
    with session_of(programs[0].graph) as session:
        programs[-1].initialize(session, situation.seed)
        for program in programs:
            check_program(program, session)


def check_program(program, session, runs=RUNS):
    situation = program.situation
    row, before = ROWS[situation.row], []
    # Nothing orders a function's read and an update that its call does not wait
    # for: a run has that update's mask, or the one of the run before.
    loose = situation.road == "function"
    loose = loose and situation.wiring not in WAITS_FIRST
    for number in range(runs + loose):
        x = inputs_value(situation.seed + number + 1)
        got = program.run(session, x)
        used = program.compare(got, x)
        values = dict(zip([v.name for v in program.variables], got["values"]))
        whole = row.is_whole(values, used[0])
        if situation.mode != "held":
            assert not whole, "nothing is dropped"
        elif situation.wiring == "never":
            assert whole, "a mask that nobody drew"
        elif situation.wiring in WAITS_FIRST or number:
            assert not whole, "the mask is not the one drawn"
        elif not loose:
            assert whole, "the mask is drawn too early"
        if number > loose and situation.wiring != "never":
            last = before[-1 - loose]
            assert not equal(last, used[0]), "the mask does not change"
        before.append(used[0])


def main(paths):
    """Checks programs that another process saved."""
    for path in paths:
        with open(path, "rb") as file:
            saved = pickle.load(file)
        with tf.Graph().as_default():
            program = saved.taken()
        with session_of(program.graph) as session:
            program.initialize(session)
            check_program(program, session)
    print("checked", len(paths))


if __name__ == "__main__":
    import situations  # what is pickled is of the module of this name

    situations.main(sys.argv[1:])
