"""The cell inside of what TensorFlow 1.x has cells put in: one test for each.

Every test trains a small net with weight drop on and evaluates it with drop
off: the loss falls, each run has another mask, and evaluation is, to the bit,
that of the same net with stock LSTMCells that read its checkpoint.
"""

import numpy as np
import oracles
import pytest
import versions
from tensorflow.core.protobuf import rewriter_config_pb2
from versions import tf

from awd_lstm_tf import WeightDropLSTMCell

BATCH, TIME, DEPTH, UNITS = 16, 6, 4, 8
SOME, STEPS = 10, 40  # of training: begun, and done
INPUTS = np.random.RandomState(0).randn(BATCH, TIME, DEPTH).astype(np.float32)
LABELS = INPUTS[:, :, :1].sum(1)  # what the net is to say of each sequence

DROP = dict(weight_drop_kr=0.8, use_vd=True)


def dropping(is_train, units=UNITS, **arguments):
    return WeightDropLSTMCell(
        units, is_train=is_train, **dict(DROP, **arguments)
    )


def drawing(is_train, units=UNITS, **arguments):
    return dropping(is_train, units, auto_update=True, **arguments)


def stock(is_train, units=UNITS, **arguments):
    return tf.nn.rnn_cell.LSTMCell(units, **arguments)


def dynamic(cell, inputs, **arguments):
    return tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32, **arguments)


class Net(object):
    """A net with cells in it, its loss and its train op, in its own graph.

    `network` is a function of: a function that makes a cell, the inputs, and
    the bool tensor that says whether this run trains. It returns features,
    `[batch, depth]`, and may return a second thing to evaluate.
    """

    def __init__(self, network, make_cell, config=None):
        self.config = config or tf.ConfigProto()
        self.config.intra_op_parallelism_threads = 1
        self.cells = []
        with tf.Graph().as_default() as self.graph:
            tf.set_random_seed(5)
            self.is_train = tf.placeholder_with_default(False, [], "is_train")

            def new_cell(**arguments):
                arguments.setdefault("is_train", self.is_train)
                self.cells.append(make_cell(**arguments))
                return self.cells[-1]

            found = network(new_cell, tf.constant(INPUTS), self.is_train)
            features, self.more = (
                found if isinstance(found, tuple) else (found, [])
            )
            self._build_training(features)
            self.saver = tf.train.Saver()
        masks = [getattr(cell, "mask", None) for cell in self.cells]
        self.masks = [mask for mask in masks if mask is not None]
        self.updates = [
            getattr(cell, "get_vd_update_op", list)() for cell in self.cells
        ]

    def _build_training(self, features):
        self.dense = tf.layers.Dense(1)
        self.guess = self.dense(features)
        self.loss = tf.losses.mean_squared_error(LABELS, self.guess)
        self.optimizer = tf.train.AdamOptimizer(0.03)
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        with tf.control_dependencies(updates):
            self.train_op = self.optimizer.minimize(
                self.loss, tf.train.get_or_create_global_step()
            )

    def open(self, checkpoint=None):
        """A session with variables as initialized, or of the checkpoint."""
        session = tf.Session(graph=self.graph, config=self.config)
        if checkpoint is not None:
            self.saver.restore(session, checkpoint)
            return session
        with self.graph.as_default():
            session.run(tf.global_variables_initializer())
        return session

    def train(self, session, steps=STEPS):
        """Trains, and returns the masks of each step."""
        masks = []
        for _ in range(steps):
            session.run(self.updates)
            fetches = [self.masks, self.train_op]
            masks.append(session.run(fetches, {self.is_train: True})[0])
        return masks

    def evaluate(self, session):
        return session.run([self.loss, self.guess, self.more])


class Imported(Net):
    """`net`, found again by its names in a graph that was read from a file."""

    def __init__(self, net, graph):
        self.graph, self.config = graph, net.config
        for name in ("is_train", "loss", "guess", "train_op"):
            element = graph.as_graph_element(getattr(net, name).name)
            setattr(self, name, element)
        self.masks = [graph.get_tensor_by_name(m.name) for m in net.masks]
        self.updates = [
            graph.get_operation_by_name(op.name)
            for ops in net.updates
            for op in ops
        ]
        self.more = []


