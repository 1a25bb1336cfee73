"""Dropout masks that hold over many steps, and where their ops are put.

A `Mask` owns everything about one mask: how it is drawn, the variable that
holds it, the op that redraws it and the tensor that a sequence reads it into.
`once_per_sequence` puts a computation outside of the loop it is asked for in.
"""

import collections
import contextlib
import copy

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.ops import resource_variable_ops

from awd_lstm_tf import _checks, _versions

# The three ways of drawing a mask.
PER_STEP = "per_step"  # anew wherever and whenever the value is asked for
PER_RUN = "per_run"  # once in every session.run and sequence
VARIABLE = "variable"  # when the update op is run

# Masks are scratch state: in no checkpoint, with no need of an initializer.
MASKS = "awd_lstm_tf_masks"

_LANES = 4  # entries served by one 64-bit draw


# ---------------------------------------------------------------------------
# Where ops are put


class Place(collections.namedtuple("Place", "graph context control_inputs")):
    """A spot in the graph: what ops created there belong to and wait for."""

    def sees(self, value):
        """Whether `value` can be used here without being in a deeper loop."""
        if not isinstance(value, tf.Tensor):
            return True  # Python values, and variables, which live at the root
        return self.sees_op(value.op)

    def sees_op(self, op):
        if op.graph is not self.graph:
            return self._holds_graph(op.graph)
        inner, context = op._get_control_flow_context(), self.context
        while context is not None and context is not inner:
            context = context.outer_context
        return inner is None or context is inner

    def _holds_graph(self, graph):
        mine = self.graph
        while mine is not None and mine is not graph:
            mine = _versions.outer_graph(mine)
        return mine is graph


def _target():
    """The graph and control-flow context around the innermost loop.

    Conds on the way to that loop are left, too, so that the steps of
    `static_rnn` with `sequence_length` (each in a cond) and both branches of a
    user's cond find one and the same place.
    """
    graph = tf.get_default_graph()
    context = graph._get_control_flow_context()
    while True:
        if context is None:
            left_loop = _versions.is_loop_graph(graph)
            if not left_loop and not _versions.is_branch_graph(graph):
                return graph, None
            graph = _versions.outer_graph(graph)
            context = graph._get_control_flow_context()
        elif context.IsWhileContext() or context.IsCondContext():
            left_loop = context.IsWhileContext()
            context = context.outer_context
        else:  # an XLA or TPU context is not ours to leave
            return graph, context
        if left_loop:
            return graph, context


@contextlib.contextmanager
def outside_innermost_loop():
    """Creates ops outside the innermost loop, and yields their `Place`.

    Unlike `tf.init_scope` and `tf.control_dependencies(None)` it keeps those
    of the surrounding control dependencies that can be seen from out there, so
    that a call inside `tf.control_dependencies(update_ops)` is after the update
    (test_masks.py::test_ordering_is_honoured).
    """
    graph, context = _target()
    before = graph._get_control_flow_context()
    stack = graph._control_dependencies_stack
    here = Place(graph, context, ())
    waits = [op for level in stack for op in level.control_inputs]
    kept = tuple(op for op in waits if here.sees_op(op))
    with graph.as_default():
        graph._set_control_flow_context(context)
        graph._control_dependencies_stack = []
        try:
            with tf.control_dependencies(kept):
                yield here._replace(control_inputs=kept)
        finally:
            graph._control_dependencies_stack = stack
            graph._set_control_flow_context(before)


def _made_at(place, *tensors):
    """`tensors`, known to the surrounding control dependencies as waiting.

    What uses such a tensor need not wait again, and in an inner loop it could
    not: TensorFlow 1.x would have its Enter wait for an op of another frame
    (test_masks.py::test_ordering_is_honoured_around_nested_loops).
    """
    for level in place.graph._control_dependencies_stack:
        if set(level.control_inputs) <= set(place.control_inputs):
            for tensor in tensors:
                level.add_op(tensor.op)


