"""Dropout masks that hold over many steps.

A `Mask` owns everything about one mask: how it is drawn, the variable that
holds it, the op that redraws it and the tensor that a sequence reads it into.
"""

import copy
import weakref

from tensorflow.python.framework import ops

from awd_lstm_tf import (
    _checks,
    _drawing,
    _holding,
    _masking,
    _placing,
    _versions,
    diagnostics,
    training,
)
from awd_lstm_tf._versions import tf

# The three ways of drawing a mask.
PER_STEP = "per_step"  # anew wherever and whenever the value is asked for
PER_RUN = "per_run"  # once in every session.run and sequence
VARIABLE = "variable"  # when the update op is run

MASKS = _holding.MASKS  # the collection of all mask variables


def mode_of(use_vd, auto_update):
    """The way of drawing that these two arguments of the users choose."""
    use_vd = _checks.boolean("use_vd", use_vd)
    if _checks.boolean("auto_update", auto_update) and not use_vd:
        raise ValueError(
            "`auto_update` must go with `use_vd=True`, got `use_vd=False`: "
            "set both, or leave `auto_update` out."
        )
    if not use_vd:
        return PER_STEP
    return PER_RUN if auto_update else VARIABLE


class _InGraph(object):
    """What one mask has in one graph."""

    def __init__(self, graph):
        self.graph = weakref.ref(graph)
        self.held = None  # _holding.Held, of a mask that is held
        self.root = None  # Drawn: that is read first, after nothing
        self.update = self.reset = None  # ops
        self.latest = None  # Drawn: the last that can be fetched
        self.waits = ()  # control inputs of the latest read
        self.reads = []  # Drawn, as they were first read
        self.diagnostics = {}  # by name and Drawn
        self.draws = 0


