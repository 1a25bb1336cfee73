"""AWD-LSTM weight drop for TensorFlow 1.x graphs.

Everything public is imported here.
"""

from awd_lstm_tf import _versions

__version__ = "0.1.0"

_versions.warn_if_untested()

from awd_lstm_tf import quantization, tflite  # noqa: E402
from awd_lstm_tf.diagnostics import mask_summaries  # noqa: E402
from awd_lstm_tf.embedding import embedding_dropout  # noqa: E402
from awd_lstm_tf.fused import WeightDropLSTMBlockFusedCell  # noqa: E402
from awd_lstm_tf.nt_asgd import NTASGDOptimizer  # noqa: E402
from awd_lstm_tf.regularizers import (  # noqa: E402
    activation_regularization,
    temporal_activation_regularization,
)
from awd_lstm_tf.training import (  # noqa: E402
    MaskUpdateHook,
    TrainingPhaseHook,
    training_phase,
)
from awd_lstm_tf.variational_dropout import VariationalDropout  # noqa: E402
from awd_lstm_tf.weight_drop_lstm import WeightDropLSTMCell  # noqa: E402
from awd_lstm_tf.weight_drop_wrapper import WeightDropWrapper  # noqa: E402

__all__ = [
    "MaskUpdateHook",
    "NTASGDOptimizer",
    "TrainingPhaseHook",
    "VariationalDropout",
    "WeightDropLSTMBlockFusedCell",
    "WeightDropLSTMCell",
    "WeightDropWrapper",
    "activation_regularization",
    "embedding_dropout",
    "mask_summaries",
    "quantization",
    "temporal_activation_regularization",
    "tflite",
    "training_phase",
]
