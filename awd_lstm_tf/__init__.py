"""AWD-LSTM weight drop for TensorFlow 1.x graphs.

Everything public is imported here.
"""

import warnings as _warnings

__version__ = "0.1.0"

_INSTALL = "pip install 'awd-lstm-tf[tf]'"
_TESTED = ("1.13.1", "1.15.5")

try:
    import tensorflow as _tf
except Exception as error:  # with protobuf 4 it is a TypeError
    raise ImportError(
        f"awd_lstm_tf needs TensorFlow 1.x, and importing it failed "
        f"({error}): {_INSTALL} (on Python 3.6 or 3.7) brings 1.13.1 and what "
        "it needs."
    ) from error

_version = getattr(_tf, "__version__", "unknown")
if not _version.startswith("1."):
    raise ImportError(
        f"awd_lstm_tf needs TensorFlow 1.x, got {_version}: {_INSTALL} (on "
        "Python 3.6 or 3.7) brings 1.13.1."
    )
if _version not in _TESTED:
    _warnings.warn(
        f"awd_lstm_tf is tested on TensorFlow {', '.join(_TESTED)}, got "
        f"{_version}: pip install 'tensorflow==1.13.1' for a tested one.",
        stacklevel=2,
    )

from awd_lstm_tf import quantization, tflite  # noqa: E402
from awd_lstm_tf.embedding import embedding_dropout  # noqa: E402
from awd_lstm_tf.fused import WeightDropLSTMBlockFusedCell  # noqa: E402
from awd_lstm_tf.masks import mask_summaries  # noqa: E402
from awd_lstm_tf.nt_asgd import NTASGDOptimizer  # noqa: E402
from awd_lstm_tf.regularizers import (  # noqa: E402
    activation_regularization,
    temporal_activation_regularization,
)
from awd_lstm_tf.variational_dropout import VariationalDropout  # noqa: E402
from awd_lstm_tf.weight_drop_getter import WeightDropGetter  # noqa: E402
from awd_lstm_tf.weight_drop_lstm import WeightDropLSTMCell  # noqa: E402

__all__ = [
    "NTASGDOptimizer",
    "VariationalDropout",
    "WeightDropGetter",
    "WeightDropLSTMBlockFusedCell",
    "WeightDropLSTMCell",
    "activation_regularization",
    "embedding_dropout",
    "mask_summaries",
    "quantization",
    "temporal_activation_regularization",
    "tflite",
]
