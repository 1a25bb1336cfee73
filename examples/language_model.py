"""A language model on real text: LSTMCell against WeightDropLSTMCell.

    python examples/language_model.py                  # Python's own manual
    python examples/language_model.py --data book.txt --level char
    python examples/language_model.py --data ptb/      # train.txt, valid.txt, ..
    python examples/language_model.py --resume         # after an interruption

Trains the same network twice, once with each cell, and prints the perplexity of
both on text that was held out, each at its best epoch. Nothing but the cell
differs: same sizes, same learning rate and rule for lowering it, same number of
epochs, and no other dropout. `make_cell` is where the library is used.

Everything is written to `--out`: `settings.json`, `curves.png`, and for each
cell a folder with checkpoints, `progress.json` and TensorBoard summaries
(`tensorboard --logdir runs/language_model`).
"""
import argparse
import hashlib
import json
import os
import sys
import time

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '1')

import numpy as np
import tensorflow as tf
import tqdm

import awd_lstm_tf
import text_data

TITLES = {'lstm': 'LSTMCell', 'weight_drop': 'WeightDropLSTMCell'}
HELD_OUT_BATCH_SIZE = 10
SUMMARY_EVERY = 20       # training steps
CLIP_NORM = 1.0          # of the gradient
SAMPLE_TEMPERATURE = 0.8

# What may differ from the run that `--resume` goes on with.
FREE_SETTINGS = ('cells', 'data', 'epochs', 'out', 'resume', 'sample',
                 'save_seconds', 'threads')


class UserError(Exception):
    """Something the user can mend: told in one line, without a traceback."""


class DivergedError(Exception):
    """The gradient is no longer finite."""


# The network.


def make_cell(kind, flags, is_train):
    """One layer: the stock cell, or the same cell with weight drop."""
    if kind == 'lstm':
        return tf.nn.rnn_cell.LSTMCell(flags.units)
    return awd_lstm_tf.WeightDropLSTMCell(
        flags.units,
        weight_drop_kr=flags.keep_rate,
        use_vd=True, auto_update=True,  # a new mask for each window of text,
        recurrent_only=flags.recurrent_only,  # the same at all its time steps
        is_train=is_train)              # False: nothing is dropped


class LanguageModel(object):
    """embedding -> LSTM layers -> softmax, over windows of tokens.

    Built more than once in a graph, for training, evaluation and sampling. The
    weights are shared; each has a carried state of its own, so that a window
    goes on where the window before it stopped.

    Args:
      kind: 'lstm' or 'weight_drop'.
      flags: Settings, see `parse_flags`.
      vocabulary_size: Number of tokens.
      batch_size: Rows of a window.
      is_train: Python bool; False switches weight drop off.
      name: Name of the carried state's variable.

    Attributes:
      inputs, targets: Placeholders, `[batch_size, time]` token ids.
      cells: The layers' cells.
      loss: Mean of -log(probability) over the window, in nats per token.
      probabilities: `[batch_size, vocabulary_size]`, of the token that follows.
      reset_state: Op that zeroes the carried state.
      carry_state: Op that moves the carried state past the window.
    """

    def __init__(self, kind, flags, vocabulary_size, batch_size, is_train,
                 name):
        self.inputs = tf.placeholder(tf.int32, [batch_size, None])
        self.targets = tf.placeholder(tf.int32, [batch_size, None])
        # A resource variable: its value read here stays what it was when the
        # new state is assigned, and the gradient needs the old one.
        carried = tf.get_variable(
            name, [flags.layers, 2, batch_size, flags.units], trainable=False,
            initializer=tf.zeros_initializer(), use_resource=True)
        self.reset_state = carried.initializer

        with tf.variable_scope('model', reuse=tf.AUTO_REUSE):
            embedding = tf.get_variable(
                'embedding', [vocabulary_size, flags.units],
                initializer=tf.random_uniform_initializer(-0.1, 0.1))
            self.cells = [make_cell(kind, flags, is_train)
                          for _ in range(flags.layers)]
            outputs, state = tf.nn.dynamic_rnn(
                tf.nn.rnn_cell.MultiRNNCell(self.cells),
                tf.nn.embedding_lookup(embedding, self.inputs),
                initial_state=tuple(
                    tf.nn.rnn_cell.LSTMStateTuple(c, h)
                    for c, h in map(tf.unstack, tf.unstack(carried))))
            logits = tf.layers.dense(outputs, vocabulary_size, name='softmax')

        self.carry_state = carried.assign(tf.stack([[c, h] for c, h in state]))
        self.loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=self.targets, logits=logits))
        self.probabilities = tf.nn.softmax(logits[:, -1] / SAMPLE_TEMPERATURE)


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
    norm = tf.check_numerics(tf.global_norm(gradients), 'gradient')
    gradients, _ = tf.clip_by_global_norm(gradients, CLIP_NORM, use_norm=norm)
    train_op = tf.train.AdamOptimizer(learning_rate).apply_gradients(
        zip(gradients, weights), global_step=tf.train.get_or_create_global_step())
    return train_op, norm


