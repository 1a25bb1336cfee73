"""Weight drop for any layer: a wrapper that drops for the time of a call."""

import contextlib
import copy
import functools
import inspect
import re
import weakref

from awd_lstm_tf import _checks, _placing, _versions, masks, training
from awd_lstm_tf._swapped_weights import Run, name_of, read_whole
from awd_lstm_tf._versions import rnn_cell, tf

# The matrices of TensorFlow's layers and cells; "weights" are tf.contrib's.
# Keras numbers those of several cells in one scope.
KERNELS = r"(kernel|weights)(_\d+)?$"

_SEED_STRIDE = 1000003  # more than one mask ever draws while a graph is built


class WeightDropWrapper(object):
    """DropConnect on the weights of any layer or cell, chosen by name.

        layer(x; w)  becomes  layer(x; w * mask),  mask entries 0 or
        1 / weight_drop_kr

    For the time of a call the layer finds masked weights in its attributes;
    before and after, and for all others, its weights are the stock variables:
    optimizers, averages, savers and initializers never see a mask. Names and
    checkpoints are the layer's. Each variable has one mask, which keeps the
    promises of `WeightDropLSTMCell`'s; that one, or
    `WeightDropLSTMBlockFusedCell`, is for an LSTM: masks and products are
    lifted out of the loop that the layer is called in.

    What can be wrapped, and what comes of it:

    | layer | the wrapper is |
    |---|---|
    | a cell of `tf.nn.rnn_cell` or `tf.contrib.rnn`, or a wrapper or stack of
    such | an `RNNCell` |
    | a layer or cell of `tf.keras.layers` | a `tf.keras.layers.Wrapper` |
    | a layer of `tf.layers`, a module, or a function that gets its weights by
    `tf.get_variable` | called as it is; other attributes are the layer's |

    Variables that are not trainable, or not of a floating dtype, are never
    dropped.

    Example:

        cell = awd_lstm_tf.WeightDropWrapper(
            tf.nn.rnn_cell.GRUCell(650), 0.5, use_vd=True)
        outputs, state = tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)
        ...
        session.run(cell.get_vd_update_op())  # new masks
        session.run(train_op)

    References:
      Wan, Zeiler, Zhang, LeCun, Fergus: "Regularization of Neural Networks
      using DropConnect", ICML 2013, section 2.
      Merity, Keskar, Socher: "Regularizing and Optimizing LSTM Language
      Models", https://arxiv.org/abs/1708.02182, section 2.
    """

    def __new__(cls, layer=None, *args, **kwargs):
        kind = _kind_of(layer) if cls is WeightDropWrapper else cls
        # Of Keras 2.x, which chooses among its own kinds there.
        return super(WeightDropWrapper, kind).__new__(kind)

    def __init__(
        self,
        layer,
        weight_drop_kr,
        *,
        use_vd=False,
        is_train=True,
        auto_update=False,
        updates_collections=None,
        seed=None,
        names=KERNELS,
        **kwargs,
    ):
        """Makes a wrapper. Masks are made when it is called.

        Args:
          layer: what to wrap, see above.
          weight_drop_kr: the keep rate of the weights: float in (0, 1], or a
            scalar float tensor, which is read and checked each time a mask is
            drawn.
          use_vd: True: masks hold over many steps (variational dropout).
            False: new masks at each call, and so at every time step.
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
          **kwargs: of a layer of `tf.keras.layers`: `name` and the like.

        Raises:
          ValueError: for a value out of its range; at a call, where no variable
            of the layer is to be dropped.
          TypeError: for a value of the wrong kind.
        """
        if "recurrent_only" in kwargs:
            raise TypeError(
                "`recurrent_only` must be left out for a wrapper, got "
                f"{kwargs['recurrent_only']!r}: choose by `names`, such as "
                "`names='recurrent'`."
            )
        self._begin_wrapper(layer, kwargs)
        self._weight_drop_config = dict(
            weight_drop_kr=weight_drop_kr,
            use_vd=use_vd,
            is_train=is_train,
            auto_update=auto_update,
            updates_collections=updates_collections,
            seed=_checks.optional_integer("seed", seed),
            names=names,
        )
        self._mode = masks.mode_of(use_vd, auto_update)
        self._active = self._new_mask(0).active
        self._chosen = _name_predicate(names)
        self._made = _Made()

    def _begin_wrapper(self, layer, kwargs):
        if kwargs:
            _refuse_more(kwargs)
        self.layer = layer

    def _new_mask(self, number):
        config = self._weight_drop_config
        seed = config["seed"]
        return masks.Mask(
            config["weight_drop_kr"],
            self._mode,
            is_train=config["is_train"],
            seed=None if seed is None else seed + _SEED_STRIDE * number,
            updates_collections=config["updates_collections"],
            argument="weight_drop_kr",
        )

    def __deepcopy__(self, memo):
        # Tensors are shared with a copy: they are not copied.
        for value in self._weight_drop_config.values():
            if isinstance(value, tf.Tensor):
                memo[id(value)] = value
        twin = memo[id(self)] = object.__new__(type(self))
        for name, value in vars(self).items():
            vars(twin)[name] = (
                value
                if name in ("_graph", "_thread_local", "_scope")
                else copy.deepcopy(value, memo)
            )
        return twin

    def get_config(self):
        """Is there for layers of `tf.keras.layers` alone."""
        raise training.NotKept(
            "`layer` must be of tf.keras.layers for a wrapper to be made again "
            f"from its config, got {self.layer!r}: wrap such a layer, or do "
            "not copy, save or make bidirectional by Keras what holds it."
        )

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes it from what `get_config` returned, in the current graph."""
        wrapper = _versions.keras_layers().Wrapper
        config = dict(training.taken_config(config))
        # Keras may copy what it is given, and cannot copy a tensor.
        make = functools.partial(cls, is_train=config.pop("is_train"))
        return wrapper.from_config.__func__(make, config, custom_objects)

    # A call

    def _call(self, call, *args, **kwargs):
        """`call` of the layer, with its chosen weights masked."""
        if not self._active:
            return call(*args, **kwargs)
        masks.refuse_in_defun("weight_drop_kr")
        with contextlib.ExitStack() as stack:
            run = Run(self._chosen, self._masked, self._made.layers, stack)
            run.swap(self.layer, stack)
            for layer in list(self._made.layers):
                run.swap(layer, stack)
            stack.enter_context(run.getting())
            result = call(*args, **kwargs)
        run.put_back(self.layer, *self._made.layers)
        self._check(run)
        _refuse_whole(read_whole(run.masked, result, (args, kwargs)))
        return result

    @_versions.as_written
    def _check(self, run):
        """Nothing that was to be dropped is left whole without a word."""
        if not run.masked:
            names = sorted(run.seen) or "no variable"
            raise ValueError(
                "`names` must choose a trainable variable of the layer, got "
                f"{self._weight_drop_config['names']!r} and {names}: name what "
                "is to be dropped."
            )
        for weight in getattr(self.layer, "trainable_weights", ()):
            name = name_of(weight)
            if self._chosen(name) and name not in run.seen:
                raise ValueError(
                    "`names` must choose variables that the layer has in "
                    "attributes, in lists or dicts of these, or gets in its "
                    f"call, got '{name}', which it hides: leave it out."
                )

    def _masked(self, variable):
        made = _placing.root_memory(self).setdefault("masks", {})
        name = variable.name
        if name not in made:
            made[name] = self._new_mask(len(made))
            shape = variable.shape
            if not shape.is_fully_defined():
                raise ValueError(
                    f"`names` must choose variables of known shape, got "
                    f"'{name}' of shape {shape}: leave it out."
                )
            made[name].build(shape.as_list(), variable.dtype.base_dtype)
        return made[name].drop(variable)

    # Its masks

    def _masks(self):
        """Masks by the names of variables."""
        return (_placing.known_memory(self) or {}).get("masks", {})

    def get_vd_update_op(self):
        """Returns a list of the ops that redraw the masks, one for each.

        Returns:
          A list of ops; [] when there is nothing to run (nothing is dropped,
          standard dropout, or `auto_update`).

        Raises:
          ValueError: if the wrapper was not called yet.
        """
        return self._ops("get_vd_update_op()", masks.Mask.update_ops)

    def get_vd_reset_op(self):
        """Returns a list of the ops that set the masks back to all ones.

        Returns:
          A list of ops; [] when there are no mask variables.

        Raises:
          ValueError: if the wrapper was not called yet.
        """
        return self._ops("get_vd_reset_op()", masks.Mask.reset_ops)

    def _ops(self, method, ops_of):
        found = self._masks().values()
        if self._active and self._mode == masks.VARIABLE and not found:
            raise ValueError(
                f"`{method}` needs the masks, which are made when the wrapper "
                "is called: call it first."
            )
        return [op for mask in found for op in ops_of(mask, method)]

    @property
    def masks(self):
        """The masks in use: a dict by the names of the variables, to fetch.

        Those that no fetch can reach are left out: with standard dropout inside
        of a loop, and all before the first call.
        """
        latest = {name: mask.latest for name, mask in self._masks().items()}
        return {name: mask for name, mask in latest.items() if mask is not None}

    @property
    def kept_fraction(self):
        """Scalar float32: the share kept of what can be dropped; or None."""
        return self._of_all("kept_fraction", self.masks.values(), _kept_of)

    @property
    def mask_changed(self):
        """Scalar bool: have all masks changed since the last fetch; or None."""
        changed = [mask.changed for mask in self._masks().values()]
        changed = [each for each in changed if each is not None]
        return self._of_all("mask_changed", changed, _all_of)

    def _of_all(self, name, found, make):
        if not found:
            return None
        made = _placing.known_memory(self)
        key = (name,) + tuple(map(_versions.reference, found))
        if key not in made:
            with _placing.at_root(found) as graph:
                with _checks.not_finalized(graph, name):
                    made[key] = make(found)
        return made[key]


def _kept_of(masks_):
    flat = [tf.reshape(mask, [-1]) for mask in masks_]
    kept = [tf.cast(mask > 0, tf.float32) for mask in flat]
    return tf.reduce_mean(tf.concat(kept, 0))


def _all_of(bools):
    return tf.reduce_all(tf.stack(bools))


class _Made(object):
    """Layers that were made in calls, for the time that they live."""

    def __init__(self):
        self.layers = weakref.WeakSet()

    def __deepcopy__(self, memo):
        return _Made()


# ---------------------------------------------------------------------------
# Kinds of wrappers


class _Cell(WeightDropWrapper, rnn_cell.RNNCell):
    def _begin_wrapper(self, layer, kwargs):
        if kwargs:
            _refuse_more(kwargs)
        with _versions.quiet():
            rnn_cell.RNNCell.__init__(self)
        # As an ordinary attribute, its variables would not be of the kind that
        # they are without a wrapper (TensorFlow 1.13).
        vars(self)["layer"] = layer
        _versions.track(self, layer, "layer")

    def __call__(self, inputs, state, *args, **kwargs):
        return self._call(self.layer, inputs, state, *args, **kwargs)

    def call(self, inputs, state):
        return self._call(self.layer.call, inputs, state)

    def build(self, inputs_shape):
        if not self.layer.built:
            self.layer.build(inputs_shape)
        self.built = True

    def zero_state(self, batch_size, dtype):
        return self.layer.zero_state(batch_size, dtype)

    state_size = property(lambda self: self.layer.state_size)
    output_size = property(lambda self: self.layer.output_size)
    trainable_weights = property(lambda self: self.layer.trainable_weights)
    non_trainable_weights = property(
        lambda self: self.layer.non_trainable_weights
    )
    weights = property(lambda self: self.layer.weights)
    variables = weights


class _Callable(WeightDropWrapper):
    def __call__(self, *args, **kwargs):
        return self._call(self.layer, *args, **kwargs)

    @property
    def name(self):
        return getattr(
            self.layer, "name", getattr(self.layer, "__name__", "weight_drop")
        )

    def __getattr__(self, name):
        if name.startswith("__") or name == "layer":
            raise AttributeError(name)
        return getattr(self.layer, name)


def _kind_of(layer):
    if isinstance(layer, type):
        raise TypeError(
            f"`layer` must be a layer, got the class {layer!r}: make one of it."
        )
    if isinstance(layer, rnn_cell.RNNCell):
        return _Cell
    if isinstance(layer, _versions.Layer):
        return _Callable
    keras = _versions.keras_layers()
    if keras is not None and isinstance(layer, keras.Layer):
        return _keras_kind(keras.Wrapper, hasattr(layer, "state_size"))
    if not callable(layer) or type(layer).__module__.startswith("keras.src"):
        raise TypeError(
            "`layer` must be a cell, a layer or a function of TensorFlow 1.x, "
            f"got {layer!r}."
        )
    return _Callable


_keras_kinds = {}


def _keras_kind(wrapper, is_cell):
    """The class of wrappers of Keras's layers, or of its cells."""
    if (wrapper, is_cell) not in _keras_kinds:
        members = _KerasCellMembers if is_cell else _KerasMembers
        _keras_kinds[wrapper, is_cell] = type(
            "WeightDropWrapper",
            (members, WeightDropWrapper, wrapper),
            {"__doc__": WeightDropWrapper.__doc__},
        )
    return _keras_kinds[wrapper, is_cell]


