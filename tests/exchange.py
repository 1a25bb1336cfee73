"""A small training whose checkpoint every other TensorFlow goes on from.

    python exchange.py write FOLDER [stock]    trains, saves, says what is next
    python exchange.py read FOLDER [stock]     goes on from there: differences

With "stock", the cell is `LSTMCell`. The folders in checkpoints/, one for each
TensorFlow that wrote it, were made by the first line.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from versions import rnn_cell, tf

import awd_lstm_tf

BATCH, TIME, DEPTH, UNITS = 3, 6, 4, 5
STEPS, MORE = 6, 4


class Net(object):
    """A net of two cells, an optimizer with slots, and a global step."""

    def __init__(self, kind, is_train=True):
        random = np.random.RandomState(3)
        value = random.randn(BATCH, TIME, DEPTH).astype(np.float32)
        self.inputs = tf.placeholder_with_default(value, value.shape, "inputs")
        cells = [self._cell(kind, is_train) for _ in range(2)]
        outputs, _ = tf.nn.dynamic_rnn(
            rnn_cell.MultiRNNCell(cells), self.inputs, dtype=tf.float32
        )
        self.outputs = tf.identity(outputs, "outputs")
        if not is_train:
            return
        self.loss = tf.reduce_mean(
            tf.squared_difference(outputs[:, -1, :DEPTH], value[:, 0])
        )
        self.step = tf.train.get_or_create_global_step()
        self.optimizer = tf.train.AdamOptimizer(0.05)
        self.train_op = self.optimizer.minimize(self.loss, self.step)
        self.objects = tf.train.Checkpoint(
            first=cells[0], second=cells[1], optimizer=self.optimizer
        )

    def _cell(self, kind, is_train):
        if kind == "stock":
            return rnn_cell.LSTMCell(UNITS, use_peepholes=True)
        # It drops: but where the mask is not drawn yet, it is all ones.
        return awd_lstm_tf.WeightDropLSTMCell(
            UNITS,
            use_peepholes=True,
            weight_drop_kr=0.5,
            use_vd=True,
            is_train=is_train,
        )

    def train(self, session, steps):
        return [
            float(session.run([self.loss, self.train_op])[0])
            for _ in range(steps)
        ]


def write(folder, kind):
    """Trains for some steps, and keeps what comes of going on from there."""
    folder.mkdir(parents=True, exist_ok=True)
    tf.set_random_seed(5)
    net = Net(kind)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        net.train(session, STEPS)
        outputs = session.run(net.outputs)
        saver = tf.train.Saver()
        saver.save(session, str(folder / "saver"), write_meta_graph=False)
        net.objects.save(str(folder / "objects"), session=session)
        expected = {
            "outputs": outputs.tolist(),
            "losses": net.train(session, MORE),
        }
    (folder / "expected.json").write_text(json.dumps(expected))
    export(folder, kind)


def export(folder, kind):
    """Makes a SavedModel of what was trained."""
    with tf.Graph().as_default(), tf.Session() as session:
        net = Net(kind, is_train=False)
        tf.train.Saver().restore(session, str(folder / "saver"))
        tf.saved_model.simple_save(
            session,
            str(folder / "served"),
            {"inputs": net.inputs},
            {"outputs": net.outputs},
        )


def read(folder, kind, how="saver"):
    """Largest differences, of outputs and of the losses that follow."""
    expected = json.loads((folder / "expected.json").read_text())
    net = Net(kind)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        if how == "saver":
            tf.train.Saver().restore(session, str(folder / "saver"))
        else:
            status = net.objects.restore(str(folder / "objects-1"))
            status.assert_existing_objects_matched().run_restore_ops(session)
        outputs = session.run(net.outputs)
        losses = net.train(session, MORE)
    return (
        float(np.max(np.abs(outputs - expected["outputs"]))),
        float(np.max(np.abs(np.subtract(losses, expected["losses"])))),
    )


def serve(folder):
    """Largest difference of outputs, of the model that is served."""
    expected = json.loads((folder / "expected.json").read_text())
    with tf.Session(graph=tf.Graph()) as session:
        tf.saved_model.loader.load(session, ["serve"], str(folder / "served"))
        outputs = session.run("outputs:0")
    return float(np.max(np.abs(outputs - expected["outputs"])))


if __name__ == "__main__":
    action, folder, kind = (sys.argv[1:] + ["ours"])[:3]
    if action == "write":
        write(pathlib.Path(folder), kind)
    else:
        print(json.dumps(read(pathlib.Path(folder), kind)))
