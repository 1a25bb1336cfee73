"""What the owners of a dropped kernel have in common: one mask and its ops."""

from awd_lstm_tf import _checks, diagnostics, masks, training
from awd_lstm_tf._versions import tf


class DroppedKernel(diagnostics.MaskDiagnostics):
    """A mixin for `LayerRNNCell`s and layers with one kernel, one mask.

    The kernel holds the inputs' rows above the recurrent rows.
    """

    def _init_weight_drop(
        self,
        weight_drop_kr,
        use_vd,
        input_size,
        is_train,
        recurrent_only,
        auto_update,
        updates_collections,
        seed,
    ):
        mode = masks.mode_of(use_vd, auto_update)
        self._recurrent_only = _checks.boolean("recurrent_only", recurrent_only)
        self._input_size = _checks.optional_integer("input_size", input_size, 1)
        self._weight_drop_config = {
            "weight_drop_kr": weight_drop_kr,
            "use_vd": use_vd,
            "input_size": self._input_size,
            "is_train": is_train,
            "recurrent_only": self._recurrent_only,
            "auto_update": auto_update,
            "updates_collections": updates_collections,
            "seed": seed,
        }
        self._is_train = _checks.is_train(is_train)
        self._mask = masks.Mask(
            weight_drop_kr,
            mode,
            is_train=is_train,
            seed=seed,
            updates_collections=updates_collections,
            argument="weight_drop_kr",
        )

    def __deepcopy__(self, memo):
        # Tensors are shared with a copy: they are not copied.
        for value in self._weight_drop_config.values():
            if isinstance(value, tf.Tensor):
                memo[id(value)] = value
        return super(DroppedKernel, self).__deepcopy__(memo)

    @classmethod
    def from_config(cls, config):
        """Makes it from what `get_config` returned, in the current graph."""
        return cls(**training.taken_config(config))

    def _build_mask(self, input_depth, recurrent_depth, num_units, dtype):
        if self._input_size not in (None, input_depth):
            raise ValueError(
                "`input_size` must be the depth of the inputs, got "
                f"`input_size={self._input_size}` and inputs of depth "
                f"{input_depth}."
            )
        whole_rows = input_depth if self._recurrent_only else 0
        rows = input_depth + int(recurrent_depth) - whole_rows
        self._mask.build([rows, 4 * num_units], dtype, whole_rows)

    def _kernel_in_use(self):
        return self._mask.drop(self._kernel)

    def get_vd_update_op(self):
        """Returns a list of the ops that redraw the mask.

        Run them before a step, put them in `tf.control_dependencies`, or let
        `updates_collections` gather them. They are built once, with the mask:
        calling this adds no node to the graph.

        Returns:
          A list with one op; [] when there is nothing to run (nothing is
          dropped, standard dropout, or `auto_update`).

        Raises:
          ValueError: if the mask's shape is not known yet.
        """
        return self._mask.update_ops("get_vd_update_op()")

    def get_vd_reset_op(self):
        """Returns a list of the ops that set the mask back to all ones.

        Returns:
          A list with one op; [] when there is no mask variable.

        Raises:
          ValueError: if the mask's shape is not known yet.
        """
        return self._mask.reset_ops("get_vd_reset_op()")

    @property
    def mask(self):
        """The mask in use, `[input_size + output_size, 4 * num_units]`.

        A tensor to fetch: the one that the latest call multiplied its kernel
        with. None when nothing is dropped, before the mask exists, and with
        standard dropout inside of a loop, where no fetch can reach it.
        """
        return self._mask.latest
