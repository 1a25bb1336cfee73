"""Trains a model of `train.py`; survives interruptions.

A `Trainer` owns one model: its graph, its session, and its folder with

    progress.json      how far it has come, and the checkpoint that goes with it
    step-*, epoch-*    checkpoints: the last, and that of the best epoch
    events.*           summaries for TensorBoard
"""

import contextlib
import os
import time

import cache_pointer
import numpy as np
import run_folder
import text_data
import tqdm
from tf_awd_lstm import tf

import awd_lstm_tf

HELD_OUT_BATCH_SIZE = 10
HELD_OUT_STEPS = 200  # of a window; no gradient goes back through it
SUMMARY_EVERY = 20  # training steps
WARM_UP = 200  # training steps in which Adam's learning rate rises
# Read before writing a sample. A network that has hardly been trained from the
# zero state needs some hundred tokens to find its way.
PROMPT = 1000


class DivergedError(Exception):
    """Training has come to numbers that are not finite."""


def make_optimizer(flags, learning_rate):
    """Adam or NT-ASGD."""
    if flags.optimizer == "adam":
        return tf.train.AdamOptimizer(learning_rate)
    return awd_lstm_tf.NTASGDOptimizer(learning_rate, flags.nonmono)


def minimise(objective, optimizer, flags):
    """One step of the optimizer, the gradient clipped.

    Args:
      objective: Scalar tensor.
      optimizer: A `tf.train.Optimizer`.
      flags: Settings; `clip_norm` and `weight_decay` are used.

    Returns:
      The train op and the gradient's norm. Running the op fails, and leaves the
      weights alone, when the gradient is not finite.
    """
    weights = tf.trainable_variables()
    # Dense: the norm of sparse ones would count repeated rows apart.
    gradients = [
        tf.convert_to_tensor(gradient)
        for gradient in tf.gradients(objective, weights)
    ]
    norm = tf.check_numerics(tf.global_norm(gradients), "gradient")
    gradients, _ = tf.clip_by_global_norm(gradients, flags.clip_norm, norm)
    if flags.weight_decay:
        gradients = [
            gradient + flags.weight_decay * weight
            for gradient, weight in zip(gradients, weights)
        ]
    train_op = optimizer.apply_gradients(
        zip(gradients, weights), tf.train.get_or_create_global_step()
    )
    return train_op, norm


def first_stall(losses, patience):
    """After how many epochs `patience` had no new best; None: never yet."""
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        elif epoch - best >= patience:
            return epoch + 1
    return None