def once_per_sequence(cache, make, inputs=()):
    """`make()`, computed once outside the innermost loop this is called in.

    Args:
      cache: a dict that belongs to `make`: what was made, by `Place` and
        `inputs`.
      make: a function without arguments that returns a tensor.
      inputs: the tensors and variables that `make` uses. If one of them was
        made inside the loop there is no way out: `make` is called in place.

    Returns:
      The tensor, shared by all calls from the same place.
    """
    with outside_innermost_loop() as place:
        lifted = all(place.sees(value) for value in inputs)
        key = (place,) + tuple(inputs)
        if lifted and key not in cache:
            cache[key] = make()
    if not lifted:
        return make()
    _made_at(place, cache[key])
    return cache[key]


# ---------------------------------------------------------------------------
# Drawing


class Drawn(collections.namedtuple("Drawn", "kept scale")):
    """A mask as it is held: which entries are kept, and what by.

    `kept` is bool, a quarter of the memory of a float mask; `scale` is a
    scalar of the mask's dtype.
    """

    def dense(self):
        """The mask: `scale` where `kept`, else 0."""
        return tf.cast(self.kept, self.scale.dtype) * self.scale


def _whole(shape, dtype):
    """The mask that drops nothing."""
    return Drawn(tf.ones(shape, tf.bool), tf.ones([], dtype))


