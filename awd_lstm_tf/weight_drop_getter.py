"""Weight drop for any layer: a `custom_getter` that masks what it gets."""

from tensorflow.python.framework import ops
from tensorflow.python.ops import variables

from awd_lstm_tf import _checks, masks
from awd_lstm_tf._versions import tf

# The matrices of TensorFlow's layers and cells; "weights" are tf.contrib's.
KERNELS = "(kernel|weights)$"

_SEED_STRIDE = 1000003  # more than one mask ever draws while a graph is built


class WeightDropGetter(object):
    """DropConnect on the variables of any layer or cell, chosen by name.

        layer(x; w)  becomes  layer(x; w * mask),  mask entries 0 or
        1 / weight_drop_kr

    A `custom_getter` for `tf.variable_scope`: what is built in the scope gets
    variables that are read masked, and are the stock ones in all else: names,
    checkpoints, initializers, collections, optimizers. Each variable has one
    mask, whoever reads it, also under `reuse=True`. The masks keep the promises
    of `WeightDropLSTMCell`'s, which stays the one to use for an LSTM: masks and
    products are lifted out of the loop that a layer is built or called in.

    `tf.layers`, `tf.get_variable`, `tf.contrib.layers` and the cells of
    `tf.nn.rnn_cell` and `tf.contrib.rnn` ask getters for their variables;
    `tf.keras.layers` do not. Variables that are not trainable, or not of a
    floating dtype, are never dropped. A layer's own `kernel_regularizer` sees
    the masked weights; that of a scope or of `tf.get_variable` does not.

    Example:

        drop = awd_lstm_tf.WeightDropGetter(0.5, use_vd=True)
        with tf.variable_scope("encoder", custom_getter=drop):
            cell = tf.nn.rnn_cell.GRUCell(650)
            outputs, state = tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)
        ...
        session.run(drop.get_vd_update_op())  # new masks
        session.run(train_op)

    References:
      Wan, Zeiler, Zhang, LeCun, Fergus: "Regularization of Neural Networks
      using DropConnect", ICML 2013, section 2.
      Merity, Keskar, Socher: "Regularizing and Optimizing LSTM Language
      Models", https://arxiv.org/abs/1708.02182, section 2.
    """

    def __init__(
        self,
        weight_drop_kr,
        *,
        use_vd=False,
        is_train=True,
        auto_update=False,
        updates_collections=None,
        seed=None,
        names=KERNELS,
    ):
        """Makes a getter. Masks are made when it gets variables.

        Args:
          weight_drop_kr: the keep rate of the weights: float in (0, 1], or a
            scalar float tensor, which is read and checked each time a mask is
            drawn.
          use_vd: True: masks hold over many steps (variational dropout).
            False: a new mask wherever and whenever a variable is read.
          is_train: bool, or scalar bool tensor. False: nothing is dropped.
          auto_update: with `use_vd`, draw new masks in every `session.run`;
            there are no ops to run and no mask variables.
          updates_collections: name, or list of names, of graph collections
            that the update ops are added to, such as
            `tf.GraphKeys.UPDATE_OPS`.
          seed: int. With `tf.set_random_seed` it makes the masks reproducible.
          names: which variables to drop: a regular expression that is searched
            for in a variable's full name, or a function from that name to a
            bool. By default names that end in "kernel" or "weights".

        Raises:
          ValueError: for a value out of its range.
          TypeError: for a value of the wrong kind.
        """
        use_vd = _checks.boolean("use_vd", use_vd)
        self._mode = masks.PER_STEP
        if use_vd:
            self._mode = masks.VARIABLE
        if _checks.auto_update(auto_update, use_vd):
            self._mode = masks.PER_RUN
        self._arguments = dict(
            keep_prob=weight_drop_kr,
            is_train=is_train,
            updates_collections=updates_collections,
            argument="weight_drop_kr",
        )
        self._seed = _checks.optional_integer("seed", seed)
        self._masked = {}  # by variable
        self._active = self._new_mask().active
        self._chosen = _checks.name_predicate("names", names)

    def _new_mask(self):
        seed = self._seed
        if seed is not None:
            seed += _SEED_STRIDE * len(self._masked)
        return masks.Mask(mode=self._mode, seed=seed, **self._arguments)

    def __call__(self, getter, name, *args, **kwargs):
        """Gets a variable by `getter`, masked if it is one to drop.

        Called by `tf.get_variable`, whose arguments these are.
        """
        variable = getter(name, *args, **kwargs)
        trainable = kwargs.get("trainable", True)
        droppable = trainable and variable.dtype.is_floating
        if not (self._active and droppable and self._chosen(name)):
            return variable
        _checks.assignable(name, variable)  # a tensor can be lifted nowhere
        if variable not in self._masked:
            self._masked[variable] = self._mask(name, variable)
        return self._masked[variable]

    def _mask(self, name, variable):
        mask = self._new_mask()
        shape = _checks.known_variable_shape(name, variable.shape)
        mask.build(shape, variable.dtype.base_dtype)
        return _masked_twin(variable, mask)

    def get_vd_update_op(self):
        """Returns a list of the ops that redraw the masks, one for each.

        Returns:
          A list of ops; [] when there is nothing to run (nothing is dropped,
          standard dropout, or `auto_update`).

        Raises:
          ValueError: if no variable to drop was gotten yet.
        """
        return self._ops("get_vd_update_op()", masks.Mask.update_ops)

    def get_vd_reset_op(self):
        """Returns a list of the ops that set the masks back to all ones.

        Returns:
          A list of ops; [] when there are no mask variables.

        Raises:
          ValueError: if no variable to drop was gotten yet.
        """
        return self._ops("get_vd_reset_op()", masks.Mask.reset_ops)

    def _ops(self, method, ops_of):
        if self._active and self._mode == masks.VARIABLE:
            _checks.gotten(method, self._masked)
        return [
            op
            for each in self._masked.values()
            for op in ops_of(each._weight_mask, method)
        ]

    @property
    def masks(self):
        """The masks in use: a dict by the names of the variables, to fetch.

        Those that no fetch can reach are left out: with standard dropout inside
        of a loop, and with `auto_update` before the variable is first read.
        """
        latest = {
            variable.name: each._weight_mask.latest
            for variable, each in self._masked.items()
        }
        return {name: mask for name, mask in latest.items() if mask is not None}


