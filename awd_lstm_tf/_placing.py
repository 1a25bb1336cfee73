"""Where ops are put: every use of the private parts of TensorFlow's contexts.

`once_per_sequence` puts a computation outside of the loop it is asked for in;
`memory` has the graph itself keep what was made in it, so that nothing outlives
its graph, or is found in another.
"""

import collections
import contextlib
import sys
import threading
import weakref

from tensorflow.python.framework import ops

from awd_lstm_tf import _versions
from awd_lstm_tf._versions import tf


class Place(
    collections.namedtuple("Place", "graph context control_inputs is_early")
):
    """A spot in the graph: what ops created there belong to and wait for.

    `is_early`: something in the branch of a cond is waited for, and not here.
    """

    def sees(self, value):
        """Whether `value` can be used here without being in a deeper loop."""
        if not isinstance(value, tf.Tensor):
            return True  # Python values, and variables, which live at the root
        return self.sees_op(value.op)

    def sees_op(self, op):
        if op.graph is not self.graph:
            return op.graph in _around(self.graph)
        inner, context = op._get_control_flow_context(), self.context
        while context is not None and context is not inner:
            context = context.outer_context
        return inner is None or context is inner

    @property
    def key(self):
        """What tells this place from others in its graph."""
        return self.context, self.control_inputs


def here():
    """The place of a call, without what it waits for."""
    graph = tf.get_default_graph()
    return Place(graph, graph._get_control_flow_context(), (), False)


def _around(graph):
    """The graph and those it is built in, functions' and loops' among them."""
    found = []
    while graph is not None:
        found.append(graph)
        graph = _versions.outer_graph(graph)
    return found


def outermost(graph):
    """The graph that holds `graph`, and is no function's."""
    return _around(graph)[-1]


def root_graph():
    """The outermost graph of what is made now."""
    return outermost(tf.get_default_graph())


def memory(graph, owner):
    """A dict of what `owner` has made in `graph`.

    The graph holds it, and the owner is held by nothing here: it lives as long
    as both of them do (test_situations.py::test_graph_is_freed).
    """
    if not hasattr(graph, "_awd_lstm_tf"):
        graph._awd_lstm_tf = weakref.WeakKeyDictionary()
    return graph._awd_lstm_tf.setdefault(owner, {})


_last = weakref.WeakKeyDictionary()  # the graph that an owner was last used in


def root_memory(owner):
    """The `memory` of the outermost graph of what is made now."""
    graph = root_graph()
    _last[owner] = weakref.ref(graph)
    return memory(graph, owner)


def known_memory(owner):
    """The same, or that of the graph that `owner` was last used in; or None."""
    graph = root_graph()
    if owner not in getattr(graph, "_awd_lstm_tf", ()):
        graph = owner in _last and _last[owner]()
    return memory(graph, owner) if graph else None


class _Seeds(object):
    """Whose the counts of seeds in graphs are."""


_SEEDS = _Seeds()


def seed_in_function():
    """An op-level seed where TensorFlow's own would not do; else None.

    Under `tf.set_random_seed` it numbers ops within their graph, so the same in
    each branch of `static_rnn` with `sequence_length` (control flow v2).
    """
    graph = tf.get_default_graph()
    if graph.seed is None or _versions.outer_graph(graph) is None:
        return None
    counts = memory(outermost(graph), _SEEDS)
    counts["seeds"] = counts.get("seeds", 0) + 1
    return 2**30 + counts["seeds"]


@contextlib.contextmanager
def outside_all():
    """`tf.init_scope`, in the name scope of what is made now.

    A loop's or a function's graph has a scope of its own, which begins in that
    of the graph that it is built in: what belongs to a tower is found by it.
    """
    graphs = reversed(_around(tf.get_default_graph()))
    scopes = filter(None, (graph.get_name_scope() for graph in graphs))
    scope = "".join(name + "/" for name in scopes)
    with ops.init_scope(), tf.name_scope(scope or None):
        yield


@contextlib.contextmanager
def at_root(tensors):
    """Creates ops in the graph of `tensors`, outside of all contexts."""
    (graph,) = {outermost(tensor.graph) for tensor in tensors}
    with graph.as_default(), ops.init_scope():
        yield graph


# ---------------------------------------------------------------------------
# Leaving loops


