"""Which variable a checkpoint holds under which name, where averages are."""

from tensorflow.python.ops import variables
from tensorflow.python.training.saver import BaseSaverBuilder

from awd_lstm_tf import _averages
from awd_lstm_tf._versions import tf


def swapped_names(var_list, averages):
    """For a saver: averages by their weights' names, and weights by theirs."""
    listed = list(parts(var_list))
    pairs = [
        pair for pair in averages.pairs if not set(pair).isdisjoint(listed)
    ]
    both = any(average in listed for _, average in pairs)
    if both:
        _check_all_are_there(listed, averages)
    names, swapped, places = {}, averages.state.swapped, averages.places()
    for pair in pairs:
        names[pair[0].op.name] = _Pair(pair, places, both)
    if both or swapped in listed:
        names[swapped.op.name] = _Swapped(swapped, both)
    own = {swapped}.union(*pairs)
    for var in listed:
        if var not in own:
            add_to(names, name_of(var), var)
    return names


def _check_all_are_there(listed, averages):
    # Whether they are swapped is said, in a checkpoint, of all of them.
    for var in sum(averages.pairs, ()):
        if var not in listed:
            raise ValueError(
                "`var_list` of `swapping_saver` must hold all averages, and "
                f"their weights, or no average, got some without {name_of(var)}"
                ": add it, or leave the averages out."
            )


def shown_by_averages(checkpoint, scope):
    """Whether `averaged()` shows what the checkpoint has by averages' names.

    Args:
      checkpoint: a reader.
      scope: of the optimizer's state; a checkpoint that has none of it is
        taken for a plain one of an optimizer that averages.
    """
    swapped, start = False, 0
    if checkpoint.has_tensor(f"{scope}/swapped"):
        swapped = bool(checkpoint.get_tensor(f"{scope}/swapped"))
    if checkpoint.has_tensor(f"{scope}/trigger_step"):
        start = checkpoint.get_tensor(f"{scope}/trigger_step")
    return (start >= 0) != swapped


def parts(var_list):
    """The variables of a list; of those that are partitioned, the slices."""
    for var in var_list:
        if isinstance(var, variables.PartitionedVariable):
            yield from var
        else:
            yield var


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


class _Pair(BaseSaverBuilder.SaveableObject):
    """What is shown, by a weight's name, and what is trained, by its average's.

    Without the latter, both variables are restored to what is shown.
    """

    def __init__(self, pair, places, both):
        self._pair = pair
        with _averages.beside(pair[0]):
            values = [var.read_value() for var in pair]
            specs = [
                BaseSaverBuilder.SaveSpec(
                    tf.where(tf.equal(place, 0), *values),
                    var._save_slice_info.spec if var._save_slice_info else "",
                    name_of(var),
                )
                for var, place in zip(pair[: 1 + both], places)
            ]
        super(_Pair, self).__init__(pair[0], specs, pair[0].op.name)

    def restore(self, restored_tensors, restored_shapes):
        if restored_shapes is not None:
            restored_tensors = map(
                tf.reshape, restored_tensors, restored_shapes
            )
        values = list(restored_tensors)
        weight, average = self._pair
        return tf.group(weight.assign(values[-1]), average.assign(values[0]))


class _Swapped(BaseSaverBuilder.SaveableObject):
    """Whether what is in a checkpoint is swapped, and what is restored not."""

    def __init__(self, variable, value):
        name = variable.op.name
        with _averages.beside(variable):
            spec = BaseSaverBuilder.SaveSpec(tf.constant(value), "", name)
        super(_Swapped, self).__init__(variable, [spec], name)
        self._variable, self._value = variable, value

    def restore(self, restored_tensors, restored_shapes):
        return self._variable.assign(
            tf.not_equal(restored_tensors[0], self._value)
        )
