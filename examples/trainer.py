"""Trains a model of `language_model.py`; survives interruptions.

A `Trainer` owns one model: its graph, its session, and its folder with

    progress.json    how far it has come, and the checkpoint that goes with it
    step-*           checkpoints: the last, and that of the best epoch
    events.*         summaries for TensorBoard
"""

import os
import time

import numpy as np
import run_folder
import tensorflow as tf
import text_data
import tqdm

HELD_OUT_BATCH_SIZE = 10
SUMMARY_EVERY = 20  # training steps
CLIP_NORM = 1.0  # of the gradient
# Read before writing a sample. A network that has hardly been trained from the
# zero state needs some hundred tokens to find its way.
PROMPT = 1000


class DivergedError(Exception):
    """Training has come to numbers that are not finite."""


def minimise(loss, learning_rate):
    """One step of Adam with the gradient clipped.

    Args:
      loss: Scalar tensor.
      learning_rate: Scalar tensor.

    Returns:
      The train op and the gradient's norm. Running the op fails, and leaves the
      weights alone, when the gradient is not finite.
    """
    weights = tf.trainable_variables()
    gradients = tf.gradients(loss, weights)
    norm = tf.check_numerics(tf.global_norm(gradients), "gradient")
    gradients, _ = tf.clip_by_global_norm(gradients, CLIP_NORM, use_norm=norm)
    train_op = tf.train.AdamOptimizer(learning_rate).apply_gradients(
        zip(gradients, weights), tf.train.get_or_create_global_step()
    )
    return train_op, norm


def perplexity(loss, tokens):
    """exp(mean of -log(probability)), from the sum over a number of tokens."""
    with np.errstate(over="ignore"):  # infinite, when it is
        return float(np.exp(loss / tokens))


