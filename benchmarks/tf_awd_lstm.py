"""The AWD-LSTM language model in TensorFlow, of the pieces of the library.

`Network` is what train.py and quality.py train, too. torch_awd_lstm.py has a
class `Model` with the same methods, so parity.py can have both do the same.
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

if tf.__version__ >= "2":
    tf = tf.compat.v1
    if tf.executing_eagerly():  # who has graphs already has chosen which
        tf.disable_v2_behavior()

OPTIMIZERS = {
    "sgd": tf.train.GradientDescentOptimizer,
    "adam": tf.train.AdamOptimizer,
    "nt_asgd": lambda rate: awd_lstm_tf.NTASGDOptimizer(rate, nonmono=1),
}


class Network(object):
    """embedding -> LSTM layers -> softmax, over a window, `[time, batch]`.

    Built more than once in a graph, for training, evaluation and writing, with
    shared weights. Locked dropout is on the inputs of each layer and on the
    last outputs.

    Args:
      settings: dict: `vocabulary`, `embedding`, `units` (of each layer),
        `tied`, `keep` (rates of `weights`, `embedding`, `inputs`, `hidden`,
        `outputs`), `alpha`, `beta`; `whole_kernel` (False: recurrent rows
        alone are dropped), `glorot` (False: PyTorch's initial weights).
      inputs, targets: ids. Targets below 0 do not count.
      first_state: list of c and h per layer.
      is_train: Python bool; False: nothing is dropped.

    Attributes:
      layers: the LSTM layers.
      kept: dict of the tensors that tell, when fetched, what was not dropped.
      raw: outputs of the last layer, not dropped.
      logits: `[time, batch, vocabulary]`.
      losses: -log(probability) of each target.
      entropy: their mean.
      loss: `entropy`; in training, with AR and TAR.
      last_state: list of c and h per layer.
    """

    def __init__(self, settings, inputs, targets, first_state, is_train):
        self._settings, self._keep = settings, settings["keep"]
        self._is_train, self.kept = is_train, {}
        self.layers, self.last_state = [], []
        dtype = first_state[0].dtype
        with tf.variable_scope("model", reuse=tf.AUTO_REUSE, dtype=dtype):
            table = self._table("embedding", settings["embedding"], 0.1)
            outputs = self._locked("inputs", self._embedded(table, inputs))
            outputs = self._run_layers(outputs, first_state)
            if not settings["tied"]:
                depth = settings["units"][-1]
                table = self._table("softmax", depth, self._bound(depth**-0.5))
            bias = tf.get_variable(
                "bias", [settings["vocabulary"]], initializer=_uniform(0.0)
            )
        self.logits = tf.tensordot(outputs, table, [[2], [1]]) + bias
        self._set_losses(targets)
        self.loss = self.entropy
        if is_train:
            self.loss += awd_lstm_tf.activation_regularization(
                outputs, settings["alpha"], time_major=True
            )
            self.loss += awd_lstm_tf.temporal_activation_regularization(
                self.raw, settings["beta"], time_major=True
            )

    def _bound(self, bound):
        """Of initial weights; None: Glorot's, TensorFlow's default."""
        return None if self._settings.get("glorot") else bound

    def _table(self, name, depth, bound):
        shape = [self._settings["vocabulary"], depth]
        return tf.get_variable(name, shape, initializer=_uniform(bound))

    def _embedded(self, table, inputs):
        rows = awd_lstm_tf.embedding_dropout(
            table, inputs, self._keep["embedding"], self._is_train
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

    def _run_layers(self, outputs, first_state):
        states = zip(first_state[::2], first_state[1::2])
        for i, (size, state) in enumerate(zip(self._settings["units"], states)):
            if i:
                outputs = self._locked(f"hidden_{i}", outputs)
            outputs = self._run_layer(i, size, outputs, state)
        self.raw = outputs
        return self._locked("outputs", outputs)

    def _run_layer(self, i, size, inputs, state):
        layer = awd_lstm_tf.WeightDropLSTMBlockFusedCell(
            size,
            weight_drop_kr=self._keep["weights"],
            use_vd=True,  # one mask for all time steps of a window of text,
            auto_update=True,  # and a new one for the next window
            recurrent_only=not self._settings.get("whole_kernel"),
            is_train=self._is_train,
            name=f"layer_{i}",
        )
        bound = self._bound(size**-0.5)
        scope = tf.get_variable_scope()  # whose name it stays
        with tf.variable_scope(scope, initializer=_uniform(bound)):
            outputs, last = layer(inputs, initial_state=state)
        self.layers.append(layer)
        self.kept[f"weights_{i}"] = layer.mask
        self.last_state += list(last)
        return outputs

    def _set_losses(self, targets):
        counts = targets >= 0
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=tf.maximum(targets, 0), logits=self.logits
        )
        self.losses = tf.where(counts, losses, tf.zeros_like(losses))
        count = tf.reduce_sum(tf.cast(counts, losses.dtype))
        self.entropy = tf.reduce_sum(self.losses) / tf.maximum(
            count, tf.ones_like(count)
        )


def _uniform(bound):
    if bound is None:
        return None
    return tf.random_uniform_initializer(-bound, bound)


def _name_of(variable):
    """ "kernel_0" for "model/layer_0/kernel", "embedding" for the rest."""
    scopes = variable.op.name.split("/")
    layer = scopes[1].replace("layer", "") if len(scopes) > 2 else ""
    return scopes[-1] + layer


class Fed(object):
    """A network whose windows and first state are fed.

    Attributes:
      network: the `Network`.
      inputs, targets: placeholders, `[time, batch]`.
      first_state: list of placeholders.
    """

    def __init__(self, settings, batch, is_train, time, dtype):
        self.inputs = tf.placeholder(tf.int32, [time, batch])
        self.targets = tf.placeholder(tf.int32, [time, batch])
        self.first_state = [
            tf.placeholder(dtype, [batch, size])
            for size in settings["units"]
            for _ in "ch"
        ]
        self.network = Network(
            settings, self.inputs, self.targets, self.first_state, is_train
        )


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
            self._training = Fed(settings, settings["batch"], True, time, dtype)
            self._frozen = Fed(
                settings, settings["valid_batch"], False, None, dtype
            )
            self._network = self._training.network
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

    def _run(self, fed, fetches, inputs, targets, rate=0.0):
        feeds = {fed.inputs: inputs, fed.targets: targets, self._rate: rate}
        feeds.update(zip(fed.first_state, self._state))
        fetched, self._state = self._session.run(
            [fetches, fed.network.last_state], feeds
        )
        return fetched

    def train(self, inputs, targets, rate):
        """Takes a step; returns the mean of -log(probability)."""
        fetches = [self._network.entropy, self._train_op]
        return self._run(self._training, fetches, inputs, targets, rate)[0]

    def evaluate(self, inputs, targets):
        """The mean of -log(probability), with nothing dropped."""
        entropy = self._frozen.network.entropy
        return self._run(self._frozen, entropy, inputs, targets)

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
        told = self._run(self._training, fetches, inputs, targets, rate)
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
