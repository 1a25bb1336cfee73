"""What one can look at while training, to see whether dropping works."""

import posixpath

from awd_lstm_tf import _checks, _drawing, _holding
from awd_lstm_tf._versions import tf


class MaskDiagnostics(object):
    """A mixin for what has one mask, `_mask`."""

    @property
    def kept_fraction(self):
        """Scalar float32: the share kept of what can be dropped; or None."""
        return self._mask.kept_fraction

    @property
    def mask_changed(self):
        """Scalar bool: has the mask changed since the last fetch; or None."""
        return self._mask.changed


def kept_fraction(drawn):
    """The share of entries that are not dropped, scalar float32."""
    kept = _drawing.ones_where(drawn.kept, drawn.shape, tf.float32)
    return tf.reduce_mean(kept)


def has_changed(drawn):
    """Whether `drawn` is another than at the last fetch, scalar bool.

    None for a mask of sizes that are known only at run time.
    """
    if _checks.is_tensor(drawn.shape):
        return None
    previous = _holding.Held(drawn.shape, drawn.scale.dtype, "previous", ())
    before = previous.read()
    others = tf.bitwise.bitwise_xor(drawn.kept, before.kept)
    others = _drawing.ones_where(others, drawn.shape, tf.float32)
    changed = tf.logical_or(
        tf.reduce_max(others) > 0,
        tf.not_equal(drawn.scale, before.scale),
    )
    with tf.control_dependencies([changed]):
        remember = previous.assign(drawn)
    with tf.control_dependencies(remember):
        return tf.identity(changed)


def mask_summaries(*owners):
    """Adds `tf.summary` scalars that show whether dropping works.

    For each owner: `kept_fraction`, the share of entries that are not dropped,
    and `changed`, 1 when the mask is another one than at the last summary. A
    healthy run shows the keep rate and a row of ones. Tags begin with the scope
    of the weights: `rnn/multi_rnn_cell/cell_0/lstm_cell_mask/kept_fraction`.

    Args:
      *owners: `WeightDropLSTMCell`s, `WeightDropLSTMBlockFusedCell`s,
        `WeightDropWrapper`s and `VariationalDropout`s, after they were called.

    Returns:
      List of summary tensors, for `tf.summary.merge`; also in
      `tf.GraphKeys.SUMMARIES`, where `tf.summary.merge_all()` and Estimators
      find them. Owners with no mask to fetch add none: where nothing is
      dropped, in standard mode in a loop, and before a call.

    Raises:
      TypeError: for something that has no mask.

    Example:

        awd_lstm_tf.mask_summaries(cell)
        summary = tf.summary.merge_all()
    """
    summaries = []
    for owner in owners:
        _checks.mask_owner(owner, "each an argument of its own")
        kept_fraction = owner.kept_fraction
        if kept_fraction is None:
            continue
        with tf.name_scope(_title(owner) + "_mask"):
            summaries.append(tf.summary.scalar("kept_fraction", kept_fraction))
            changed = owner.mask_changed
            if changed is not None:
                changed = tf.cast(changed, tf.float32)
                summaries.append(tf.summary.scalar("changed", changed))
    return summaries


def _title(owner):
    """The scope of what is dropped; an owner of no weights has its name."""
    names = list(getattr(owner, "masks", ()))  # a wrapper's, by variables
    if not names:
        names = [each.name for each in getattr(owner, "trainable_weights", ())]
    scope = posixpath.commonpath(map(posixpath.dirname, names)) if names else ""
    return scope or owner.name