class MaskedVariable(object):
    """A mixin for variable classes: reading gives `variable * mask`.

    An instance shares the attributes of the variable that it stands for, so
    only what is overridden here is not that variable's.
    """

    __slots__ = ("_unmasked", "_weight_mask")

    def value(self):
        """The masked weights, computed once per sequence."""
        return self._weight_mask.drop(self._unmasked)

    def read_value(self):
        """The masked weights."""
        return tf.identity(self.value())

    as_tensor = _AsTensor = value

    def sparse_read(self, indices, name=None):
        """Some rows of the masked weights; their gradient stays sparse."""
        rows = tf.gather(self._unmasked, indices)
        return tf.multiply(rows, tf.gather(self._weight_mask.value(), indices))

    def gather_nd(self, indices, name=None):
        """Some entries of the masked weights."""
        return tf.gather_nd(self.value(), indices, name)

    def initialized_value(self):
        """The unmasked weights, for other variables to start with."""
        return self._unmasked.initialized_value()

    def __iter__(self):
        # The parts of a partitioned variable would be read without the mask.
        partitioned = isinstance(self, variables.PartitionedVariable)
        _checks.read_whole(self._unmasked.name, not partitioned)
        return super(MaskedVariable, self).__iter__()

    def __eq__(self, other):
        return self is other or self._unmasked is other

    def __ne__(self, other):
        return not self == other

    def __hash__(self):
        return hash(self._unmasked)


def _operator(name):
    def run(masked, *args):
        return getattr(tf.Tensor, name)(masked.value(), *args)

    return run


# Not left to the variable's class: that of a MirroredStrategy would use the
# unmasked one (test_weight_drop_getter.py::test_replicas_have_own_masks).
for _name in tf.Tensor.OVERLOADABLE_OPERATORS:
    if _name not in vars(MaskedVariable):
        setattr(MaskedVariable, _name, _operator(_name))


def _masked_twin(variable, mask):
    """`variable` in all but reading."""
    kind = type(variable)
    twin_kind = type("Masked" + kind.__name__, (MaskedVariable, kind), {})
    twin = object.__new__(twin_kind)
    twin.__dict__ = variable.__dict__
    twin._unmasked = variable
    twin._weight_mask = mask
    return twin


def _to_tensor(masked, dtype=None, name=None, as_ref=False):
    if as_ref:  # to be written to, or differentiated by
        return ops.internal_convert_to_tensor(masked._unmasked, as_ref=True)
    value = masked.value()
    if dtype is not None and not dtype.is_compatible_with(value.dtype):
        return NotImplemented
    return value


# Before the functions for TensorFlow's own kinds of variables, at 100.
tf.register_tensor_conversion_function(MaskedVariable, _to_tensor, 50)
