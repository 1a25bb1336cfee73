"""Variables that hold masks: scratch state of one graph, and no more."""

import uuid

import numpy as np
from tensorflow.core.framework import attr_value_pb2, variable_pb2
from tensorflow.python.framework import ops
from tensorflow.python.ops import resource_variable_ops

from awd_lstm_tf import _drawing, _placing
from awd_lstm_tf._versions import tf

# Masks are scratch state: in no checkpoint, with no need of an initializer.
MASKS = "awd_lstm_tf_masks"
_SCRATCH = "awd_lstm_tf_scratch"  # all variables that are made here


class _Graphs(object):
    """Whose the names of graphs are."""


_GRAPHS = _Graphs()


def _make_own(handle):
    """Has no other graph, and no other import of this one, share a variable.

    On one server, variables are shared by their names, and a graph that is
    imported brings those along.
    """
    names = _placing.memory(handle.graph, _GRAPHS)
    graph = names.setdefault("name", f"awd_lstm_tf_{uuid.uuid4().hex}")
    name = f"{graph}/{handle.op.name}".encode()
    handle.op._set_attr("shared_name", attr_value_pb2.AttrValue(s=name))


def _scratch_variable(initial, name, collections):
    # A ResourceVariable made directly, not `tf.get_variable`: its name is
    # unique by itself, and each replica of a MirroredStrategy has its own. The
    # device is the one of an op that holds no state, so a device setter for
    # parameter servers leaves the mask on its worker.
    with tf.device(tf.no_op().device):
        variable = resource_variable_ops.ResourceVariable(
            initial,
            trainable=False,
            collections=[*collections, _SCRATCH],
            name=name,
        )
    _make_own(variable.handle)
    return variable


def _exported(variable, export_scope=None):
    """What a graph on disk says of a variable: the name of its handle."""
    name = variable.name
    if export_scope and not name.startswith(export_scope + "/"):
        return None
    name = ops.strip_name_scope(name, export_scope)
    return variable_pb2.VariableDef(variable_name=name)


def _imported(said, import_scope=None):
    """The handle in a graph that was imported."""
    name = ops.prepend_name_scope(said.variable_name, import_scope)
    handle = tf.get_default_graph().as_graph_element(name)
    _make_own(handle)
    return handle


ops.register_proto_function(
    _SCRATCH, variable_pb2.VariableDef, _exported, _imported
)


def _read_or(variable, default):
    # No initializer is ever needed: an uninitialized mask is the identity.
    return tf.cond(variable.is_initialized(), variable.read_value, default)


class Held(object):
    """A mask in variables: all ones until one is assigned.

    Two, so a run that reads while another session writes may get one of them
    from before: at the first update, at a reset, and when the rate changes.

    Both are int64, a bit for each entry, the scale as that of a float64: what
    passes through a cond is then in a GPU's memory, where bools are not, and is
    left alone by `tf.add_check_numerics_ops`, which refuses floats in a cond.
    """

    def __init__(self, shape, dtype, name, collections=(MASKS,)):
        self._shape, self._dtype = shape, dtype
        self._kept = _scratch_variable(self._ones, name, list(collections))
        self._scale = _scratch_variable(_one, name + "_scale", [])

    def _ones(self):
        return _drawing.all_kept(self._shape)

    def read(self):
        """The `Drawn` that is held."""
        words = _read_or(self._kept, self._ones)
        scale = tf.bitcast(_read_or(self._scale, _one), tf.float64)
        # What has a gradient, `tf.custom_gradient` follows back to a variable
        # that it then does not find in any collection.
        return _drawing.Drawn(
            tf.stop_gradient(words),
            tf.stop_gradient(tf.cast(scale, self._dtype)),
            self._shape,
        )

    def assign(self, drawn):
        """A list of ops without outputs."""
        scale = tf.bitcast(tf.cast(drawn.scale, tf.float64), tf.int64)
        return [
            self._kept.assign(drawn.kept, read_value=False),
            self._scale.assign(scale, read_value=False),
        ]


def _one():
    return tf.constant(np.float64(1).view(np.int64))