# Training.


class Trainer(object):
    """One model: its graph, its session, and how far it has come.

    What is needed to go on after an interruption lies in `folder`: a checkpoint
    (weights, optimizer, step, carried state) and `progress.json`, which names
    the checkpoint it belongs to and is replaced in one move. A run killed at
    any moment therefore leaves a pair that fits together.

    Args:
      kind: 'lstm' or 'weight_drop'.
      flags: Settings, see `parse_flags`.
      corpus: A `text_data.Corpus`.
      folder: Where to keep this model's files; its progress is taken up if
        there is some.
    """

    def __init__(self, kind, flags, corpus, folder):
        self.kind, self.flags, self.corpus = kind, flags, corpus
        self.folder = folder
        self.windows = text_data.windows(
            corpus.train, flags.batch_size, flags.steps)
        self.progress = read_json(self._path('progress.json')) or {
            'checkpoint': None, 'step': 0, 'epoch_loss': 0.0, 'curve': [],
            'learning_rate': flags.learning_rate, 'best': None}
        self.graph = tf.Graph()
        with self.graph.as_default():
            # The step is added lest a resumed run repeat its first masks.
            tf.set_random_seed(flags.seed + self.progress['step'])
            self._build()
        self.session = tf.Session(graph=self.graph, config=tf.ConfigProto(
            intra_op_parallelism_threads=flags.threads,
            inter_op_parallelism_threads=flags.threads))
        self._start()

    def _build(self):
        """The same weights in three models, and the ops that train them."""
        def model(batch_size, is_train, name):
            return LanguageModel(self.kind, self.flags,
                                 len(self.corpus.vocabulary), batch_size,
                                 is_train, name)
        self.training = model(self.flags.batch_size, True, 'training_state')
        self.held_out = model(HELD_OUT_BATCH_SIZE, False, 'held_out_state')
        self.sampling = model(1, False, 'sampling_state')
        self.learning_rate = tf.placeholder(tf.float32, [])
        self.train_op, norm = minimise(self.training.loss, self.learning_rate)
        self.step = tf.train.get_global_step()
        self.summaries = tf.summary.merge(self._summaries(norm))
        self.initialise = tf.global_variables_initializer()
        self.saver = tf.train.Saver(max_to_keep=0)  # `save` tidies up itself

    def _summaries(self, norm):
        """What TensorBoard shows of a training step."""
        summaries = [tf.summary.scalar('train_loss', self.training.loss),
                     tf.summary.scalar('gradient_norm', norm),
                     tf.summary.scalar('learning_rate', self.learning_rate)]
        if self.kind == 'weight_drop':
            for cell in self.training.cells:
                summaries += awd_lstm_tf.mask_summaries(cell)
        return summaries

    def _start(self):
        """Fresh weights, or those of the last checkpoint."""
        if self.progress['checkpoint']:
            self.restore(self.progress['checkpoint'])
        else:
            self.session.run(self.initialise)
            os.makedirs(self.folder, exist_ok=True)
            self.save()
        self.saved_at = time.time()
        self.writer = tf.summary.FileWriter(self.folder, self.graph)
        # TensorBoard then forgets what a killed run drew beyond this step.
        self.writer.add_session_log(
            tf.SessionLog(status=tf.SessionLog.START), self.progress['step'])

    def _path(self, name):
        return os.path.join(self.folder, name)

    def save(self):
        """Writes checkpoint, then progress; then drops older checkpoints."""
        # Ctrl-C may come after a step was made and before it was counted here.
        self.progress['step'] = int(self.session.run(self.step))
        name = f"step-{self.progress['step']}"
        if name != self.progress['checkpoint']:
            self.saver.save(self.session, self._path(name),
                            write_meta_graph=False)
            self.progress['checkpoint'] = name
        write_json(self._path('progress.json'), self.progress)
        best = self.progress['best'] or {'checkpoint': name}
        for file in os.listdir(self.folder):
            stem = os.path.splitext(file)[0]
            if file.startswith('step-') and stem not in (
                    name, best['checkpoint']):
                os.remove(self._path(file))
        self.saved_at = time.time()

    def restore(self, name):
        """Takes the weights of one of this run's checkpoints."""
        try:
            self.saver.restore(self.session, self._path(name))
        except (ValueError, tf.errors.OpError):
            raise UserError('`--resume` needs the checkpoint '
                            f'{self._path(name)}, got none that can be read.')

    def train(self):
        """Trains up to `--epochs`, from wherever the progress stands."""
        total = len(self.windows) * self.flags.epochs
        tokens = self.windows[0][0].size
        with tqdm.tqdm(desc=TITLES[self.kind], total=total * tokens,
                       initial=self.progress['step'] * tokens, unit='tok',
                       unit_scale=True, smoothing=0.05, mininterval=0.5) as bar:
            try:
                while len(self.progress['curve']) < self.flags.epochs:
                    self._train_epoch(bar)
                    self._finish_epoch()
                    bar.set_postfix_str(
                        f"held-out {self.progress['best']['held_out']:.1f}")
            except KeyboardInterrupt:
                self.save()
                raise
        self.writer.close()

    def _train_epoch(self, bar):
        """The windows of this epoch that are still to be done."""
        done = (self.progress['step']
                - len(self.progress['curve']) * len(self.windows))
        if done == 0:
            self.session.run(self.training.reset_state)
        for inputs, targets in self.windows[done:]:
            self._train_step(inputs, targets)
            bar.update(inputs.size)
            if time.time() - self.saved_at > self.flags.save_seconds:
                self.save()

    def _train_step(self, inputs, targets):
        """Trains on one window."""
        model, progress = self.training, self.progress
        fetches = {'loss': model.loss, 'train': self.train_op,
                   'carry': model.carry_state}
        if progress['step'] % SUMMARY_EVERY == 0:
            fetches['summaries'] = self.summaries
        try:
            got = self.session.run(fetches, {
                model.inputs: inputs, model.targets: targets,
                self.learning_rate: progress['learning_rate']})
        except tf.errors.InvalidArgumentError as error:
            raise DivergedError(
                f"the gradient is not finite at step {progress['step']} "
                f'({TITLES[self.kind]}). Lower `--learning-rate`, got '
                f"{progress['learning_rate']}.") from error
        if 'summaries' in got:
            self.writer.add_summary(got['summaries'], progress['step'])
        progress['step'] += 1
        progress['epoch_loss'] += float(got['loss']) * inputs.size

    def _finish_epoch(self):
        """Evaluates, keeps the best, lowers the learning rate, saves."""
        progress = self.progress
        trained_on = sum(inputs.size for inputs, _ in self.windows)
        held_out = self.evaluate(self.corpus.valid)
        curve = progress['curve'] + [{
            'train': float(np.exp(progress['epoch_loss'] / trained_on)),
            'held_out': held_out, 'learning_rate': progress['learning_rate']}]
        best, rate = progress['best'], progress['learning_rate']
        if best is None or held_out < best['held_out']:
            best = {'held_out': held_out, 'epoch': len(curve),
                    'checkpoint': f"step-{progress['step']}"}
        else:
            rate /= 2.0
        # All at once: Ctrl-C must not find half of it done.
        progress.update(curve=curve, best=best, learning_rate=rate,
                        epoch_loss=0.0)
        self.writer.add_summary(
            tf.Summary(value=[tf.Summary.Value(
                tag='held_out_perplexity', simple_value=held_out)]),
            progress['step'])
        self.save()

    def evaluate(self, ids):
        """Perplexity, exp(mean of -log(probability)), with weight drop off."""
        model, total, tokens = self.held_out, 0.0, 0
        self.session.run(model.reset_state)
        for inputs, targets in text_data.windows(
                ids, HELD_OUT_BATCH_SIZE, self.flags.steps):
            loss, _ = self.session.run(
                [model.loss, model.carry_state],
                {model.inputs: inputs, model.targets: targets})
            total += float(loss) * inputs.size
            tokens += inputs.size
        return float(np.exp(total / tokens))

    def sample(self, length):
        """Text by the best checkpoint, going on from the held-out text."""
        self.restore(self.progress['best']['checkpoint'])
        random = np.random.RandomState(self.flags.seed)
        vocabulary, model = self.corpus.vocabulary, self.sampling
        self.session.run(model.reset_state)
        tokens = list(self.corpus.valid[:self.flags.steps])
        inputs, sampled = [tokens], []
        for _ in range(length):
            probabilities, _ = self.session.run(
                [model.probabilities, model.carry_state],
                {model.inputs: inputs})
            p = probabilities[0].astype(np.float64)
            p[vocabulary.index(text_data.UNKNOWN)] = 0.0  # nothing to read
            token = random.choice(len(p), p=p / p.sum())
            sampled.append(vocabulary[token])
            inputs = [[token]]
        return text_data.to_text(sampled, self.flags.level)