def assert_masks_change(masks):
    """Of the masks of each step: some entries dropped, never twice the same."""
    for of_one_cell in zip(*masks):
        assert all(np.any(mask == 0) for mask in of_one_cell)
        seen = {mask.tobytes() for mask in of_one_cell}
        assert len(seen) == len(of_one_cell)


def assert_trains(net, session, steps=STEPS):
    """Masks change, and the loss with drop off falls. The evaluation."""
    before = net.evaluate(session)[0]
    masks = net.train(session, steps)
    assert masks[0]
    assert_masks_change(masks)
    after = net.evaluate(session)
    assert after[0] < 0.6 * before
    return after


def stock_evaluation(network, checkpoint, **options):
    net = Net(network, stock, **options)
    with net.open(checkpoint) as session:
        return net.evaluate(session)


def assert_at_home(
    network, folder, make_cell=dropping, bound=0.0, options=None
):
    """The three things that every integration is to show."""
    options = options or {}
    net = Net(network, make_cell, **options)
    with net.open() as session:
        evaluation = assert_trains(net, session)
        checkpoint = net.saver.save(session, str(folder / "model"))
    expected = stock_evaluation(network, checkpoint, **options)
    assert oracles.same(evaluation, expected, bound)


@pytest.fixture
def stock_checkpoint(tmp_path):
    """Where a net with a stock LSTMCell was saved, and its evaluation."""
    net = Net(plain, stock)
    with net.open() as session:
        net.train(session, SOME)
        path = net.saver.save(session, str(tmp_path / "stock"))
        return path, net.evaluate(session)


# Wrappers and loops


def plain(new_cell, inputs, is_train):
    return dynamic(new_cell(), inputs)[1].h


def dropout_wrapper(new_cell, inputs, is_train):
    keep_prob = tf.where(is_train, 0.9, 1.0)
    cell = tf.nn.rnn_cell.DropoutWrapper(
        new_cell(),
        output_keep_prob=keep_prob,
        state_keep_prob=keep_prob,
        variational_recurrent=True,
        dtype=tf.float32,
    )
    return dynamic(cell, inputs)[0][:, -1]


def residual_wrapper(new_cell, inputs, is_train):
    inputs = tf.layers.dense(inputs, UNITS)
    cell = tf.nn.rnn_cell.ResidualWrapper(new_cell())
    return dynamic(cell, inputs)[0][:, -1]


def device_wrapper(new_cell, inputs, is_train):
    cells = [
        tf.nn.rnn_cell.DeviceWrapper(new_cell(), device)
        for device in ("/cpu:0", "/cpu:1")
    ]
    return dynamic(tf.nn.rnn_cell.MultiRNNCell(cells), inputs)[1][-1].h


def multi_rnn_cell(new_cell, inputs, is_train):
    cell = tf.nn.rnn_cell.MultiRNNCell([new_cell(units=n) for n in (8, 5, 6)])
    return dynamic(cell, inputs)[1][-1].h


def bidirectional(new_cell, inputs, is_train):
    _, states = tf.nn.bidirectional_dynamic_rnn(
        new_cell(),
        new_cell(),
        inputs,
        sequence_length=[TIME - n % 2 for n in range(BATCH)],
        dtype=tf.float32,
    )
    return tf.concat([state.h for state in states], 1)


def stack_bidirectional(new_cell, inputs, is_train):
    outputs, _, _ = tf.contrib.rnn.stack_bidirectional_dynamic_rnn(
        [new_cell(), new_cell()],
        [new_cell(), new_cell()],
        inputs,
        dtype=tf.float32,
    )
    return outputs[:, -1]


# Some of these are slow for having a sister: with another mode, or among the
# loops and sessions of test_masks.py.


@pytest.mark.parametrize(
    "make_cell", [dropping, pytest.param(drawing, marks=pytest.mark.slow)]
)
def test_dropout_wrapper(make_cell, tmp_path):
    assert_at_home(dropout_wrapper, tmp_path, make_cell)