class Mask(object):
    """One dropout mask: its variable, its draws, its ops, its diagnostics.

    What it has in a graph is that graph's (`_placing.memory`), so one mask can
    be used in any number of graphs.

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
        self._by_phase = training.is_phase(self._is_train)
        self._seed = _checks.optional_integer("seed", seed)
        self._collections = _checks.collection_names(
            "updates_collections", updates_collections
        )
        self._name = name
        self._argument = argument
        self._shape = self._dtype = None
        self._whole_rows = 0
        if self.active:
            _checks.graph_mode(argument)

    def __deepcopy__(self, memo):
        twin = copy.copy(self)  # with the same tensors: they are not copied
        twin._shape = None
        if self._shape is not None:
            twin.build(self._shape, self._dtype, self._whole_rows)
        return twin

    @property
    def active(self):
        """Whether there is anything to drop: False means the identity."""
        always_whole = not _checks.is_tensor(self._keep_prob)
        always_whole = always_whole and self._keep_prob == 1.0
        return not always_whole and self._is_train is not False

    def build(self, shape, dtype, whole_rows=0):
        """Fixes the shape; makes the variable and its ops, once in a graph.

        Args:
          shape: list of ints, of the part of the weights that is dropped; with
            `PER_RUN`, sizes of None are those of what is dropped: `value_for`.
          dtype: of the weights.
          whole_rows: the number of rows above that part, never dropped, for
            `latest` to be of the whole kernel's shape.
        """
        if not self.active:
            return
        if self._shape is None:
            _checks.keep_prob_of_dtype(self._argument, self._keep_prob, dtype)
            self._shape, self._dtype = shape, dtype
            self._whole_rows = whole_rows
        _checks.mask_dtype(self._dtype, dtype)
        self._in_graph()

    def _is_train_here(self):
        if self._by_phase:
            # Keras sets its phase for parts of a program: a replica's fit.
            return training.training_phase()
        is_train = self._is_train
        if not isinstance(is_train, tf.Tensor) or is_train.shape.ndims == 0:
            return is_train
        return self._lifted(
            "is_train",
            lambda: _checks.scalar_at_run_time("is_train", is_train),
            is_train,
        )

    # In a graph

    def _in_graph(self):
        """The `_InGraph` of the graph that ops are put in now."""
        memory = _placing.root_memory(self)
        if "state" not in memory:
            memory["state"] = self._begin(_placing.root_graph())
        return memory["state"]

    def _known(self):
        """The `_InGraph` that is asked about: here, or where it was last."""
        return (_placing.known_memory(self) or {}).get("state")

    def _begin(self, graph):
        state = _InGraph(graph)
        self._check_graph(graph)
        if self._mode == VARIABLE:
            # Outside every context: the ops can be fetched wherever the first
            # call was made.
            with _placing.outside_all():
                _checks.graph_mode(self._argument)
                self._begin_holding(state)
        return state

    def _check_graph(self, graph):
        for argument, value in (
            (self._argument, self._keep_prob),
            ("is_train", self._is_train),
        ):
            if isinstance(value, tf.Tensor):
                outermost = _placing.outermost(value.graph)
                _checks.same_graph(argument, outermost is graph)

    def _begin_holding(self, state):
        state.held = _holding.Held(self._shape, self._dtype, self._name)
        with tf.name_scope(self._name + "_ops"):
            state.root = state.held.read()
            # The updates come after the read that has no order of its own:
            # where both are in one run, with nothing between them, every run
            # has the mask of the update before, not now this one, now that.
            with tf.control_dependencies(state.root.tensors):
                ones = _drawing.whole(self._shape, self._dtype)
                state.reset = _assignment(state.held, ones, "reset")
                if _placing.here().sees(self._keep_prob):
                    drawn = self._draw(state, dropping=True)
                    state.update = _assignment(state.held, drawn, "update")
        if state.update is not None:
            for name in self._collections:
                tf.add_to_collection(name, state.update)

    # Drawing

    def _rate(self):
        keep_prob = self._keep_prob
        if not _checks.is_tensor(keep_prob):
            return keep_prob
        # Read once: a variable may change between the draw and its scale.
        return self._lifted("rate", self._checked_rate, keep_prob)

    def _checked_rate(self):
        visible = _placing.here().sees(self._keep_prob)
        _checks.keep_prob_outside_loops(self._argument, visible)
        return _checks.checked_keep_prob(
            self._argument, self._keep_prob, self._dtype
        )

    def _next_seed(self, state):
        if self._mode != VARIABLE and _placing.in_gradients():
            raise NotImplementedError(
                f"`{self._argument}` must be 1.0 in what is computed again for "
                "its gradient (recompute_grad, tf.custom_gradient), got less: "
                "another mask would be drawn there than in the forward pass. "
                "Have one mask for both, by `use_vd=True`, or do not recompute."
            )
        # Ops of one seed would all draw the same sequence of masks.
        state.draws += 1
        if self._seed is None:
            return _placing.seed_in_function()
        return self._seed + state.draws - 1

    def _draw(self, state, dropping):
        seed = self._next_seed(state)
        rate = self._rate()
        scale = self._lifted(
            "scale",
            lambda: _drawing.scale(rate, self._dtype, dropping),
            rate,
            dropping,
        )
        kept = _drawing.draw(self._shape, rate, seed, dropping)
        return _drawing.Drawn(kept, scale, self._shape)

    def _lifted(self, name, make, *inputs):
        return _placing.once_per_sequence(self, name, make, inputs)

    # Using

    def value(self):
        """The mask for a call made here: `shape`, entries 0 or 1/keep_prob.

        Lifted out of the innermost loop, one tensor for all calls from one
        place; with `PER_STEP`, a new draw.
        """
        drawn = self._here_drawn()
        with tf.name_scope(self._name + "_value"):
            return self._lifted("value", drawn.dense, *drawn.tensors)

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
        return self._lifted(
            "dropped",
            lambda: _masking.masked(self, weights, drawn, self._whole_rows),
            weights,
            *drawn.tensors,
        )

    def value_for(self, inputs):
        """The mask for `inputs`: `shape`, with its sizes for those of None.

        Inputs of one shape have one mask in a run and place.
        """
        if None not in self._shape:
            return self.value()
        state = self._in_graph()
        refuse_in_defun(self._argument)
        with tf.name_scope(self._name + "_draw"):
            key = self._lifted("key", lambda: self._key(state))
            rate = self._rate()
            shape = tf.shape(inputs)[-len(self._shape) :]
            shape = tf.where(
                [size is None for size in self._shape],
                shape,
                [size or 0 for size in self._shape],
            )
            drawn = _drawing.draw_by_key(key, shape, rate, self._dtype)
            drawn = drawn.when(self._is_train_here())
        drawn.kept.set_shape(self._shape)
        self._note(state, drawn)
        return drawn.dense()

    def _key(self, state):
        least, limit = tf.int32.min, tf.int32.max
        seed = self._next_seed(state)
        return tf.random_uniform([2], least, limit, tf.int32, seed=seed)

    def _here_drawn(self):
        state = self._in_graph()
        refuse_in_defun(self._argument)
        with tf.name_scope(self._name + "_draw"):
            if self._mode == PER_STEP:
                drawn = self._draw(state, self._is_train_here())
            elif self._mode == PER_RUN:
                drawn = self._per_run(state)
            else:
                drawn = self._read(state)
        self._note(state, drawn)
        return drawn

    def _note(self, state, drawn):
        if _fetchable(drawn.kept):
            state.latest = drawn
            # Made now: when it is asked for, the graph may be finalized.
            self._diagnostic(state, "whole", self._dense)
            self._diagnostic(state, "kept_fraction", diagnostics.kept_fraction)

    def _per_run(self, state):
        is_train = self._is_train_here()
        with _placing.outside_innermost_loop() as place:
            lifted = place.sees(is_train)
            # A variable may change between two calls in a run.
            lifted = lifted and isinstance(is_train, (bool, tf.Tensor))
            dropping = is_train if lifted else True
            memory = _placing.memory(place.graph, self)
            key = "drawn", place.context, _versions.reference(dropping)
            if key not in memory:
                memory[key] = self._draw(state, dropping)
            drawn = memory[key]
            if not lifted and place.sees(is_train):
                self._note(state, drawn.when(is_train))
        return drawn if lifted else drawn.when(is_train)

    def _read(self, state):
        is_train = self._is_train_here()
        writes = [op for op in (state.update, state.reset) if op is not None]
        with _placing.outside_innermost_loop(True, writes) as place:
            lifted = place.sees(is_train)
            if _placing.in_function():  # a variable may change between calls
                lifted = lifted and isinstance(is_train, (bool, tf.Tensor))
            dropping = is_train if lifted else True
            memory = _placing.memory(place.graph, self)
            key = ("read", _versions.reference(dropping)) + place.key
            if key not in memory:
                memory[key] = self._read_at(state, place).when(dropping)
                state.reads.append(memory[key])
            drawn = memory[key]
        _placing.made_at(place, *drawn.tensors)
        state.waits = place.control_inputs
        return drawn if lifted else drawn.when(is_train)

    def _read_at(self, state, place):
        if state.reads and _placing.in_gradients():
            # Called again, for its gradient: what is waited for there may have
            # changed the mask since the forward pass.
            return self._read_before(state, place)
        # Only the update op changes the mask, at the root, once in a run: a
        # read there that waits for nothing may be the one made first. Not in a
        # function: that waits for what its calls wait for.
        if place.graph is state.graph() and not place.control_inputs:
            return state.root
        return state.held.read()

    def _read_before(self, state, place):
        (drawn, *others) = state.reads
        if others or not all(map(place.sees, drawn.tensors)):
            raise NotImplementedError(
                f"`{self._argument}` below 1.0 must go with `auto_update=True` "
                "in what is computed again for its gradient (recompute_grad, "
                "tf.custom_gradient), got a held mask that was read "
                f"{len(state.reads)} times before, in other places."
            )
        return drawn

    # Showing

    def _dense(self, drawn):
        mask = drawn.dense()
        if not self._whole_rows:
            return mask
        return tf.pad(mask, [[self._whole_rows, 0], [0, 0]], constant_values=1)

    def _latest_drawn(self, state):
        if state.latest is None and state.held is not None:
            # All calls were in nested loops: the same read where it can be
            # fetched, after those of the same ops that can be waited for there.
            waits = filter(_placing.here().sees_op, state.waits)
            with tf.control_dependencies(list(waits)):
                self._here_drawn()
        return state.latest

    @property
    def latest(self):
        """The mask in use, of the whole kernel's shape, to fetch; or None.

        None when nothing is dropped, before the mask exists, and for a mask
        that is drawn inside of a loop, where a fetch cannot reach it.
        """
        return self._diagnostic(self._known(), "whole", self._dense)

    @property
    def kept_fraction(self):
        """Scalar float32: the share of entries that are not dropped."""
        return self._diagnostic(
            self._known(), "kept_fraction", diagnostics.kept_fraction
        )

    @property
    def changed(self):
        """Scalar bool: has the mask changed since the last fetch of this?"""
        return self._diagnostic(
            self._known(), "changed", diagnostics.has_changed
        )

    def _diagnostic(self, state, name, make):
        if state is None:
            return None
        graph, called = state.graph(), _CALLED.get(name, name)
        with graph.as_default(), ops.init_scope():
            with _checks.not_finalized(graph, called):
                drawn = self._latest_drawn(state)
                if drawn is None:
                    return None
                key = (name,) + tuple(map(_versions.reference, drawn.tensors))
                if key not in state.diagnostics:
                    with tf.name_scope(self._name + "_" + name):
                        made = state.diagnostics[key] = make(drawn)
                    if made is not None:  # for nothing is computed from it
                        graph.prevent_feeding(made)
            return state.diagnostics[key]

    # Ops

    def update_ops(self, method):
        """The op that draws a new mask, in a list; [] if there is none to run.

        Args:
          method: the user's name for this, for the error sentences.
        """
        if not self._is_held(method):
            return []
        update = self._known().update
        _checks.keep_prob_outside_loops(self._argument, update is not None)
        return [update]

    def reset_ops(self, method):
        """The op that makes the mask all ones, in a list; [] if none."""
        return [self._known().reset] if self._is_held(method) else []

    def _is_held(self, method):
        if not self.active or self._mode != VARIABLE:
            return False
        _checks.mask_exists(method, self._known() is not None)
        return True


_CALLED = {"whole": "mask", "changed": "mask_changed"}  # by users


def refuse_in_defun(argument):
    """Raises an error in a function that TensorFlow computes twice."""
    if _placing.in_defun():
        raise NotImplementedError(
            f"`{argument}` must be 1.0 in a Defun (tensorflow.python.framework."
            "function), got less: its gradient runs the function again, with "
            "another mask. Use tf.function, or on TensorFlow before 1.15 "
            "tf.contrib.eager.defun."
        )


def _assignment(held, drawn, name):
    # The op handed out has an output: a while loop drops control dependencies
    # on outer ops that have none.
    with tf.control_dependencies(held.assign(drawn)):
        return tf.constant(True, name=name).op


def _fetchable(tensor):
    in_context = tensor.op._get_control_flow_context() is not None
    in_function = _versions.outer_graph(tensor.graph) is not None
    return not in_context and not in_function