class _KerasMembers(object):
    def _begin_wrapper(self, layer, kwargs):
        super(WeightDropWrapper, self).__init__(layer, **kwargs)
        self.supports_masking = getattr(layer, "supports_masking", False)
        _versions.track(self, layer, "layer")  # 1.13 does not

    def build(self, input_shape=None):
        if not self.layer.built:
            with tf.name_scope(self.layer.name):
                self.layer.build(input_shape)
            self.layer.built = True
        self.built = True

    @_versions.as_written
    def call(self, inputs, *args, **kwargs):
        accepted = inspect.signature(self.layer.call).parameters
        for name in ("training", "mask"):
            if name not in accepted:
                kwargs.pop(name, None)
        return self._call(self.layer, inputs, *args, **kwargs)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def compute_mask(self, inputs, mask=None):
        return self.layer.compute_mask(inputs, mask)

    def get_config(self):
        """Returns the arguments to make this wrapper again.

        `training_phase()` is kept by its name.

        Raises:
          ValueError: for an argument that is any other tensor, and for `names`
            that are a function.
        """
        config = super(WeightDropWrapper, self).get_config()
        names = self._weight_drop_config["names"]
        if not isinstance(names, str):
            raise training.NotKept(
                "`names` must be a string for a layer to be made again from "
                f"its config, got {names!r}."
            )
        kept = training.kept_config(self._weight_drop_config)
        return dict(config, **kept)


class _KerasCellMembers(_KerasMembers):
    state_size = property(lambda self: self.layer.state_size)
    output_size = property(lambda self: self.layer.output_size)

    def get_initial_state(self, *args, **kwargs):
        return self.layer.get_initial_state(*args, **kwargs)


@_versions.as_written
def _refuse_whole(found):
    for variable in found:
        raise ValueError(
            "`names` must choose variables that the layer reads when it is "
            f"called, got '{name_of(variable)}', of which it uses what it made "
            "of it before, such as when it was built: leave it out."
        )


def _refuse_more(arguments):
    name, value = sorted(arguments.items())[0]
    raise TypeError(
        f"`{name}` must be left out for a layer that is not of tf.keras, got "
        f"{value!r}."
    )


def _name_predicate(value):
    if callable(value):
        return value
    try:
        return re.compile(value).search
    except (TypeError, re.error):
        raise TypeError(
            "`names` must be a regular expression or a function from a name "
            f"to a bool, got {value!r}."
        ) from None