@pytest.mark.smoke
def test_residual_wrapper(tmp_path):
    assert_at_home(residual_wrapper, tmp_path)


def test_device_wrapper(tmp_path):
    two = tf.ConfigProto(device_count={"CPU": 2})
    assert_at_home(device_wrapper, tmp_path, options=dict(config=two))


@pytest.mark.slow
def test_multi_rnn_cell(tmp_path):
    assert_at_home(multi_rnn_cell, tmp_path)


@pytest.mark.slow
def test_bidirectional_dynamic_rnn(tmp_path):
    assert_at_home(bidirectional, tmp_path)


@versions.needs_contrib
@pytest.mark.slow
def test_stack_bidirectional_dynamic_rnn(tmp_path):
    assert_at_home(stack_bidirectional, tmp_path, drawing)


def test_swap_memory(tmp_path):
    def network(new_cell, inputs, is_train):
        return dynamic(new_cell(), inputs, swap_memory=True)[1].h

    assert_at_home(network, tmp_path)


# Decoders


def decode(new_cell, memory, decoder_of, **arguments):
    """Attention over `memory`, in scopes that can be entered again."""
    seq2seq = tf.contrib.seq2seq
    with tf.variable_scope("decoder", reuse=tf.AUTO_REUSE):
        cell = seq2seq.AttentionWrapper(
            new_cell(**arguments),
            seq2seq.BahdanauAttention(UNITS, memory),
            attention_layer_size=UNITS,
        )
        decoder = decoder_of(cell, tf.layers.Dense(VOCABULARY, name="words"))
        return seq2seq.dynamic_decode(decoder, maximum_iterations=TIME)[0]


VOCABULARY = 5
START, END = 1, 2
BEAMS = 3


def attention_and_beam_search(new_cell, inputs, is_train):
    seq2seq = tf.contrib.seq2seq
    memory = dynamic(new_cell(), inputs)[0]
    table = tf.get_variable("table", [VOCABULARY, DEPTH])

    def training(cell, words):
        helper = seq2seq.TrainingHelper(inputs, [TIME] * BATCH)
        zero = cell.zero_state(BATCH, tf.float32)
        return seq2seq.BasicDecoder(cell, helper, zero, words)

    def greedy(cell, words):
        helper = seq2seq.GreedyEmbeddingHelper(table, [START] * BATCH, END)
        zero = cell.zero_state(BATCH, tf.float32)
        return seq2seq.BasicDecoder(cell, helper, zero, words)

    def beams(cell, words):
        return seq2seq.BeamSearchDecoder(
            cell,
            table,
            [START] * BATCH,
            END,
            cell.zero_state(BATCH * BEAMS, tf.float32),
            BEAMS,
            words,
        )

    trained = decode(new_cell, memory, training).rnn_output
    said = decode(new_cell, memory, greedy, is_train=False)
    tiled = seq2seq.tile_batch(memory, BEAMS)
    found = decode(new_cell, tiled, beams, is_train=False)
    more = [
        said.rnn_output,
        found.predicted_ids,
        found.beam_search_decoder_output.scores,
    ]
    return trained[:, -1], more


@pytest.mark.smoke
@versions.needs_contrib
def test_seq2seq(tmp_path):
    assert_at_home(attention_and_beam_search, tmp_path)


# Variables


def test_make_template(tmp_path):
    def network(new_cell, inputs, is_train):
        def features(is_train):
            return dynamic(new_cell(is_train=is_train), inputs)[1].h

        template = tf.make_template("net", features)
        trained, evaluated = template(is_train=True), template(is_train=False)
        return tf.cond(is_train, lambda: trained, lambda: evaluated)

    assert_at_home(network, tmp_path)


def test_custom_getter_of_averages(tmp_path):
    def network(new_cell, inputs, is_train):
        average = tf.train.ExponentialMovingAverage(0.5)

        def averages(getter, *args, **kwargs):
            variable = getter(*args, **kwargs)
            return average.average(variable)

        trained = dynamic(new_cell(), inputs)[1].h
        keep = average.apply(tf.trainable_variables())
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, keep)
        scope = tf.get_variable_scope()
        with tf.variable_scope(scope, reuse=True, custom_getter=averages):
            evaluated = dynamic(new_cell(is_train=False), inputs)[1].h
        return tf.cond(is_train, lambda: trained, lambda: evaluated)

    assert_at_home(network, tmp_path)