class _Lifting(threading.local):
    """What this thread is doing: where to, if it is lifting already."""

    place = None
    as_a_loop = False


_lifting = _Lifting()


@contextlib.contextmanager
def as_a_loop():
    """What a whole sequence is computed with is made for each call of it.

    For `once_per_sequence` it is a loop: one around it is another, which may
    change the weights at each of its turns.
    """
    before, _lifting.as_a_loop = _lifting.as_a_loop, True
    try:
        yield
    finally:
        _lifting.as_a_loop = before


def _outside(for_reading, in_turn):
    """The graph and context around the innermost loop, and if there is one.

    Conds on the way to that loop are left, too, so that the steps of
    `static_rnn` with `sequence_length` (each in a cond) and both branches of a
    user's cond find one and the same place.

    What is but read, once, when a loop or a compiled function begins, is read
    further out: where loops and conds are graphs of their own (control flow
    v2), and in an XLA context, which else is not ours to leave.
    """
    graph = tf.get_default_graph()
    context = graph._get_control_flow_context()
    left_loop = False
    while True:
        if in_turn and _is_loop(graph, context):
            return graph, context, True
        if context is None:
            if not _is_part(graph):
                return graph, None, left_loop
            left_loop = _versions.is_loop_graph(graph)
            graph = _versions.outer_graph(graph)
            context = graph._get_control_flow_context()
        elif context.IsWhileContext() or context.IsCondContext():
            left_loop = context.IsWhileContext()
            context = context.outer_context
        elif for_reading and context.IsXLAContext():
            left_loop, context = False, context.outer_context
        else:
            return graph, context, left_loop
        if left_loop and not (for_reading and _is_left(graph, context)):
            return graph, context, True


def _is_loop(graph, context):
    """Whether this is the inside of a loop, and of no cond in it."""
    if context is None:
        return _versions.is_loop_graph(graph)
    return context.IsWhileContext()


def _is_part(graph):
    """Whether `graph` is a loop's or a branch's (control flow v2)."""
    return _versions.is_loop_graph(graph) or _versions.is_branch_graph(graph)


def _is_left(graph, context):
    return _in_xla(context) or (context is None and _is_part(graph))


def _in_xla(context):
    while context is not None and not context.IsXLAContext():
        context = context.outer_context
    return context is not None


def in_xla():
    """Whether ops created now are compiled by XLA, or nothing."""
    return any(
        _in_xla(graph._get_control_flow_context())
        for graph in _around(tf.get_default_graph())
    )


def _lifted_to():
    """The `Place` that what is made now is lifted to already; or None."""
    place = _lifting.place
    is_there = place and (place.graph, place.context) == here()[:2]
    return place if is_there else None


@contextlib.contextmanager
def outside_innermost_loop(for_reading=False, after=(), in_turn=False):
    """Creates ops outside the innermost loop, and yields their `Place`.

    Unlike `tf.init_scope` and `tf.control_dependencies(None)` it keeps those
    of the surrounding control dependencies that can be seen from out there, so
    that a call inside `tf.control_dependencies(update_ops)` is after the update
    (test_masks.py::test_ordering_is_honoured). Those that cannot be seen are
    replaced by what they wait for themselves, among the ops `after`.

    `in_turn`: conds are left, not the loop that they are in.
    """
    spot = _lifted_to()
    if spot is not None:  # what is lifted already, leaves no more loops
        yield spot
        return
    graph, context, left_loop = _outside(for_reading, in_turn)
    before = graph._get_control_flow_context()
    stack = graph._control_dependencies_stack
    spot = Place(graph, context, (), False)
    waits = _waits(graph)
    kept = [op for op in waits if spot.sees_op(op)]
    lost = [op for op in waits if op not in kept]
    if lost:
        kept += [op for op in after if op in behind(lost)]
    is_early = bool(lost) and not left_loop
    spot = spot._replace(control_inputs=tuple(kept), is_early=is_early)
    with graph.as_default():
        graph._set_control_flow_context(context)
        graph._control_dependencies_stack = []
        outer, _lifting.place = _lifting.place, spot
        try:
            with tf.control_dependencies(kept):
                yield spot
        finally:
            _lifting.place = outer
            graph._control_dependencies_stack = stack
            graph._set_control_flow_context(before)


