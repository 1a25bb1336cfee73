"""The AWD-LSTM language model in TensorFlow, of the pieces of the library.

torch_awd_lstm.py has a class of the same name and methods, so parity.py can
have both do the same.
"""

import logging
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

logging.getLogger("tensorflow").setLevel(logging.ERROR)
sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))

import awd_lstm_tf  # noqa: E402

OPTIMIZERS = {
    "sgd": tf.train.GradientDescentOptimizer,
    "adam": tf.train.AdamOptimizer,
    "nt_asgd": lambda rate: awd_lstm_tf.NTASGDOptimizer(rate, nonmono=1),
}


class Network(object):
    """embedding -> LSTM layers -> softmax, over a window, `[time, batch]`.

    Built twice in a graph, for training and evaluation, with shared weights.
    Locked dropout is on the inputs of each layer and on the last outputs.

    Args:
      settings: dict, see parity.py.
      batch: number of rows of the window.
      is_train: Python bool; False: nothing is dropped.
      time: length of windows; None: any.
      dtype: of weights.

    Attributes:
      inputs, targets: placeholders of ids.
      first_state, last_state: list of c and h per layer.
      kept: dict of the tensors that tell, when fetched, what was not dropped.
      entropy: mean of -log(probability).
      loss: `entropy` with AR and TAR.
    """

    def __init__(self, settings, batch, is_train, time, dtype):
        self._keep, self._is_train = settings["keep"], is_train
        self.inputs = tf.placeholder(tf.int32, [time, batch])
        self.targets = tf.placeholder(tf.int32, [time, batch])
        self.kept = {}
        with tf.variable_scope("model", reuse=tf.AUTO_REUSE, dtype=dtype):
            table = _table("embedding", settings, 0.1)
            outputs = self._locked("inputs", self._embedded(table))
            raw, outputs = self._layers(settings["units"], outputs)
            if not settings["tied"]:
                bound = settings["units"][-1] ** -0.5
                table = _table("softmax", settings, bound)
            bias = tf.get_variable(
                "bias", [settings["vocabulary"]], initializer=_uniform(0.0)
            )
        logits = tf.tensordot(outputs, table, [[2], [1]]) + bias
        self.entropy = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=self.targets, logits=logits
            )
        )
        self.loss = (
            self.entropy
            + awd_lstm_tf.activation_regularization(outputs, settings["alpha"])
            + awd_lstm_tf.temporal_activation_regularization(
                raw, settings["beta"], time_major=True
            )
        )

    def _embedded(self, table):
        rows = awd_lstm_tf.embedding_dropout(
            table, self.inputs, self._keep["embedding"], self._is_train
        )
        self.kept["embedding"] = rows
        return rows

    def _locked(self, name, outputs):
        shape = [1] + outputs.shape.as_list()[1:]
        dropout = awd_lstm_tf.VariationalDropout(
            shape,
            self._keep[name.split("_")[0]],
            dtype=outputs.dtype,
            is_train=self._is_train,
            auto_update=True,
        )
        outputs = dropout(outputs)
        self.kept[name] = dropout.mask
        return outputs

    def _layers(self, units, outputs):
        self.first_state, self.last_state = [], []
        for i, size in enumerate(units):
            if i:
                outputs = self._locked(f"hidden_{i}", outputs)
            outputs = self._layer(i, size, outputs)
        return outputs, self._locked("outputs", outputs)

    def _layer(self, i, size, inputs):
        shape = [inputs.shape[1].value, size]
        first = [tf.placeholder(inputs.dtype, shape) for _ in range(2)]
        layer = awd_lstm_tf.WeightDropLSTMBlockFusedCell(
            size,
            weight_drop_kr=self._keep["weights"],
            use_vd=True,
            auto_update=True,
            recurrent_only=True,
            is_train=self._is_train,
            name="lstm",
        )
        with tf.variable_scope(f"layer_{i}", initializer=_uniform(size**-0.5)):
            outputs, last = layer(inputs, initial_state=first)
        self.kept[f"weights_{i}"] = layer.mask
        self.first_state += first
        self.last_state += list(last)
        return outputs


def _uniform(bound):
    return tf.random_uniform_initializer(-bound, bound)


def _table(name, settings, bound):
    shape = [settings["vocabulary"], settings["embedding"]]
    return tf.get_variable(name, shape, initializer=_uniform(bound))


def _name_of(variable):
    """ "kernel_0" for "model/layer_0/lstm/kernel", "embedding" for the rest."""
    scopes = variable.op.name.split("/")
    layer = scopes[1].replace("layer", "") if len(scopes) > 2 else ""
    return scopes[-1] + layer