class Trainer(object):
    """One model in training.

    A checkpoint holds weights, optimizer, step and carried state. Progress is
    written after it and replaced in one move, so a run killed at any moment
    leaves a pair that fits together, and `Trainer` goes on from there.

    Args:
      build_model: Function of `(batch_size, is_train, state_name)` that returns
        a `train.LanguageModel`; called three times in one graph.
      flags: Settings, see `train.parse_flags`.
      corpus: A `text_data.Corpus`.
      folder: Where to keep this model's files.

    Attributes:
      progress: Dict with `step`, `epoch_start` (the step this epoch began at),
        `epoch_loss` and `epoch_tokens` (summed over this epoch so far),
        `seconds` (spent on it), `curve` (a dict for each epoch), `best` (a dict
        for the best epoch), `fine_tuning` (whether it has begun), `stalled`
        (whether it is over) and `checkpoint`.
      weights: Number of trainable weights.

    Raises:
      RunError: The folder holds progress that cannot be taken up.
    """

    def __init__(self, build_model, flags, corpus, folder):
        self.flags, self.corpus, self.folder = flags, corpus, folder
        self.progress = run_folder.read_json(self.path("progress.json")) or {
            "step": 0,
            "epoch_start": 0,
            "epoch_loss": 0.0,
            "epoch_tokens": 0,
            "seconds": 0.0,
            "curve": [],
            "best": None,
            "fine_tuning": False,
            "stalled": False,
            "checkpoint": None,
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
        self.optimizer = make_optimizer(self.flags, self.learning_rate)
        self.train_op, norm = minimise(
            self.training.objective, self.optimizer, self.flags
        )
        if self._averages:
            self.fine_tune = self.optimizer.restart
        self.global_step = tf.train.get_global_step()
        self.weights = sum(
            variable.shape.num_elements()
            for variable in tf.trainable_variables()
        )
        scalars = [
            tf.summary.scalar("train_loss", self.training.loss),
            tf.summary.scalar("objective", self.training.objective),
            tf.summary.scalar("gradient_norm", norm),
            tf.summary.scalar("learning_rate", self.learning_rate),
        ]
        self.summaries = tf.summary.merge(scalars + self.training.summaries)
        self.initialise = tf.global_variables_initializer()
        # Old checkpoints are left alone here: `save` tidies up itself.
        make_saver = tf.train.Saver
        if self._averages:
            make_saver = self.optimizer.swapping_saver
        self.saver = make_saver(max_to_keep=0)

    @property
    def _averages(self):
        return self.flags.optimizer == "nt_asgd"

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

    def save(self, name=None):
        """Writes a checkpoint, then the progress; drops older checkpoints."""
        # Ctrl-C may come after a step was made and before it was counted here.
        self.progress["step"] = int(self.session.run(self.global_step))
        name = name or f"step-{self.progress['step']}"
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
            ours = checkpoint.startswith(("step-", "epoch-"))
            if ours and checkpoint not in keep:
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
        """Trains up to the last epoch, from wherever the progress stands."""
        tokens, epochs = len(self.corpus.train), len(self.progress["curve"])
        with tqdm.tqdm(
            desc=title,
            total=tokens * self.flags.epochs,
            initial=tokens * epochs,
            unit="tok",
            unit_scale=True,
            smoothing=0.05,
            mininterval=0.5,
        ) as bar:
            try:
                while not self._finished():
                    self._train_epoch(bar)
                    bar.write(self._finish_epoch())
                    # What fills no window was not read.
                    bar.update(tokens * len(self.progress["curve"]) - bar.n)
            except KeyboardInterrupt:
                self.save()
                raise
        self.writer.close()

    def _finished(self):
        progress, flags = self.progress, self.flags
        epochs = len(progress["curve"])
        best = (progress["best"] or {"epoch": 0})["epoch"]
        out_of_patience = 0 < flags.patience <= epochs - best
        last = flags.epochs + flags.fine_tune
        return progress["stalled"] or out_of_patience or epochs >= last

    def _train_epoch(self, bar):
        """The windows of this epoch that are still to be done."""
        epoch = len(self.progress["curve"])
        done = self.progress["step"] - self.progress["epoch_start"]
        if done == 0:
            self.session.run(self.training.reset_state)
            begun = self.progress["fine_tuning"]
            if epoch >= self.flags.epochs and not begun:
                self.session.run(self.fine_tune)
                self.progress["fine_tuning"] = True
        windows = text_data.training_windows(
            self.corpus.train,
            self.flags.batch_size,
            self.flags.steps,
            np.random.RandomState([self.flags.seed, epoch]),
            self.flags.variable_bptt,
        )
        for number, (position, inputs, targets) in enumerate(windows):
            if number >= done:
                self._train_step(epoch + position, inputs, targets)
            bar.update(inputs.size)
            if time.time() - self.saved_at > self.flags.save_seconds:
                self.save()

    def _train_step(self, epochs, inputs, targets):
        """Trains on one window, after so many epochs."""
        start = time.time()
        step = self.progress["step"]
        fetches = [self.training.loss, self.training.carry_state, self.train_op]
        if step % SUMMARY_EVERY == 0:
            fetches.append(self.summaries)
        rate = self.rate(epochs) * inputs.shape[1] / self.flags.steps
        feeds = {
            self.training.inputs: inputs,
            self.training.targets: targets,
            self.learning_rate: rate,
        }
        if self.training.weight_keep is not None:
            feeds[self.training.weight_keep] = self.weight_keep(epochs)
        try:
            loss, _, _, *summaries = self.session.run(fetches, feeds)
        except tf.errors.InvalidArgumentError as error:
            raise self._diverged("the gradient") from error
        for summary in summaries:
            self.writer.add_summary(summary, step)
        self.progress["step"] += 1
        self.progress["epoch_loss"] += float(loss) * inputs.size
        self.progress["epoch_tokens"] += inputs.size
        self.progress["seconds"] += time.time() - start

    def rate(self, epochs):
        """The learning rate for a full window, after so many epochs."""
        if self._averages:
            return self.flags.learning_rate
        rise = min(1.0, (self.progress["step"] + 1) / WARM_UP)
        fall = 0.5 * (1.0 + np.cos(np.pi * epochs / self.flags.epochs))
        return self.flags.learning_rate * rise * fall

    def weight_keep(self, epochs):
        """The share kept of the layers' weights, after so many epochs."""
        begun = 0
        if self.flags.weight_drop_patience:
            losses = [point["held_out"] for point in self.progress["curve"]]
            begun = first_stall(losses, self.flags.weight_drop_patience)
            if begun is None:
                return 1.0
        over = self.flags.weight_drop_over
        come_in = min(1.0, (epochs - begun) / over) if over else 1.0
        return 1.0 - come_in * (1.0 - self.flags.weight_keep)

    def _finish_epoch(self):
        """Evaluates, keeps the best, saves. Returns a line on the epoch."""
        progress = self.progress
        held_out = self.evaluate(self.corpus.valid)
        if not np.isfinite(text_data.perplexity(held_out)):
            raise self._diverged("the held-out perplexity")
        if self._averages:
            stalls = self.optimizer.report(self.session, held_out)
            progress["stalled"] = progress["fine_tuning"] and stalls
        point = {
            "train": progress["epoch_loss"] / progress["epoch_tokens"],
            "held_out": held_out,
            "seconds": round(progress["seconds"], 1),
        }
        epoch = len(progress["curve"]) + 1
        update = {
            "curve": progress["curve"] + [point],
            "epoch_start": progress["step"],
            "epoch_loss": 0.0,
            "epoch_tokens": 0,
            "seconds": 0.0,
        }
        best, name = progress["best"], f"epoch-{epoch}"
        if best is None or held_out < best["held_out"]:
            update["best"] = {
                "held_out": held_out,
                "epoch": epoch,
                "checkpoint": name,
            }
        progress.update(update)  # all at once, lest Ctrl-C find half of it
        self._summarise(point)
        self.save(name)
        return "epoch {}: train {train:.4f}, held out {held_out:.4f}".format(
            epoch, **point
        )

    def _diverged(self, what):
        checkpoint = self.path(self.progress["checkpoint"])
        return DivergedError(
            f"{what} is not finite at step {self.progress['step']}. Lower "
            f"`--learning-rate`, got {self.flags.learning_rate}. The last good "
            f"checkpoint is {checkpoint}."
        )

    def _summarise(self, point):
        """Shows one epoch's losses in TensorBoard."""
        for part in ("train", "held_out"):
            value = tf.Summary.Value(
                tag=f"loss/{part}", simple_value=point[part]
            )
            self.writer.add_summary(
                tf.Summary(value=[value]), self.progress["step"]
            )

    # What the model has learnt.

    def _evaluating(self):
        """Within: the weights are what is to be evaluated."""
        if self._averages:
            return self.optimizer.averaged(self.session)
        return contextlib.ExitStack()  # which does nothing

    def _held_out_windows(self, model, ids, *tensors):
        """Values of tensors for each window of a text, and its targets."""
        batch_size = model.inputs.shape.as_list()[0]
        self.session.run(model.reset_state)
        for inputs, targets in text_data.held_out_windows(
            ids, batch_size, HELD_OUT_STEPS
        ):
            values, _ = self.session.run(
                [tensors, model.carry_state],
                {model.inputs: inputs, model.targets: targets},
            )
            yield values, targets

    def evaluate(self, ids):
        """Mean of -log(probability) over a text, in nats, nothing dropped."""
        model, total = self.held_out, 0.0
        with self._evaluating():
            for (losses,), _ in self._held_out_windows(
                model, ids, model.losses
            ):
                total += losses.sum(dtype=np.float64)
        return total / (len(ids) - 1)

    def evaluate_with_cache(self, ids):
        """The same, when a cache of past tokens helps to predict."""
        model = self.sampling
        with self._evaluating():
            windows = [
                (losses[:, 0], outputs[:, 0], targets[0])
                for (losses, outputs), targets in self._held_out_windows(
                    model, ids, model.losses, model.outputs
                )
            ]
        losses, outputs, targets = map(np.concatenate, zip(*windows))
        flags = self.flags
        return cache_pointer.losses(
            losses,
            outputs,
            targets,
            flags.cache,
            flags.cache_theta,
            flags.cache_share,
        ).mean()

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
        with self._evaluating():
            for _ in range(length):
                probabilities, _ = self.session.run(
                    [model.probabilities, model.carry_state],
                    {model.inputs: inputs},
                )
                p = probabilities[0].astype(np.float64)
                p[text_data.UNKNOWN_ID] = 0.0  # nothing to read
                sampled.append(random.choice(len(p), p=p / p.sum()))
                inputs = [sampled[-1:]]
        return sampled
