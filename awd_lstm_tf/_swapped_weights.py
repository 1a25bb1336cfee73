"""Other weights in a layer, for the time of a call.

A layer is taken apart into the layers in its attributes; what they hold, what
they build and what they get by `tf.get_variable` is swapped, and put back.
"""

import contextlib
import functools
import re
import sys
import threading

from tensorflow.python.ops import variable_scope, variables

from awd_lstm_tf import _checks, _masking, _versions
from awd_lstm_tf._versions import tf

# Where a layer keeps account of its weights, and of layers not its own.
_BOOKS = re.compile(
    "_(trainable_weights|non_trainable_weights|unconditional|self_uncond|"
    "inbound|outbound|self_name_based)"
)


class _Active(threading.local):
    """The runs that this thread is in, the outermost first."""

    runs = ()


_active = _Active()


class _Store(variable_scope._VariableStore):
    """A graph's variables by name, as runs have them gotten.

    A scope's getter would not do: a template, or a scope that was made outside
    of the call, brings its own
    (test_weight_drop_wrapper.py::test_scopes_made_outside).
    """

    __slots__ = ()  # for a store of TensorFlow's to become one of these

    def get_variable(self, *args, **kwargs):
        getter, get = kwargs.get("custom_getter"), super(_Store, self)
        # Getters around the wrapper see variables; those in it, the masked.
        after = [r for r in _active.runs if getter in (None, r.getter_around)]
        before = [run for run in _active.runs if run not in after]
        if before:
            kwargs["custom_getter"] = functools.partial(_got, getter, before)
        variable = get.get_variable(*args, **kwargs)
        # Else it would be left whole; what another run has masked is dropped.
        trained = not before and kwargs.get("trainable") is not False
        if trained and any(run.chosen(args[0]) for run in after):
            if not _is_variable(variable):
                _checks.assignable(args[0], variable)
        return _masked_by(after, variable)


def _got(custom, runs, getter, *args, **kwargs):
    def get(*args, **kwargs):
        return _masked_by(runs, getter(*args, **kwargs))

    return custom(get, *args, **kwargs)


def _masked_by(runs, variable):
    for run in runs:
        variable = run.gotten(variable)
    return variable


class Run(object):
    """One call: masked weights in the place of variables.

    Args:
      chosen: function of a variable's name, whether to mask it.
      masked: function of a variable, its masked weights.
      layers: set of the layers that are made in calls.
      stack: `ExitStack` of the call.
    """

    def __init__(self, chosen, masked, layers, stack):
        self.chosen, self._mask, self._layers = chosen, masked, layers
        self._stack = stack
        self._building = 0
        self._handed = []  # pairs of tensor and variable
        self.masked, self.seen = [], set()  # variables; names of all

    def _of(self, value):
        if not _is_trained(value):
            return value
        name = name_of(value)
        self.seen.add(name)
        if not self.chosen(name):
            return value
        self.masked.append(value)
        masked = self._mask(value)
        if isinstance(value, variables.PartitionedVariable):
            return _Parts(value, masked)
        return masked

    def swap(self, layer, stack):
        """Puts masked weights in `layer` until `stack` is closed."""
        for part in _parts(layer):
            attributes = vars(part)
            for name, value in list(attributes.items()):
                if _BOOKS.match(name):
                    continue
                new = _mapped(self._of, value)
                if new is not value:
                    stack.callback(attributes.__setitem__, name, value)
                    attributes[name] = new
            if getattr(part, "built", True) is False:
                self._swap_when_built(part, stack)

    def _swap_when_built(self, part, stack):
        build, attributes = part.build, vars(part)

        def build_and_swap(*args, **kwargs):
            attributes.pop("build", None)
            self._building += 1
            try:
                build(*args, **kwargs)
            finally:
                self._building -= 1
            self.swap(part, stack)

        attributes["build"] = build_and_swap
        stack.callback(attributes.pop, "build", None)

    def _swap_when_called(self, layer):
        """Does so in each call of a layer, until the run ends."""
        attributes = vars(layer)
        if "call" in attributes:
            return
        call = layer.call

        @_versions.as_written
        def call_swapped(*args, **kwargs):
            with contextlib.ExitStack() as stack:
                self.swap(layer, stack)
                return call(*args, **kwargs)

        attributes["call"] = call_swapped
        self._stack.callback(attributes.pop, "call", None)

    @contextlib.contextmanager
    def getting(self):
        """Has what is gotten by `tf.get_variable` masked."""
        # No scope is opened for it: layers remember those that they are called
        # in, and default names are counted on in each
        # (test_weight_drop_wrapper.py::test_functions_in_one_scope).
        variable_scope._get_default_variable_store().__class__ = _Store
        self.getter_around = tf.get_variable_scope().custom_getter
        self._names = tf.get_default_graph().get_name_scope()
        outer = _active.runs
        _active.runs = (*outer, self)
        try:
            yield
        finally:
            _active.runs = outer

    def gotten(self, variable):
        """What the layer is handed for a variable that it gets."""
        with tf.name_scope(self._names + "/" if self._names else None):
            return self._gotten(variable)

    def _gotten(self, variable):
        masked, layers = variable, _layers_in_frames(*_BUILDING)
        if not self._building:
            self._layers.update(layers or _layers_in_frames(*_GETTING))
            if layers:  # to which it is a variable, with a regularizer
                self._swap_when_called(layers[0])
            else:
                masked = self._of(variable)
        self._handed.append((masked, variable))
        return masked

    def put_back(self, *layers):
        """Has layers that kept what they got keep the variables."""
        for layer in layers:
            for part in _parts(layer):
                for name, value in list(vars(part).items()):
                    new = _mapped(self._variable_of, value)
                    if new is not value:
                        vars(part)[name] = new
                self._keep_books(vars(part))

    def _variable_of(self, value):
        for tensor, variable in self._handed:
            if value is tensor:
                return variable
        return value

    def _keep_books(self, attributes):
        # A cell takes what is masked for a weight that is not trained, and
        # notes it after those that are
        # (test_weight_drop_wrapper.py::test_names_and_kinds_are_stock).
        handed = list(enumerate(self._handed))
        order = {id(each): at for at, (_, each) in reversed(handed)}
        others = attributes.get("_non_trainable_weights", [])
        trained = attributes.get("_trainable_weights", [])
        for each in [v for v in others if id(v) in order and _is_trained(v)]:
            others[:] = [other for other in others if other is not each]
            if all(each is not known for known in trained):
                trained.append(each)
        trained.sort(key=lambda variable: order.get(id(variable), -1))