def test_custom_getter_of_normalized_weights(tmp_path):
    def network(new_cell, inputs, is_train):
        def normalized(getter, name, *args, **kwargs):
            variable = getter(name, *args, **kwargs)
            if not name.endswith("kernel"):
                return variable
            return 2 * tf.nn.l2_normalize(variable, 0)  # made in the loop

        with tf.variable_scope("net", custom_getter=normalized):
            return dynamic(new_cell(), inputs)[1].h

    assert_at_home(network, tmp_path)


@pytest.mark.parametrize(
    "scope",
    [
        pytest.param(
            dict(partitioner=tf.fixed_size_partitioner(3)),
            marks=pytest.mark.slow,
        ),
        pytest.param(dict(use_resource=False), marks=pytest.mark.slow),
        dict(use_resource=True),
        dict(use_resource=True, partitioner=tf.fixed_size_partitioner(3)),
    ],
    ids=["partitioned", "ref", "resource", "partitioned_resource"],
)
def test_variables(scope, tmp_path):
    def network(new_cell, inputs, is_train):
        with tf.variable_scope("net", **scope):
            return dynamic(new_cell(), inputs)[1].h

    assert_at_home(network, tmp_path)


# Sessions


@pytest.mark.slow
def test_monitored_training_session(tmp_path):
    evaluations = []
    for steps in (SOME, STEPS):  # the second goes on where the first ended
        net = Net(plain, dropping)
        with net.graph.as_default(), tf.train.MonitoredTrainingSession(
            checkpoint_dir=str(tmp_path),
            save_checkpoint_steps=STEPS,
            config=net.config,
        ) as session:
            evaluations.append(net.evaluate(session))
            evaluations.append(assert_trains(net, session, steps))
    assert oracles.same(evaluations[2], evaluations[1])
    checkpoint = tf.train.latest_checkpoint(str(tmp_path))
    assert oracles.same(evaluations[3], stock_evaluation(plain, checkpoint))


@pytest.mark.slow
def test_supervisor(tmp_path):
    evaluations = []
    for steps in (SOME, STEPS):
        net = Net(plain, dropping)
        supervisor = tf.train.Supervisor(
            net.graph, saver=net.saver, logdir=str(tmp_path), summary_op=None
        )
        with supervisor.managed_session(config=net.config) as session:
            evaluations.append(net.evaluate(session))
            evaluations.append(assert_trains(net, session, steps))
            path = net.saver.save(session, supervisor.save_path)
    assert oracles.same(evaluations[2], evaluations[1])
    assert oracles.same(evaluations[3], stock_evaluation(plain, path))


# Files


def test_import_meta_graph_of_a_trained_graph(tmp_path):
    net = Net(plain, dropping)
    with net.open() as session:
        evaluation = assert_trains(net, session, SOME)
        path = net.saver.save(session, str(tmp_path / "first"))
    with tf.Graph().as_default() as graph, tf.Session() as session:
        saver = tf.train.import_meta_graph(path + ".meta")
        saver.restore(session, path)
        again = Imported(net, graph)
        assert oracles.same(again.evaluate(session), evaluation)
        evaluation = assert_trains(again, session)
        path = saver.save(session, str(tmp_path / "second"))
    assert oracles.same(evaluation, stock_evaluation(plain, path))


def test_saved_model_with_a_placeholder_is_train(tmp_path):
    net = Net(plain, dropping)
    with net.open() as session:
        evaluation = assert_trains(net, session, SOME)
        tf.saved_model.simple_save(
            session,
            str(tmp_path / "saved"),
            {"is_train": net.is_train},
            {"guess": net.guess},
        )
        checkpoint = net.saver.save(session, str(tmp_path / "model"))
    assert oracles.same(evaluation, stock_evaluation(plain, checkpoint))
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tags = [tf.saved_model.tag_constants.SERVING]
        tf.saved_model.loader.load(session, tags, str(tmp_path / "saved"))
        again = Imported(net, graph)
        assert oracles.same(again.evaluate(session), evaluation)
        assert_trains(again, session)  # it can be trained on, too