class Model(object):
    """The network in training, with its weights, state and optimizer.

    Args:
      settings: dict, see parity.py.
      seed: of initial weights and masks.
      threads: of the session.
      time: length of the windows to train on; None: any.
      dtype: "float32" or "float64".
    """

    version = "TensorFlow " + tf.__version__
    averages_after = 0  # steps past `start_averaging`

    def __init__(self, settings, seed=0, threads=1, time=None, dtype="float32"):
        self._settings, self._dtype = settings, dtype
        with tf.Graph().as_default() as graph:
            tf.set_random_seed(seed)
            networks = [
                Network(settings, settings["batch"], True, time, dtype),
                Network(settings, settings["valid_batch"], False, None, dtype),
            ]
            self._network, self._frozen = networks
            self._make_train_op()
            initialize = tf.global_variables_initializer()
        config = tf.ConfigProto(
            intra_op_parallelism_threads=threads,
            inter_op_parallelism_threads=threads,
        )
        self._session = tf.Session(graph=graph, config=config)
        self._session.run(initialize)

    def _make_train_op(self):
        variables = tf.trainable_variables()
        self._variables = {_name_of(v): v for v in variables}
        self._rate = tf.placeholder(tf.float32, [])
        self._optimizer = OPTIMIZERS[self._settings["optimizer"]](self._rate)
        # Dense: the norm of an embedding's IndexedSlices would count twice
        # what two rows of a batch have in common.
        gradients = [
            tf.convert_to_tensor(gradient)
            for gradient in tf.gradients(self._network.loss, variables)
        ]
        self._gradients = dict(zip(map(_name_of, variables), gradients))
        clipped, _ = tf.clip_by_global_norm(gradients, self._settings["clip"])
        self._train_op = self._optimizer.apply_gradients(
            zip(clipped, variables)
        )

    def weights(self):
        """Dict of all weights."""
        return self._session.run(self._variables)

    def averages(self):
        """Dict of the averages of NT-ASGD."""
        return self._session.run(
            {
                name: self._optimizer.average(variable)
                for name, variable in self._variables.items()
            }
        )

    def start_averaging(self):
        """Has NT-ASGD start to average, from the weights as they are."""
        for loss in (1.0, 1.0, 2.0):
            self._optimizer.report(self._session, loss)

    def set_state(self, state):
        """Has the next window go on from here: c and h of each layer."""
        self._state = state

    def reset_state(self, batch):
        """Has the next window go on from nothing."""
        self._state = [
            np.zeros([batch, size], self._dtype)
            for size in self._settings["units"]
            for _ in range(2)
        ]

    def _run(self, network, fetches, inputs, targets, rate=0.0):
        feeds = {network.inputs: inputs, network.targets: targets}
        feeds.update(zip(network.first_state, self._state))
        feeds[self._rate] = rate
        fetched, self._state = self._session.run(
            [fetches, network.last_state], feeds
        )
        return fetched

    def train(self, inputs, targets, rate):
        """Takes a step; returns the mean of -log(probability)."""
        fetches = [self._network.entropy, self._train_op]
        return self._run(self._network, fetches, inputs, targets, rate)[0]

    def evaluate(self, inputs, targets):
        """The mean of -log(probability), with nothing dropped."""
        return self._run(self._frozen, self._frozen.entropy, inputs, targets)

    def examine(self, inputs, targets, rate):
        """Takes a step, and tells all about it.

        Returns:
          Dict with the `loss`, its `gradients`, the `state` after the window,
          and what the masks `kept`: dict of bool arrays, for the embedding
          `[vocabulary]`, for weights `[units, 4 * units]`.
        """
        network = self._network
        fetches = {
            "loss": network.loss,
            "gradients": self._gradients,
            "kept": {k: m for k, m in network.kept.items() if m is not None},
            "train_op": self._train_op,
        }
        told = self._run(network, fetches, inputs, targets, rate)
        told["kept"] = self._kept(told["kept"], inputs)
        return dict(told, state=dict(enumerate(self._state)))

    def _kept(self, masks, inputs):
        kept = {name: mask != 0 for name, mask in masks.items()}
        for i, size in enumerate(self._settings["units"]):
            name = f"weights_{i}"
            if name in kept:
                kept[name] = kept[name][-size:]  # the recurrent rows
        # What became of ids that are not in this window is of no account.
        words = np.ones([self._settings["vocabulary"]], bool)
        words[inputs] = kept["embedding"].any(-1)
        kept["embedding"] = words
        return kept