# Files.


def read_json(path):
    """The value in a JSON file; None when there is no such file."""
    if not os.path.exists(path):
        return None
    try:
        with open(path) as source:
            return json.load(source)
    except ValueError:
        raise UserError(f'`--resume` needs {path}, which is damaged.')


def write_json(path, value):
    """Replaces a JSON file in one move, so that it is never half written."""
    with open(path + '.new', 'w') as target:
        json.dump(value, target, indent=1, sort_keys=True)
    os.replace(path + '.new', path)


def settings_of(flags, corpus):
    """The settings that a run cannot change half-way."""
    settings = {name: value for name, value in vars(flags).items()
                if name not in FREE_SETTINGS}
    text = hashlib.md5(repr(corpus.vocabulary).encode('utf-8'))
    for part in (corpus.train, corpus.valid):
        text.update(part.tobytes())
    settings['text'] = text.hexdigest()
    return settings


def prepare_folder(flags, settings):
    """Checks the run to be resumed, or makes room for a new one."""
    path = os.path.join(flags.out, 'settings.json')
    earlier = read_json(path)
    if flags.resume:
        check_same_settings(flags, settings, earlier)
        return
    if earlier is None and os.path.isdir(flags.out) and os.listdir(flags.out):
        raise UserError('`--out` must be a folder of its own, got '
                        f'{flags.out}, which holds something else.')
    if earlier is not None:
        print('The earlier run is kept in', move_aside(flags.out))
    os.makedirs(flags.out, exist_ok=True)
    write_json(path, settings)