def test_init_from_checkpoint_of_lstm_cell(stock_checkpoint, tmp_path):
    path, expected = stock_checkpoint
    net = Net(plain, dropping)
    with net.graph.as_default():
        tf.train.init_from_checkpoint(path, {"/": "/"})
    with net.open() as session:
        assert oracles.same(net.evaluate(session), expected)
        assert_trains(net, session)


def objects_of(net):
    return tf.train.Checkpoint(
        cell=net.cells[0], dense=net.dense, optimizer=net.optimizer
    )


@pytest.mark.parametrize(
    "first, second", [(stock, dropping), (dropping, stock)]
)
def test_checkpoint_of_objects(first, second, tmp_path):
    net = Net(plain, first)
    with net.open() as session, net.graph.as_default():
        net.train(session, SOME)
        evaluation = net.evaluate(session)
        path = objects_of(net).save(str(tmp_path / "objects"), session)
    net = Net(plain, second)
    with net.open() as session, net.graph.as_default():
        status = objects_of(net).restore(path)
        if second is stock:  # a config with a placeholder in it is not kept
            status.assert_consumed()
        status.run_restore_ops(session)
        assert oracles.same(net.evaluate(session), evaluation)
        net.train(session)
        assert net.evaluate(session)[0] < evaluation[0]


# Estimator


class Recorder(tf.train.SessionRunHook):
    """Keeps what `fetches` is at each run."""

    def __init__(self, fetches):
        self._fetches, self.seen = fetches, []

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._fetches)

    def after_run(self, run_context, run_values):
        self.seen.append(run_values.results)


def estimator_of(make_cell, folder, **arguments):
    """An Estimator, and the Recorder of its masks and losses when training."""

    def model_fn(features, labels, mode):
        cell = make_cell(mode == tf.estimator.ModeKeys.TRAIN)
        guess = tf.layers.dense(dynamic(cell, features)[1].h, 1)
        loss = tf.losses.mean_squared_error(labels, guess)
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        with tf.control_dependencies(updates):
            train_op = tf.train.AdamOptimizer(0.03).minimize(
                loss, tf.train.get_or_create_global_step()
            )
        masks = [] if cell.mask is None else [cell.mask]
        recorder._fetches = [masks, loss]
        return tf.estimator.EstimatorSpec(
            mode, loss=loss, train_op=train_op, training_hooks=[recorder]
        )

    recorder = Recorder(None)
    config = tf.estimator.RunConfig(tf_random_seed=5)
    estimator = tf.estimator.Estimator(
        model_fn, str(folder), config, **arguments
    )
    return estimator, recorder


def sequences():
    return tf.data.Dataset.from_tensors((INPUTS, LABELS)).repeat()


def gathered(is_train, units=UNITS):
    return dropping(
        is_train, units, updates_collections=tf.GraphKeys.UPDATE_OPS
    )


def at_keep_rate_1(is_train):
    return WeightDropLSTMCell(UNITS)


def assert_estimator_trains(estimator, recorder, folder):
    estimator.train(sequences, steps=STEPS)
    assert_masks_change([masks for masks, _ in recorder.seen[1:]])
    evaluation = estimator.evaluate(sequences, steps=1)
    assert evaluation["loss"] < 0.6 * recorder.seen[0][1]
    twin, _ = estimator_of(at_keep_rate_1, folder)
    assert twin.evaluate(sequences, steps=1) == evaluation


@pytest.mark.smoke
@versions.needs_estimator
def test_estimator_with_update_ops(tmp_path):
    estimator, recorder = estimator_of(gathered, tmp_path)
    assert_estimator_trains(estimator, recorder, tmp_path)