def _waits(outer):
    """The ops that what is made now waits for, in graphs up to `outer`."""
    found = []
    for graph in _around(tf.get_default_graph()):
        for level in graph._control_dependencies_stack:
            found += level.control_inputs
        if graph is outer:
            return found
        # A body's ops do not wait for ops outside: all of the loop does.
        found += _versions.waited_for(graph)


def behind(ops_):
    """Yields the ops that are computed for `ops_`, these among them."""
    known, left = set(), list(ops_)
    while left:
        op = left.pop()
        if op not in known:
            known.add(op)
            yield op
            outside = _versions.captured_by(op)
            before = [tensor.op for tensor in list(op.inputs) + outside]
            left += before + list(op.control_inputs)


def made_at(place, *tensors):
    """Tells the surrounding control dependencies that `tensors` wait already.

    What uses such a tensor need not wait again, and in an inner loop it could
    not: TensorFlow 1.x would have its Enter wait for an op of another frame
    (test_masks.py::test_ordering_is_honoured_around_nested_loops).
    """
    for level in place.graph._control_dependencies_stack:
        if set(level.control_inputs) <= set(place.control_inputs):
            for tensor in tensors:
                level.add_op(tensor.op)


def _waits_already(value):
    """Whether the surrounding control dependencies know `value` to wait."""
    graph = tf.get_default_graph()
    if not isinstance(value, tf.Tensor) or value.graph is not graph:
        return False
    levels = graph._control_dependencies_stack
    return all(level.op_in_group(value.op) for level in levels)


def once_per_sequence(owner, name, make, inputs=()):
    """`make()`, computed once outside the innermost loop this is called in.

    Args:
      owner: the object that `make` belongs to.
      name: what is made, among all that the owner has made.
      make: a function without arguments that returns a tensor.
      inputs: the tensors and variables that `make` uses. If one of them was
        made inside the loop there is no way out: `make` is called in place; so
        it is in a branch, in no loop, that has it wait for ops of the branch.

    Returns:
      The tensor, shared by all calls from the same place.
    """
    waiting = list(filter(_waits_already, inputs))
    with outside_innermost_loop(in_turn=_lifting.as_a_loop) as place:
        made_at(place, *waiting)
        lifted = all(map(place.sees, inputs)) and not place.is_early
        # `tf.custom_gradient` looks for the variables that its function reads,
        # and does not see those that were read before.
        is_seen = in_custom_gradient() or in_gradients()
        cache = {} if is_seen else memory(place.graph, owner)
        key = (name, place.key) + tuple(map(_versions.reference, inputs))
        made, count = cache.get(key, (None, None))
        if lifted and (made is None or _may_differ(inputs, place.graph, count)):
            made = make()
            cache[key] = made, len(place.graph.get_operations())
    if not lifted:
        return make()
    made_at(place, made)
    return made


_WRITES = ("Assign", "Resource", "Scatter", "StatefulPart", "While", "If")


def _may_differ(inputs, graph, count):
    """Whether variables among `inputs` may have changed in ops from `count` on.

    In a function, reads and writes are in the order that they are made in.
    """
    if not in_function() or all(isinstance(x, tf.Tensor) for x in inputs):
        return False
    since = graph.get_operations()[count:]
    return any(op.type.startswith(_WRITES) for op in since)


# ---------------------------------------------------------------------------
# Inside what


def in_gradients():
    """Whether TensorFlow is at work on a gradient: a step back, not forward.

    A layer called then is one called again, by `recompute_grad` or a user's
    `tf.custom_gradient`.
    """
    return _called_by("_GradientsHelper", "imperative_grad")


def in_custom_gradient():
    """Whether this is the function that a `tf.custom_gradient` is around."""
    return _called_by("_graph_mode_decorator")


def _called_by(*names):
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in names:
            if frame.f_globals.get("__name__", "").startswith("tensorflow"):
                return True
        frame = frame.f_back
    return False


def in_function():
    """Whether ops go into a function's graph, not into one of loops alone."""
    graphs = _around(tf.get_default_graph())[:-1]
    return not all(map(_is_part, graphs))


def in_defun():
    """Whether ops go into a `Defun`, whose gradient runs it once more."""
    graphs = _around(tf.get_default_graph())
    return any(type(graph).__name__ == "_FuncGraph" for graph in graphs)