def check_same_settings(flags, settings, earlier):
    """Refuses to resume nothing, or with settings of another run."""
    if earlier is None:
        raise UserError('`--resume` needs a run to go on with, got none in '
                        f'{flags.out}. Leave it out to start one.')
    for name in sorted(settings):
        if settings[name] == earlier.get(name):
            continue
        if name == 'text':
            raise UserError('`--data` must be the text of the run in '
                            f'{flags.out}, got another text.')
        raise UserError(f"`--{name.replace('_', '-')}` must be "
                        f'{earlier.get(name)}, as in the run in {flags.out}, '
                        f'got {settings[name]}.')


def move_aside(folder):
    """Renames a folder to the first free of folder.1, folder.2, ..."""
    number = 1
    while os.path.exists(f'{folder}.{number}'):
        number += 1
    os.rename(folder, f'{folder}.{number}')
    return f'{folder}.{number}'


def draw_curves(path, progress, unit):
    """A picture of held-out perplexity by epoch, the best epochs marked.

    Args:
      path: PNG file to write.
      progress: Dict of cell name to a trainer's progress.
      unit: 'word' or 'character', for the axis.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for kind in progress:
        held_out = [point['held_out'] for point in progress[kind]['curve']]
        best = progress[kind]['best']
        line, = axes.plot(range(1, len(held_out) + 1), held_out,
                          label=f"{TITLES[kind]}: {best['held_out']:.2f}")
        axes.plot(best['epoch'], best['held_out'], 'o', color=line.get_color())
    axes.set_xlabel('epoch')
    axes.set_ylabel(f'held-out perplexity per {unit}')
    axes.set_yscale('log')
    axes.grid(alpha=0.3, which='both')
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


# The command line.


def positive(convert):
    """An argparse type for numbers greater than zero."""
    def parse(text):
        value = convert(text)
        if not 0 < value < float('inf'):
            raise argparse.ArgumentTypeError(
                f'must be greater than 0, got {text}.')
        return value
    parse.__name__ = convert.__name__  # argparse: "invalid int value"
    return parse


def keep_rate(text):
    """An argparse type for numbers in (0, 1]."""
    value = float(text)
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f'must be in (0, 1], got {text}.')
    return value


def parse_flags(argv=None):
    """Settings from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add('--data', metavar='PATH',
        help='a text file (its last 10%% is held out), or a folder with '
             'train.txt, valid.txt and test.txt; without it, the documentation '
             'that comes with Python')
    add('--level', choices=('word', 'char'), default='word',
        help='what a token is')
    add('--out', metavar='DIR', default='runs/language_model',
        help='where everything is written; an earlier run there is kept under '
             'another name')
    add('--resume', action='store_true',
        help='go on with the run in --out; give the other flags as before')
    add('--cells', nargs='+', choices=sorted(TITLES), default=sorted(TITLES),
        help='the cells to train, one after the other')
    add('--units', type=positive(int), default=200, help='units of a layer')
    add('--layers', type=positive(int), default=1, help='LSTM layers')
    add('--keep-rate', type=keep_rate, default=0.5,
        help="share of the cell's weights kept by weight drop")
    add('--recurrent-only', action='store_true',
        help='drop hidden-to-hidden weights only, as in the paper')
    add('--batch-size', type=positive(int), default=20, help='rows of a batch')
    add('--steps', type=positive(int), default=35,
        help='tokens of a row that are back-propagated through')
    add('--epochs', type=positive(int), default=20,
        help='passes over the training text')
    add('--learning-rate', type=positive(float), default=2e-3,
        help='for Adam; halved after each epoch without improvement on the '
             'held-out text')
    add('--seed', type=int, default=1, help='of initial weights and masks')
    add('--sample', type=positive(int), default=100, metavar='TOKENS',
        help='length of the text written at the end')
    add('--save-seconds', type=positive(float), default=60.0,
        help='longest time between checkpoints')
    add('--threads', type=int, default=0,
        help="TensorFlow's threads; 0 lets it choose")
    return parser.parse_args(argv)