@versions.needs_estimator
def test_warm_start_settings_from_lstm_cell(stock_checkpoint, tmp_path):
    path, (loss, _, _) = stock_checkpoint
    estimator, recorder = estimator_of(
        gathered,
        tmp_path / "warm",
        warm_start_from=tf.estimator.WarmStartSettings(path, ".*"),
    )
    assert_estimator_trains(estimator, recorder, tmp_path / "warm")
    # The first step's mask is the one before any update: all ones.
    assert recorder.seen[0][1] == loss


# Keras


@versions.needs_keras_2
@pytest.mark.smoke
def test_keras_rnn_in_a_graph(tmp_path):
    def network(new_cell, inputs, is_train):
        return tf.keras.layers.RNN(new_cell())(inputs)

    assert_at_home(network, tmp_path)


def keras_model(cell):
    inputs = tf.keras.layers.Input([TIME, DEPTH])
    hidden = tf.keras.layers.RNN(cell)(inputs)
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(1)(hidden))
    model.compile(tf.keras.optimizers.Adam(0.03), "mse")
    return model


@pytest.mark.usefixtures("late_gradients")
def test_keras_fit():
    backend = tf.keras.backend
    backend.clear_session()
    is_train = backend.learning_phase()
    cell = dropping(is_train)
    model = keras_model(cell)
    mask = cell.mask
    masks = []

    def redraw(batch, logs):
        session = backend.get_session()
        session.run(cell.get_vd_update_op())
        masks.append([session.run(mask, {is_train: True})])

    before = model.evaluate(INPUTS, LABELS, BATCH, verbose=0)
    model.fit(
        INPUTS,
        LABELS,
        batch_size=BATCH,
        epochs=STEPS,
        verbose=0,
        callbacks=[tf.keras.callbacks.LambdaCallback(on_batch_begin=redraw)],
    )
    assert len(masks) == STEPS
    assert_masks_change(masks)
    after = model.evaluate(INPUTS, LABELS, BATCH, verbose=0)
    assert after < 0.6 * before
    twin = keras_model(tf.nn.rnn_cell.LSTMCell(UNITS))
    twin.set_weights(model.get_weights())
    assert twin.evaluate(INPUTS, LABELS, BATCH, verbose=0) == after
    assert np.array_equal(twin.predict(INPUTS), model.predict(INPUTS))


# Compilers


def test_xla_jit_scope(tmp_path):
    if not versions.has_xla():
        pytest.skip("this build of TensorFlow has no XLA")

    def network(new_cell, inputs, is_train):
        with versions.jit_scope():
            return dynamic(new_cell(), inputs)[1].h

    assert_at_home(network, tmp_path, bound=1e-5)


def config_of(**graph_options):
    return tf.ConfigProto(graph_options=tf.GraphOptions(**graph_options))


def test_xla_global_jit_level(tmp_path):
    # Builds without a GPU compile nothing for it unless TF_XLA_FLAGS says so.
    level = tf.OptimizerOptions(global_jit_level=tf.OptimizerOptions.ON_2)
    config = config_of(optimizer_options=level)
    assert_at_home(plain, tmp_path, bound=1e-5, options=dict(config=config))


REWRITERS = [
    "layout_optimizer",
    "constant_folding",
    "shape_optimization",
    "remapping",
    "arithmetic_optimization",
    "dependency_optimization",
    "loop_optimization",
    "function_optimization",
    "debug_stripper",
]


@pytest.mark.parametrize("switch", ["OFF", "AGGRESSIVE"])
def test_grappler(switch, tmp_path):
    proto = rewriter_config_pb2.RewriterConfig
    known = set(REWRITERS) & set(proto.DESCRIPTOR.fields_by_name)
    rewrites = proto(
        memory_optimization=proto.NO_MEM_OPT
        if switch == "OFF"
        else proto.HEURISTICS,
        meta_optimizer_iterations=proto.TWO,
        **{name: getattr(proto, switch) for name in known},
    )
    config = config_of(rewrite_options=rewrites)
    assert_at_home(plain, tmp_path, drawing, options=dict(config=config))


@pytest.mark.smoke
@pytest.mark.usefixtures("control_flow_v2")
@pytest.mark.parametrize("make_cell", [dropping, drawing])
def test_control_flow_v2(make_cell, tmp_path):
    assert_at_home(bidirectional, tmp_path, make_cell)