def _draw(shape, keep_prob, dtype, seed):
    """A new `Drawn`, see `sample_mask`."""
    size = int(np.prod(shape, dtype=np.int64))
    if not _checks.is_tensor(keep_prob):
        keep_prob = np.float64(keep_prob)  # exact scale for float64 masks, too
    keep_prob = tf.stop_gradient(tf.convert_to_tensor(keep_prob, name="keep"))
    words = tf.random_uniform(
        [-(-size // _LANES)], tf.int64.min, tf.int64.max, tf.int64, seed=seed
    )
    lanes = tf.reshape(tf.bitcast(words, tf.int16), [-1])[:size]
    # How many of the 2**16 values of a lane are kept. In float64, where the
    # sum is exact enough; rounding up past the last level would drop it all.
    rounding = tf.random_uniform([], dtype=tf.float64, seed=seed)
    levels = tf.floor(tf.cast(keep_prob, tf.float64) * 2**16 + rounding)
    levels = tf.minimum(levels, 2**16)
    # The largest int16 kept: at a rate of 1.0, the largest there is; at no
    # level there is none so low, but the scale is 0.
    last = tf.cast(tf.maximum(levels, 1) - (2**15 + 1), tf.int16)
    scale = tf.cast(levels > 0, keep_prob.dtype) / keep_prob
    kept = tf.reshape(lanes, shape) <= last
    return Drawn(kept, tf.cast(scale, dtype))


def sample_mask(shape, keep_prob, dtype=tf.float32, seed=None):
    """A new dropout mask: entries are 0 or `1 / keep_prob`.

    An entry is kept when 16 random bits lie below a threshold, so one 64-bit
    draw serves four entries. A mask's own keep rate is thus a multiple of
    `2**-16`; which of the two nearest ones is itself drawn, once per mask, so
    that the expected value of every entry is 1 at any `keep_prob`.

    Args:
      shape: list of ints.
      keep_prob: float, or scalar float tensor, in (0, 1].
      dtype: of the mask. The draw is the same for all dtypes.
      seed: op-level seed, see `tf.set_random_seed`.

    Returns:
      A tensor of the given shape and dtype.
    """
    return _draw(shape, keep_prob, dtype, seed).dense()


# ---------------------------------------------------------------------------
# Holding


def _scratch_variable(shape, dtype, name, collections=(MASKS,)):
    # A ResourceVariable made directly, not `tf.get_variable`: its name is
    # unique by itself, and each replica of a MirroredStrategy has its own. The
    # device is the one of an op that holds no state, so a device setter for
    # parameter servers leaves the mask on its worker.
    with tf.device(tf.no_op().device):
        return resource_variable_ops.ResourceVariable(
            lambda: tf.ones(shape, dtype),
            trainable=False,
            collections=list(collections),
            name=name,
        )


def _read_or_ones(variable):
    # No initializer is ever needed: an uninitialized mask is the identity.
    return tf.cond(
        variable.is_initialized(),
        variable.read_value,
        lambda: tf.ones(variable.shape, variable.dtype.base_dtype),
    )


class _Held(object):
    """A mask in variables.

    Two, so a run that reads while another session writes may get one of them
    from before: at the first update, at a reset, and when the rate changes.
    """

    def __init__(self, shape, dtype, name):
        self.kept = _scratch_variable(shape, tf.bool, name)
        self.scale = _scratch_variable([], dtype, name + "_scale", ())

    def read(self):
        return Drawn(_read_or_ones(self.kept), _read_or_ones(self.scale))

    def assign(self, drawn):
        """A list of ops without outputs."""
        return [
            self.kept.assign(drawn.kept, read_value=False),
            self.scale.assign(drawn.scale, read_value=False),
        ]


def _masked(weights, drawn, whole_rows):
    """`weights` times the mask under `whole_rows` rows of ones."""

    # With a gradient of its own, which makes the float mask anew: kept from
    # the forward pass, it would take as much memory as the weights. The
    # identity that comes with it keeps `tf.contrib.quantize` from taking the
    # product for weights with a folded batch norm
    # (test_quantization.py::test_rewriter_leaves_the_cell_alone).
    @tf.custom_gradient
    def masked(weights, kept, scale):
        def gradient(d_masked):
            with tf.control_dependencies([d_masked]):  # and not before
                mask = _under_whole_rows(Drawn(kept, scale), whole_rows)
            return d_masked * mask, None, None

        mask = _under_whole_rows(Drawn(kept, scale), whole_rows)
        return tf.multiply(weights, mask, name="masked_kernel"), gradient

    return masked(weights, *drawn)


def _under_whole_rows(drawn, rows):
    mask = drawn.dense()
    if not rows:
        return mask
    return tf.pad(mask, [[rows, 0], [0, 0]], constant_values=1)


class Mask(object):
    """One dropout mask: its variable, its draws, its ops, its diagnostics.

    Args:
      keep_prob: float in (0, 1], or scalar float tensor, read at each draw.
      mode: `PER_STEP`, `PER_RUN` or `VARIABLE`.
      is_train: bool, or scalar bool tensor. False: the mask is all ones.
      seed: op-level seed of the draws.
      updates_collections: name or list of names of the graph collections that
        the update op is added to.
      name: of the variable.
      argument: what the user calls `keep_prob`, for error sentences.
    """

    def __init__(
        self,
        keep_prob,
        mode,
        is_train=True,
        seed=None,
        updates_collections=None,
        name="mask",
        argument="keep_prob",
    ):
        self._keep_prob = _checks.keep_prob(argument, keep_prob)
        self._mode = mode
        self._is_train = _checks.is_train(is_train)
        self._seed = _checks.optional_integer("seed", seed)
        self._collections = _checks.collection_names(
            "updates_collections", updates_collections
        )
        self._name = name
        self._argument = argument
        self._forget()
        if self.active:
            _checks.graph_mode(argument)

    def _forget(self):
        self._shape = self._dtype = None
        self._whole_rows = 0
        self._variable = self._root = self._update = self._reset = None
        self._drawn = {}  # by Place
        self._values = {}  # of `once_per_sequence`
        self._dropped = {}  # the same
        self._latest = None
        self._waits = ()  # control inputs of the latest read
        self._diagnostics = {}  # by name and `Drawn`
        self._draws = 0

    def __deepcopy__(self, memo):
        twin = copy.copy(self)
        twin._forget()
        if self._shape is not None:
            twin.build(self._shape, self._dtype, self._whole_rows)
        return twin

    @property
    def active(self):
        """Whether there is anything to drop: False means the identity."""
        always_whole = not _checks.is_tensor(self._keep_prob)
        always_whole = always_whole and self._keep_prob == 1.0
        return not always_whole and self._is_train is not False

    @property
    def built(self):
        return self._shape is not None

    def build(self, shape, dtype, whole_rows=0):
        """Fixes the shape; makes the variable and its ops, once.

        Args:
          shape: list of ints, of the part of the weights that is dropped.
          dtype: of the weights.
          whole_rows: the number of rows above that part, never dropped, for
            `latest` to be of the whole kernel's shape.
        """
        if not self.active:
            return
        if self.built:
            _checks.mask_dtype(self._dtype, dtype)
            return
        _checks.keep_prob_of_dtype(self._argument, self._keep_prob, dtype)
        self._check_graphs()
        self._shape, self._dtype = shape, dtype
        self._whole_rows = whole_rows
        if self._mode == VARIABLE:
            # Outside every context: the ops can be fetched wherever the first
            # call was made.
            with ops.init_scope():
                _checks.graph_mode(self._argument)
                self._build_variable()

    def _check_graphs(self):
        graph = tf.get_default_graph()
        if type(graph) is not tf.Graph:
            return  # the graph of a function, which captures outer tensors
        for argument, value in (
            (self._argument, self._keep_prob),
            ("is_train", self._is_train),
        ):
            if isinstance(value, tf.Tensor):
                _checks.same_graph(argument, value.graph is graph)

    def _build_variable(self):
        self._variable = _Held(self._shape, self._dtype, self._name)
        with tf.name_scope(self._name + "_ops"):
            self._root = self._variable.read()
            # The updates come after the read that has no order of its own:
            # where both are in one run, with nothing between them, every run
            # has the mask of the update before, not now this one, now that.
            with tf.control_dependencies(list(self._root)):
                self._reset = self._assignment(self._ones(), "reset")
                if self._here().sees(self._keep_prob):
                    self._update = self._assignment(self._draw(), "update")
        if self._update is not None:
            for name in self._collections:
                tf.add_to_collection(name, self._update)

    def _assignment(self, drawn, name):
        # The op handed out has an output: a while loop drops control
        # dependencies on outer ops that have none.
        with tf.control_dependencies(self._variable.assign(drawn)):
            return tf.constant(True, name=name).op

    @staticmethod
    def _here():
        graph = tf.get_default_graph()
        return Place(graph, graph._get_control_flow_context(), ())

    def _ones(self):
        return _whole(self._shape, self._dtype)

    def _draw(self):
        keep_prob = self._keep_prob
        if _checks.is_tensor(keep_prob):
            visible = self._here().sees(keep_prob)
            _checks.keep_prob_outside_loops(self._argument, visible)
            keep_prob = _checks.checked_keep_prob(
                self._argument, keep_prob, self._dtype
            )
        # Ops of one seed would all draw the same sequence of masks.
        seed = None if self._seed is None else self._seed + self._draws
        self._draws += 1
        return _draw(self._shape, keep_prob, self._dtype, seed)

    def _if_training(self, make):
        if self._is_train is True:
            return make()
        return tf.cond(self._is_train, make, self._ones)

    def _read(self, place):
        # Only the update op changes the mask, at the root, once in a run: a
        # read that waits for nothing may be the one made there.
        if not place.control_inputs:
            return self._root
        return self._variable.read()

    def value(self):
        """The mask for a call made here: `shape`, entries 0 or 1/keep_prob.

        Lifted out of the innermost loop, one tensor for all calls from one
        place; with `PER_STEP`, a new draw.
        """
        drawn = self._here_drawn()
        with tf.name_scope(self._name + "_value"):
            return once_per_sequence(self._values, drawn.dense, drawn)

    def drop(self, weights):
        """`weights` times the mask, for a call made here, lifted as `value` is.

        Takes less memory than a product with `value()`.

        Args:
          weights: variable or tensor, of the mask's shape, with `whole_rows`
            more on top.
        """
        if not self.active:
            return weights
        drawn = self._here_drawn()
        return once_per_sequence(
            self._dropped,
            lambda: _masked(weights, drawn, self._whole_rows),
            (weights,) + drawn,
        )

    def _here_drawn(self):
        with tf.name_scope(self._name + "_draw"):
            if self._mode == PER_STEP:
                drawn = self._if_training(self._draw)
            else:
                drawn = self._shared()
        if self._fetchable(drawn.kept):
            self._latest = drawn
            # Made now: when it is asked for, the graph may be finalized.
            self._diagnostic("whole", self._dense)
        return drawn

    def _shared(self):
        with outside_innermost_loop() as place:
            if self._mode == PER_RUN:
                make, key = self._draw, place._replace(control_inputs=())
            else:
                make, key = (lambda: self._read(place)), place
            lifted = place.sees(self._is_train)
            if key not in self._drawn:
                self._drawn[key] = self._if_training(make) if lifted else make()
            drawn = self._drawn[key]
        if key is place:
            _made_at(place, *drawn)
            self._waits = place.control_inputs
        return drawn if lifted else self._if_training(lambda: drawn)

    @staticmethod
    def _fetchable(tensor):
        in_context = tensor.op._get_control_flow_context() is not None
        in_function = _versions.outer_graph(tensor.graph) is not None
        return not in_context and not in_function

    def _dense(self, drawn):
        return _under_whole_rows(drawn, self._whole_rows)

    def _latest_drawn(self):
        if self._latest is None and self._variable is not None:
            # All calls were in nested loops: the same read where it can be
            # fetched, after those of the same ops that can be waited for there.
            with ops.init_scope():
                waits = [op for op in self._waits if self._here().sees_op(op)]
                with tf.control_dependencies(waits):
                    self._here_drawn()
        return self._latest

    @property
    def latest(self):
        """The mask in use, of the whole kernel's shape, to fetch; or None.

        None when nothing is dropped, before the mask exists, and for a mask
        that is drawn inside of a loop, where a fetch cannot reach it.
        """
        return self._diagnostic("whole", self._dense)

    @property
    def kept_fraction(self):
        """Scalar float32: the share of entries that are not dropped."""
        return self._diagnostic("kept_fraction", _nonzero_fraction)

    @property
    def changed(self):
        """Scalar bool: has the mask changed since the last fetch of this?"""
        return self._diagnostic("changed", self._changed)

    def _diagnostic(self, name, make):
        drawn = self._latest_drawn()
        if drawn is None:
            return None
        if (name, drawn) not in self._diagnostics:
            with ops.init_scope(), tf.name_scope(self._name + "_" + name):
                self._diagnostics[name, drawn] = make(drawn)
        return self._diagnostics[name, drawn]

    def _changed(self, drawn):
        mask = drawn.dense()
        previous = _scratch_variable(self._shape, self._dtype, "previous")
        before = _read_or_ones(previous)
        changed = tf.reduce_any(tf.not_equal(mask, before))
        with tf.control_dependencies([changed]):
            remember = previous.assign(mask, read_value=False)
        with tf.control_dependencies([remember]):
            return tf.identity(changed)

    def update_ops(self, method):
        """The op that draws a new mask, in a list; [] if there is none to run.

        Args:
          method: the user's name for this, for the error sentences.
        """
        if not self._has_variable(method):
            return []
        _checks.keep_prob_outside_loops(
            self._argument, self._update is not None
        )
        return [self._update]

    def reset_ops(self, method):
        """The op that makes the mask all ones, in a list; [] if none."""
        return [self._reset] if self._has_variable(method) else []

    def _has_variable(self, method):
        if not self.active or self._mode != VARIABLE:
            return False
        _checks.mask_exists(method, self.built)
        return True


def _nonzero_fraction(drawn):
    return tf.reduce_mean(tf.cast(tf.not_equal(drawn.dense(), 0), tf.float32))


def mask_summaries(*owners):
    """Adds `tf.summary` scalars that show whether dropping works.

    For each owner: `kept_fraction`, the share of entries that are not dropped,
    and `changed`, 1 when the mask is another one than at the last summary. A
    healthy run shows the keep rate and a row of ones.

    Args:
      *owners: `WeightDropLSTMCell`s, `WeightDropLSTMBlockFusedCell`s and
        `VariationalDropout`s, after they were called.

    Returns:
      List of summary tensors, for `tf.summary.merge`; also in
      `tf.GraphKeys.SUMMARIES`. Owners with no mask to fetch add none.

    Raises:
      TypeError: for something that has no mask.

    Example:

        tf.summary.merge(awd_lstm_tf.mask_summaries(cell))
    """
    summaries = []
    for owner in owners:
        if _checks.mask_owner(owner).mask is None:
            continue
        with tf.name_scope(owner.name + "_mask"):
            changed = tf.cast(owner.mask_changed, tf.float32)
            summaries += [
                tf.summary.scalar("kept_fraction", owner.kept_fraction),
                tf.summary.scalar("changed", changed),
            ]
    return summaries