class _Parts(variables.PartitionedVariable):
    """Masked weights in the parts of a variable: a lookup goes by parts."""

    def __init__(self, variable, masked):
        vars(self).update(vars(variable))
        (axis,) = variable._partition_axes()
        sizes = [part.shape.as_list()[axis] for part in variable]
        self._masked = masked
        self._variable_list = tf.split(masked, sizes, axis)

    def as_tensor(self):
        """All parts in one."""
        return self._masked


def read_whole(chosen, results, arguments):
    """The variables that results of a call are computed from, not dropped.

    Args:
      chosen: variables that were to be dropped.
      results: of the call: a tensor, or a structure with tensors.
      arguments: of the call. How they were computed is no matter of the layer.
    """
    owners = {op: each for each in chosen for op in _ops_of(each)}
    known = set(map(_versions.reference, _tensors_in(arguments)))
    left, found = _tensors_in(results), []
    while left:
        tensor = left.pop()
        op, key = tensor.op, _versions.reference(tensor)
        name = op.name.split("/")[-1]
        if key in known or name.startswith(_masking.NAMES):
            continue
        known.add(key)
        for each in map(_outside, op.inputs):
            if each.op not in owners:
                left.append(each)
            # A function that is given a handle may mask what it reads by that.
            elif each.dtype != tf.resource or op.type.startswith(_READING):
                found.append(owners[each.op])
    return found


def _outside(tensor):
    """What `tensor` is outside of the functions that captured it."""
    while _versions.captured_by(tensor.op):
        (tensor,) = _versions.captured_by(tensor.op)
    return tensor


_READING = ("ReadVariable", "ResourceGather")


def _ops_of(variable):
    if isinstance(variable, variables.PartitionedVariable):
        return [op for each in variable for op in _ops_of(each)]
    return [variable.op]


def _tensors_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for each in value for tensor in _tensors_in(each)]
    return [_outside(value)] if isinstance(value, tf.Tensor) else []


def _is_variable(value):
    partitioned = isinstance(value, variables.PartitionedVariable)
    is_one = hasattr(value, "assign") and hasattr(value, "initializer")
    return partitioned or (is_one and hasattr(value, "dtype"))


def _is_trained(value):
    if not _is_variable(value) or not value.dtype.is_floating:
        return False
    if isinstance(value, variables.PartitionedVariable):
        value = list(value)[0]
    trained = getattr(value, "trainable", None)
    if trained is None:  # TensorFlow 1.11
        trained = any(value is each for each in tf.trainable_variables())
    return trained


def name_of(variable):
    return variable.name.partition(":")[0]


def _mapped(function, value):
    """`value`, or if it is a container what is in it, mapped."""
    if type(value) is dict:
        new = {key: _mapped(function, each) for key, each in value.items()}
        changed = any(new[key] is not value[key] for key in new)
        return new if changed else value
    if isinstance(value, list) or type(value) is tuple:
        new = [_mapped(function, each) for each in value]
        changed = any(a is not b for a, b in zip(new, value))
        return (
            type(value)(new)
            if changed and type(value) is tuple
            else (new if changed else value)
        )
    return function(value)


def _parts(layer, found=None):
    """A layer, and the layers in its attributes, each once."""
    found = [] if found is None else found
    if hasattr(layer, "__dict__") and all(layer is not each for each in found):
        found.append(layer)
        for name, value in list(vars(layer).items()):
            if not _BOOKS.match(name):
                for each in _layers_in(value):
                    _parts(each, found)
    return found


def _layers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [layer for each in value for layer in _layers_in(each)]
    # `_Linear` is a helper of tf.contrib's cells.
    is_layer = _versions.is_layer(value) or type(value).__name__ == "_Linear"
    return [value] if is_layer else []


# The methods of layers, and of cells, that get a variable.
_BUILDING = ("add_weight", "add_variable")
_GETTING = ("_rnn_get_variable",)


def _layers_in_frames(*methods):
    """The layers that are in one of these methods now, the innermost first."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in methods:
            found.append(frame.f_locals.get("self"))
        frame = frame.f_back
    return [layer for layer in found if _versions.is_layer(layer)]
