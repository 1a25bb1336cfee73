"""Which variable a checkpoint holds under which name, where averages are."""

from tensorflow.python.ops import variables
from tensorflow.python.training.saver import BaseSaverBuilder

from awd_lstm_tf._versions import tf


def swapped_names(var_list, averages):
    """For a saver: averages by their weights' names, and weights by theirs."""
    saved_as = dict(averages.pairs)
    saved_as.update({average: var for var, average in averages.pairs})
    names = {}
    for var in var_list:
        if var is averages.state.swapped:
            names[var.op.name] = _Negated(var)
        else:
            add_to(names, name_of(var), saved_as.get(var, var))
    return names


def holder_of_averages(checkpoint, swapped):
    """A function: does a checkpoint hold averages by a name of their own?

    Args:
      checkpoint: path prefix, or None for that of a `tf.train.Saver()`.
      swapped: name of the variable that says whether it has changed places.
    """
    if checkpoint is None:
        return lambda name: True
    reader = tf.train.load_checkpoint(checkpoint)
    if reader.has_tensor(swapped) and reader.get_tensor(swapped):
        return lambda name: False  # the averages have the weights' names
    return reader.has_tensor


def name_of(saved):
    """The name of a variable, or SaveableObject, in checkpoints."""
    if not isinstance(saved, variables.Variable):
        return saved.name
    slices = saved._save_slice_info
    return slices.full_name if slices else saved.op.name


def add_to(names, name, saved):
    """Adds a variable to the dict that a saver takes."""
    # The slices of a partitioned variable are one tensor of the checkpoint.
    if getattr(saved, "_save_slice_info", None):
        names.setdefault(name, []).append(saved)
    else:
        names[name] = saved


class _Negated(BaseSaverBuilder.SaveableObject):
    """Saves and restores the opposite of a bool variable."""

    def __init__(self, variable):
        name = variable.op.name
        negated = tf.logical_not(variable.read_value())
        spec = BaseSaverBuilder.SaveSpec(negated, "", name)
        super(_Negated, self).__init__(variable, [spec], name)
        self._variable = variable

    def restore(self, restored_tensors, restored_shapes):
        return self._variable.assign(tf.logical_not(restored_tensors[0]))