class Trainer(object):
    """One model in training.

    A checkpoint holds weights, optimizer, step and carried state. Progress is
    written after it and replaced in one move, so a run killed at any moment
    leaves a pair that fits together, and `Trainer` goes on from there.

    Args:
      build_model: Function of `(batch_size, is_train, state_name)` that returns
        a `language_model.LanguageModel`; called three times in one graph.
      flags: Settings, see `language_model.parse_flags`.
      corpus: A `text_data.Corpus`.
      folder: Where to keep this model's files.

    Attributes:
      progress: Dict with `step`, `curve` (a dict for each epoch), `best` (a
        dict for the best epoch), `learning_rate`, `checkpoint` and
        `epoch_loss` (summed over the tokens of this epoch so far).

    Raises:
      RunError: The folder holds progress that cannot be taken up.
    """

    def __init__(self, build_model, flags, corpus, folder):
        self.flags, self.corpus, self.folder = flags, corpus, folder
        self.windows = text_data.windows(
            corpus.train, flags.batch_size, flags.steps
        )
        self.progress = run_folder.read_json(self.path("progress.json")) or {
            "step": 0,
            "curve": [],
            "best": None,
            "learning_rate": flags.learning_rate,
            "checkpoint": None,
            "epoch_loss": 0.0,
        }
        graph = tf.Graph()
        with graph.as_default():
            # The step is added lest a resumed run repeat its first masks.
            tf.set_random_seed(flags.seed + self.progress["step"])
            self._build(build_model)
        threads = tf.ConfigProto(
            intra_op_parallelism_threads=flags.threads,
            inter_op_parallelism_threads=flags.threads,
        )
        self.session = tf.Session(graph=graph, config=threads)
        self._start(graph)

    def path(self, name):
        """Path of one of this model's files."""
        return os.path.join(self.folder, name)

    def _build(self, build_model):
        """The model three times, with the same weights, and the ops around."""
        self.training = build_model(self.flags.batch_size, True, "training")
        self.held_out = build_model(HELD_OUT_BATCH_SIZE, False, "held_out")
        self.sampling = build_model(1, False, "sampling")
        self.learning_rate = tf.placeholder(tf.float32, [])
        self.train_op, norm = minimise(self.training.loss, self.learning_rate)
        self.global_step = tf.train.get_global_step()
        scalars = [
            tf.summary.scalar("train_loss", self.training.loss),
            tf.summary.scalar("gradient_norm", norm),
            tf.summary.scalar("learning_rate", self.learning_rate),
        ]
        self.summaries = tf.summary.merge(scalars + self.training.summaries)
        self.initialise = tf.global_variables_initializer()
        self.saver = tf.train.Saver(max_to_keep=0)  # `save` tidies up itself

    def _start(self, graph):
        """Fresh weights, or those of the last checkpoint."""
        if self.progress["checkpoint"]:
            self.restore(self.progress["checkpoint"])
            self.saved_at = time.time()
        else:
            self.session.run(self.initialise)
            os.makedirs(self.folder, exist_ok=True)
            self.save()
        self.writer = tf.summary.FileWriter(self.folder, graph)
        # TensorBoard then forgets what a killed run drew beyond this step.
        restart = tf.SessionLog(status=tf.SessionLog.START)
        self.writer.add_session_log(restart, self.progress["step"])

    # Checkpoints.

    def save(self):
        """Writes a checkpoint, then the progress; drops older checkpoints."""
        # Ctrl-C may come after a step was made and before it was counted here.
        self.progress["step"] = int(self.session.run(self.global_step))
        name = f"step-{self.progress['step']}"
        if name != self.progress["checkpoint"]:
            self.saver.save(
                self.session, self.path(name), write_meta_graph=False
            )
            self.progress["checkpoint"] = name
        run_folder.write_json(self.path("progress.json"), self.progress)
        self._drop_checkpoints_but(name, (self.progress["best"] or {}))
        self.saved_at = time.time()

    def _drop_checkpoints_but(self, last, best):
        keep = (last, best.get("checkpoint"))
        for name in os.listdir(self.folder):
            checkpoint = name.split(".")[0]
            if checkpoint.startswith("step-") and checkpoint not in keep:
                os.remove(self.path(name))

    def restore(self, name):
        """Takes the weights of one of this run's checkpoints."""
        try:
            self.saver.restore(self.session, self.path(name))
        except (ValueError, tf.errors.OpError):
            raise run_folder.RunError(
                f"`--resume` needs the checkpoint {self.path(name)}, got none "
                "that can be read. Leave `--resume` out to start anew."
            ) from None

    # Training.

    def train(self, title):
        """Trains up to `--epochs`, from wherever the progress stands."""
        tokens = self.windows[0][0].size
        with tqdm.tqdm(
            desc=title,
            total=len(self.windows) * self.flags.epochs * tokens,
            initial=self.progress["step"] * tokens,
            unit="tok",
            unit_scale=True,
            smoothing=0.05,
            mininterval=0.5,
        ) as bar:
            try:
                while len(self.progress["curve"]) < self.flags.epochs:
                    self._train_epoch(bar)
                    self._finish_epoch()
                    bar.set_postfix(held_out=self.progress["best"]["held_out"])
            except KeyboardInterrupt:
                self.save()
                raise
        self.writer.close()

    def _train_epoch(self, bar):
        """The windows of this epoch that are still to be done."""
        epochs = len(self.progress["curve"])
        done = self.progress["step"] - epochs * len(self.windows)
        if done == 0:
            self.session.run(self.training.reset_state)
        for inputs, targets in self.windows[done:]:
            self._train_step(inputs, targets)
            bar.update(inputs.size)
            if time.time() - self.saved_at > self.flags.save_seconds:
                self.save()

    def _train_step(self, inputs, targets):
        """Trains on one window."""
        step = self.progress["step"]
        fetches = [self.training.loss, self.training.carry_state, self.train_op]
        if step % SUMMARY_EVERY == 0:
            fetches.append(self.summaries)
        feeds = {
            self.training.inputs: inputs,
            self.training.targets: targets,
            self.learning_rate: self.progress["learning_rate"],
        }
        try:
            loss, _, _, *summaries = self.session.run(fetches, feeds)
        except tf.errors.InvalidArgumentError as error:
            raise self._diverged("the gradient") from error
        for summary in summaries:
            self.writer.add_summary(summary, step)
        self.progress["step"] += 1
        self.progress["epoch_loss"] += float(loss) * inputs.size

    def _finish_epoch(self):
        """Evaluates, keeps the best, lowers the learning rate, saves."""
        progress = self.progress
        held_out = self.evaluate(self.corpus.valid)
        if not np.isfinite(held_out):
            raise self._diverged("the held-out perplexity")
        point = {
            "train": self._train_perplexity(),
            "held_out": held_out,
            "learning_rate": progress["learning_rate"],
        }
        update = {"curve": progress["curve"] + [point], "epoch_loss": 0.0}
        best = progress["best"]
        if best is None or held_out < best["held_out"]:
            update["best"] = {
                "held_out": held_out,
                "epoch": len(update["curve"]),
                "checkpoint": f"step-{progress['step']}",
            }
        else:
            update["learning_rate"] = progress["learning_rate"] / 2.0
        progress.update(update)  # all at once, lest Ctrl-C find half of it
        self._summarise(point)
        self.save()

    def _train_perplexity(self):
        tokens = sum(inputs.size for inputs, _ in self.windows)
        return perplexity(self.progress["epoch_loss"], tokens)

    def _diverged(self, what):
        return DivergedError(
            f"{what} is not finite at step {self.progress['step']}. Lower "
            f"`--learning-rate`, got {self.progress['learning_rate']}."
        )

    def _summarise(self, point):
        """Shows one epoch's perplexities in TensorBoard."""
        for part in ("train", "held_out"):
            value = tf.Summary.Value(
                tag=f"perplexity/{part}", simple_value=point[part]
            )
            self.writer.add_summary(
                tf.Summary(value=[value]), self.progress["step"]
            )

    # What the model has learnt.

    def evaluate(self, ids):
        """Perplexity of the model on a text, with weight drop off."""
        model, total, tokens = self.held_out, 0.0, 0
        self.session.run(model.reset_state)
        for inputs, targets in text_data.windows(
            ids, HELD_OUT_BATCH_SIZE, self.flags.steps
        ):
            loss, _ = self.session.run(
                [model.loss, model.carry_state],
                {model.inputs: inputs, model.targets: targets},
            )
            total += float(loss) * inputs.size
            tokens += inputs.size
        return perplexity(total, tokens)

    def sample(self, length):
        """Writes text.

        Args:
          length: Number of tokens.

        Returns:
          A list of ids, going on from the first `PROMPT` of the held-out text.
        """
        random = np.random.RandomState(self.flags.seed)
        model = self.sampling
        self.session.run(model.reset_state)
        inputs, sampled = [self.corpus.valid[:PROMPT]], []
        for _ in range(length):
            probabilities, _ = self.session.run(
                [model.probabilities, model.carry_state], {model.inputs: inputs}
            )
            p = probabilities[0].astype(np.float64)
            p[text_data.UNKNOWN_ID] = 0.0  # nothing to read
            sampled.append(random.choice(len(p), p=p / p.sum()))
            inputs = [sampled[-1:]]
        return sampled