def run(flags):
    """Trains the models and shows what came of it."""
    corpus = text_data.load_corpus(flags.data, flags.level)
    text_data.check_length(corpus, flags.batch_size, flags.steps,
                           HELD_OUT_BATCH_SIZE)
    prepare_folder(flags, settings_of(flags, corpus))
    print(f'{len(corpus.train)} {flags.level}s to train on, '
          f'{len(corpus.valid)} held out, '
          f'{len(corpus.vocabulary)} in the vocabulary')
    progress, samples = {}, {}
    for kind in flags.cells:
        trainer = Trainer(kind, flags, corpus, os.path.join(flags.out, kind))
        trainer.train()
        progress[kind] = trainer.progress
        samples[kind] = trainer.sample(flags.sample)
    picture = os.path.join(flags.out, 'curves.png')
    draw_curves(picture, progress, flags.level)
    report(flags, progress, samples, picture)


def report(flags, progress, samples, picture):
    """The sampled texts, the held-out figures and the picture's path."""
    for kind in flags.cells:
        print(f'\n--- sampled from {TITLES[kind]} ---\n{samples[kind]}')
    print(f'\nHeld-out perplexity per {flags.level}, at the best epoch:')
    for kind in flags.cells:
        best = progress[kind]['best']
        print(f"  {TITLES[kind]:20}{best['held_out']:8.2f}"
              f"  (epoch {best['epoch']} of {len(progress[kind]['curve'])})")
    print('Curves:', picture)


def main(argv=None):
    """Returns the exit code: 2 for what the user can mend."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    flags = parse_flags(argv)
    try:
        run(flags)
    except (UserError, text_data.DataError) as error:
        print('error:', error, file=sys.stderr)
        return 2
    except DivergedError as error:
        print('error:', error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('Interrupted. The same command with --resume goes on from the '
              'last checkpoint.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
