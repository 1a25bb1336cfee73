"""NT-ASGD against numpy written from the paper's algorithm 1."""

import sys

import numpy as np
import pytest
import versions
from versions import tf

from awd_lstm_tf import NTASGDOptimizer, _averages

STATE = [
    "best",
    "checked_step",
    "checks",
    "recent",
    "steps",
    "swapped",
    "trigger_step",
]


class Paper(object):
    """Algorithm 1: every weight and every loss is kept, nothing is running."""

    def __init__(self, weights, learning_rate, n, trigger):
        self.iterates = [weights]  # w[0], w[1], ...
        self.learning_rate = learning_rate
        self.n = n
        self.trigger = trigger
        self.logs = []
        self.start = None  # T

    def step(self, gradient):
        self.iterates.append(self.iterates[-1] - self.learning_rate * gradient)

    def validate(self, loss):
        t, n, logs = len(self.logs), self.n, self.logs
        compared = {
            "iclr": range(0, t - n),  # {0, ..., t - n - 1}
            "arxiv": range(t - n, t),  # {t - n, ..., t}, without logs[t]
        }[self.trigger]
        stalls = t > n and loss > min(logs[i] for i in compared)
        if stalls and self.start is None:
            self.start = len(self.iterates) - 1
        self.logs.append(loss)
        return stalls

    @property
    def average(self):
        if self.start is None:
            return self.iterates[-1]
        return np.mean(self.iterates[self.start :], 0)


class Fed(object):
    """One variable, trained by gradients that are fed."""

    def __init__(self, session, dtype=tf.float64, use_resource=False, **kwargs):
        self.first = np.arange(6.0).reshape(2, 3).astype(dtype.name)
        self.weights = tf.get_variable(
            "w", initializer=self.first, use_resource=use_resource
        )
        self.gradient = tf.placeholder(dtype, self.first.shape)
        self.optimizer = NTASGDOptimizer(0.5, **kwargs)
        self.train_op = self.optimizer.apply_gradients(
            [(self.gradient, self.weights)]
        )
        self.average = self.optimizer.average(self.weights)
        self.session = session
        session.run(tf.global_variables_initializer())

    def step(self, gradient):
        self.session.run(self.train_op, {self.gradient: gradient})

    def report(self, loss):
        return self.optimizer.report(self.session, loss)

    def values(self):
        """Weights and average."""
        return self.session.run([self.weights, self.average])

    def train_until_averaging(self, seed=0):
        """A few averaged steps; the losses trigger whatever the trigger."""
        random = np.random.RandomState(seed)
        for loss in [2.0, 1.0, 3.0, 4.0]:
            self.step(random.randn(2, 3))
            self.report(loss)
        assert self.session.run(self.optimizer.averaging)
        self.step(random.randn(2, 3))
        weights, average = self.values()
        assert not np.allclose(weights, average)
        return weights, average


both_kinds = pytest.mark.parametrize("use_resource", [False, True])
both_triggers = pytest.mark.parametrize("trigger", ["iclr", "arxiv"])


# The algorithm


@both_triggers
@pytest.mark.parametrize(
    "dtype, use_resource", [(tf.float32, True), (tf.float64, False)]
)
def test_averages_are_those_of_the_paper(
    open_session, dtype, trigger, use_resource
):
    fed = Fed(open_session(), dtype, use_resource, nonmono=2, trigger=trigger)
    paper = Paper(fed.first.astype(np.float64), 0.5, 2, trigger)
    random = np.random.RandomState(0)
    for loss in [9.0, 8.0, 7.5, 7.0, 7.2, 6.5, 7.1, 7.8, 8.5, 7.0, 6.0]:
        for _ in range(3):
            gradient = random.randn(2, 3)
            fed.step(gradient)
            paper.step(gradient)
            weights, average = fed.values()
            precision = 1e-5 if dtype == tf.float32 else 1e-13
            np.testing.assert_allclose(
                weights, paper.iterates[-1], atol=precision
            )
            np.testing.assert_allclose(average, paper.average, atol=precision)
            if paper.start is None:
                assert np.array_equal(weights, average)
        assert fed.report(loss) == paper.validate(loss)
        started = fed.session.run(fed.optimizer.averaging)
        assert started == (paper.start is not None)
    assert 0 < paper.start < 30


def trigger_check(losses, n, trigger):
    """The index of the first loss that triggers."""
    paper = Paper(np.zeros(1), 1.0, n, trigger)
    for i, loss in enumerate(losses):
        if paper.validate(loss):
            return i
    return None


@pytest.mark.smoke
def test_triggers_by_hand():
    # The lowest loss is at index 3. More than n=2 checks later than that, at 6,
    # it leaves the latest two, and is beaten by no later loss. The first rise
    # after more than two checks is at 4.
    losses = [9, 8, 7, 5, 6, 5.5, 5.2, 5.1, 5.05]
    assert trigger_check(losses, 2, "iclr") == 6
    assert trigger_check(losses, 2, "arxiv") == 4
    # A rise that is forgotten in time: "iclr" never triggers.
    losses = [9, 8, 7, 7.5, 6, 6.5, 5, 5.5, 4]
    assert trigger_check(losses, 2, "iclr") is None
    assert trigger_check(losses, 2, "arxiv") == 3
    # Not before there are more than n checks.
    losses = [1, 2, 3, 4, 5]
    assert trigger_check(losses, 3, "iclr") == 4
    assert trigger_check(losses, 3, "arxiv") == 4
    # As good as the best is good enough.
    assert trigger_check([1] * 9, 1, "iclr") is None
    assert trigger_check([1] * 9, 1, "arxiv") is None


@both_triggers
@pytest.mark.parametrize("n", [1, 2, 5])
def test_triggers_on_random_losses(open_session, n, trigger):
    fed = Fed(open_session(), nonmono=n, trigger=trigger)
    initialize = tf.global_variables_initializer()
    random = np.random.RandomState(n)
    for _ in range(15):
        fed.session.run(initialize)
        paper = Paper(fed.first, 0.5, n, trigger)
        # Ties, and the infinity of an overflown perplexity.
        losses = random.choice([1.0, 2.0, 2.5, 3.0, np.inf], size=12)
        assert [fed.report(loss) for loss in losses] == [
            paper.validate(loss) for loss in losses
        ]


def test_losses_are_compared_in_float64(open_session):
    fed = Fed(open_session(), tf.float32, nonmono=1)
    for loss in [1.0, 1.0, 1.0]:
        assert not fed.report(loss)
    assert fed.report(1.0 + 1e-12)


@both_kinds
def test_sparse_gradients_and_learning_rate_from_a_function(
    open_session, use_resource
):
    matrix = np.random.RandomState(0).randn(5, 2)
    table = tf.get_variable(
        "table", initializer=matrix, use_resource=use_resource
    )
    loss = tf.reduce_sum(tf.gather(table, [1, 3, 3]) ** 2)
    optimizer = NTASGDOptimizer(lambda: 0.125, nonmono=1)
    train_op = optimizer.minimize(loss)
    paper = Paper(matrix, 0.125, 1, "iclr")
    session = open_session()
    session.run(tf.global_variables_initializer())
    for validation_loss in [2.0, 1.0, 3.0, 4.0, 5.0]:
        session.run(train_op)
        counts = np.array([0, 1, 0, 2, 0])[:, np.newaxis]
        paper.step(2 * counts * paper.iterates[-1])
        optimizer.report(session, validation_loss)
        paper.validate(validation_loss)
    session.run(train_op)
    paper.step(2 * counts * paper.iterates[-1])
    weights, average = session.run([table, optimizer.average(table)])
    np.testing.assert_allclose(weights, paper.iterates[-1])
    np.testing.assert_allclose(average, paper.average)
    assert paper.start == 3


def test_averages_are_of_constrained_weights(open_session):
    w = tf.get_variable(
        "w", initializer=[5.0], constraint=lambda w: tf.maximum(w, 3.0)
    )
    optimizer = NTASGDOptimizer(1.0)
    train_op = optimizer.apply_gradients([(tf.ones([1]), w)])
    session = open_session()
    session.run(tf.global_variables_initializer())
    for _ in range(4):
        session.run(train_op)
    assert session.run([w, optimizer.average(w)]) == [[3.0], [3.0]]


def test_variables_without_gradient_are_left_alone(open_session):
    w = tf.get_variable("w", initializer=1.0)
    unused = tf.get_variable("unused", initializer=1.0)
    optimizer = NTASGDOptimizer(1.0)
    optimizer.minimize(w**2)
    assert optimizer.average(unused) is None


def test_report_op(open_session):
    fed = Fed(open_session(), nonmono=1)
    loss = tf.placeholder(tf.float32, [])
    report = fed.optimizer.report_op(loss)
    said = [fed.session.run(report, {loss: x}) for x in [2, 1, 3, 4]]
    assert said == [False, False, True, True]
    assert fed.session.run(fed.optimizer.averaging)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        fed.session.run(report, {loss: np.nan})
    assert "`validation_loss` must be a number, got" in str(caught.value)


# The swap


@pytest.mark.smoke
@both_kinds
def test_swap_is_exact(open_session, use_resource):
    fed = Fed(open_session(), use_resource=use_resource, nonmono=1)
    weights, average = fed.train_until_averaging()
    for _ in range(3):
        with fed.optimizer.averaged(fed.session):
            assert np.array_equal(fed.values(), [average, weights])
            fed.session.run(fed.optimizer.swap_in)  # does nothing
            assert np.array_equal(fed.values(), [average, weights])
        assert np.array_equal(fed.values(), [weights, average])
        fed.session.run(fed.optimizer.swap_out)
        assert np.array_equal(fed.values(), [weights, average])


def test_swap_keeps_every_bit(open_session):
    """Negative zeros, denormal numbers, NaN: a swap computes nothing."""
    fed = Fed(open_session(), tf.float32, nonmono=1)
    fed.train_until_averaging()
    odd = np.array([[-0.0, 1e-42, np.nan], [np.inf, -1e-45, 3]], np.float32)
    fed.weights.load(odd, fed.session)
    _, average = fed.values()
    with fed.optimizer.averaged(fed.session):
        assert fed.values()[1].tobytes() == odd.tobytes()
    assert fed.values()[0].tobytes() == odd.tobytes()
    assert fed.values()[1].tobytes() == average.tobytes()


def test_swap_before_averaging_shows_the_weights(open_session):
    fed = Fed(open_session())
    restored = np.full([2, 3], 7.0)  # from elsewhere; no step was taken yet
    fed.weights.load(restored, fed.session)
    with fed.optimizer.averaged(fed.session):
        assert np.array_equal(fed.values()[0], restored)
        fed.report(1.0)
    assert np.array_equal(fed.values(), [restored, restored])


def test_averaging_that_starts_while_swapped(open_session):
    fed = Fed(open_session(), nonmono=1)
    for loss in [2.0, 1.0, 3.0, 4.0]:
        fed.step(np.ones([2, 3]))
        with fed.optimizer.averaged(fed.session):
            fed.report(loss)
    weights, average = fed.values()
    assert np.array_equal(weights, fed.first - 4 * 0.5)
    assert np.array_equal(average, fed.first - 3.5 * 0.5)


def test_averaging_starts_with_the_weights_as_they_are(open_session):
    fed = Fed(open_session(), nonmono=1)
    fed.step(np.ones([2, 3]))
    assigned = np.full([2, 3], 7.0)  # by something else than the train op
    fed.weights.load(assigned, fed.session)
    for loss in [1.0, 2.0, 3.0]:
        fed.report(loss)
    assert np.array_equal(fed.values(), [assigned, assigned])


def test_weights_come_back_when_evaluation_fails(open_session):
    fed = Fed(open_session(), nonmono=1)
    before = fed.train_until_averaging()
    with pytest.raises(KeyError), fed.optimizer.averaged(fed.session):
        raise KeyError
    assert np.array_equal(fed.values(), before)


def test_averages_stay_until_the_outermost_end(open_session):
    fed = Fed(open_session(), nonmono=1)
    weights, average = fed.train_until_averaging()
    with fed.optimizer.averaged(fed.session):
        for _ in range(2):
            with fed.optimizer.averaged(fed.session):
                assert np.array_equal(fed.values(), [average, weights])
            assert np.array_equal(fed.values(), [average, weights])
    assert np.array_equal(fed.values(), [weights, average])


def test_training_while_swapped_fails(open_session):
    fed = Fed(open_session(), nonmono=1)
    weights, average = fed.train_until_averaging()
    fed.session.run(fed.optimizer.swap_in)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        fed.step(np.ones([2, 3]))
    assert "must not train while its averages are swapped in" in str(
        caught.value
    )
    fed.session.run(fed.optimizer.swap_out)
    assert np.array_equal(fed.values(), [weights, average])
    fed.step(np.ones([2, 3]))


# Fine-tuning


@pytest.mark.parametrize("swapped", [False, True])
def test_restart(open_session, swapped):
    fed = Fed(open_session(), nonmono=1)
    _, average = fed.train_until_averaging()
    if swapped:
        fed.session.run(fed.optimizer.swap_in)
    fed.session.run(fed.optimizer.restart)
    assert np.array_equal(fed.values(), [average, average])
    # Averaging from the start, and a criterion that has forgotten all losses.
    fine = Paper(average, 0.5, 1, "iclr")
    fine.start = 0
    random = np.random.RandomState(3)
    for loss in [3.0, 1.0, 2.0, 5.0]:
        gradient = random.randn(2, 3)
        fed.step(gradient)
        fine.step(gradient)
        np.testing.assert_allclose(fed.values()[1], fine.average)
        assert fed.report(loss) == fine.validate(loss)


@both_triggers
def test_restart_forgets_all_losses(open_session, trigger):
    fed = Fed(open_session(), nonmono=2, trigger=trigger)
    for loss in [1.0, 2.0, 3.0, 4.0]:
        fed.report(loss)
    fed.session.run(fed.optimizer.restart)
    fine = Paper(fed.first, 0.5, 2, trigger)
    losses = [7.0, 8.0, 6.0, 6.5, 9.0]
    assert [fed.report(loss) for loss in losses] == [
        fine.validate(loss) for loss in losses
    ]


def test_restart_without_averages_keeps_the_weights(open_session):
    fed = Fed(open_session())
    fed.step(np.ones([2, 3]))
    fed.session.run(fed.optimizer.restart)
    assert np.array_equal(fed.values(), [fed.first - 0.5] * 2)


def test_restart_without_averages_keeps_weights_from_elsewhere(open_session):
    fed = Fed(open_session())
    (weights,) = tf.trainable_variables()
    weights.load(fed.first + 7.0, fed.session)
    fed.session.run(fed.optimizer.restart)
    assert np.array_equal(fed.values(), [fed.first + 7.0] * 2)


# Checkpoints


def evaluation_graph():
    """A graph with the weights alone."""
    graph = tf.Graph()
    with graph.as_default():
        w = tf.get_variable("w", [2, 3], tf.float64)
        other = tf.get_variable("other", initializer=0, trainable=False)
    return graph, w, other


def restored(names_or_none, graph, path, variable):
    with graph.as_default(), tf.Session() as session:
        tf.train.Saver(names_or_none).restore(session, path)
        return session.run(variable)


@pytest.fixture
def trained(open_session, tmp_path):
    """A trained variable, and checkpoints of both savers."""
    fed = Fed(open_session(), nonmono=1)
    tf.get_variable("other", initializer=5, trainable=False)
    savers = {
        "plain": tf.train.Saver(),
        "swapping": fed.optimizer.swapping_saver(),
    }
    fed.session.run(tf.global_variables_initializer())
    fed.before = fed.train_until_averaging()
    fed.paths = {
        name: saver.save(fed.session, str(tmp_path / name))
        for name, saver in savers.items()
    }
    fed.savers = savers
    return fed


def test_saving_changes_nothing(trained):
    assert np.array_equal(trained.values(), trained.before)


@pytest.mark.smoke
def test_swapping_saver_saves_averages_as_weights(trained):
    graph, w, other = evaluation_graph()
    _, average = trained.before
    path = trained.paths["swapping"]
    assert np.array_equal(restored(None, graph, path, w), average)
    assert restored(None, graph, path, other) == 5


@pytest.mark.parametrize("name", ["plain", "swapping"])
def test_savers_restore_what_they_saved(trained, name):
    state = trained.session.run(tf.global_variables())
    trained.session.run(tf.global_variables_initializer())
    trained.savers[name].restore(trained.session, trained.paths[name])
    again = trained.session.run(tf.global_variables())
    assert all(np.array_equal(*pair) for pair in zip(state, again))


@pytest.mark.parametrize(
    "saved, loaded", [("plain", "swapping"), ("swapping", "plain")]
)
def test_the_wrong_saver_is_noticed_and_mended(trained, saved, loaded):
    trained.savers[loaded].restore(trained.session, trained.paths[saved])
    with pytest.raises(tf.errors.InvalidArgumentError, match="swap_out"):
        trained.step(np.ones([2, 3]))
    trained.session.run(trained.optimizer.swap_out)
    assert np.array_equal(trained.values(), trained.before)


@pytest.mark.parametrize("name", ["plain", "swapping"])
def test_variables_to_restore(trained, name):
    graph, w, other = evaluation_graph()
    _, average = trained.before
    path = trained.paths[name]
    with graph.as_default():
        optimizer = NTASGDOptimizer(1.0)
        names = optimizer.variables_to_restore(checkpoint=path)
        if name == "plain":
            assert names == {"w/NTASGD": w, "other": other}
            assert optimizer.variables_to_restore() == names
        else:
            assert names == {"w": w, "other": other}
    assert np.array_equal(restored(names, graph, path, w), average)


def test_variables_to_restore_of_a_training_without_averages(
    open_session, tmp_path
):
    graph, w, other = evaluation_graph()
    with graph.as_default():
        session = open_session()
        session.run(tf.global_variables_initializer())
        path = tf.train.Saver().save(session, str(tmp_path / "model"))
        optimizer = NTASGDOptimizer(1.0)
        names = optimizer.variables_to_restore(checkpoint=path)
        assert names == {"w": w, "other": other}
        assert optimizer.variables_to_restore(var_list=[]) == names
        with pytest.raises(tf.errors.OpError):
            optimizer.variables_to_restore(checkpoint=path + "_not")


def test_start_from_a_checkpoint_without_averages(open_session, tmp_path):
    graph, w, _ = evaluation_graph()
    with graph.as_default():
        session = open_session()
        session.run(tf.global_variables_initializer())
        path = tf.train.Saver([w]).save(session, str(tmp_path / "model"))
        weights = session.run(w)
    fed = Fed(open_session(graph=tf.get_default_graph()))
    own = fed.optimizer.variables()
    rest = [v for v in tf.global_variables() if v not in own]
    tf.train.Saver(rest).restore(fed.session, path)
    with fed.optimizer.averaged(fed.session):
        assert np.array_equal(fed.values()[0], weights)
    fed.step(np.zeros([2, 3]))
    assert np.array_equal(fed.values(), [weights, weights])


@both_kinds
def test_partitioned_variables(open_session, tmp_path, use_resource):
    value = np.arange(12.0).reshape(6, 2)
    w = tf.get_variable(
        "w",
        initializer=tf.constant(value),
        partitioner=tf.fixed_size_partitioner(3),
        use_resource=use_resource,
    )
    optimizer = NTASGDOptimizer(0.5, nonmono=1)
    train_op = optimizer.minimize(tf.reduce_sum(w))
    swapping, plain = optimizer.swapping_saver(), tf.train.Saver()
    session = open_session()
    session.run(tf.global_variables_initializer())
    for loss in [2.0, 1.0, 3.0, 4.0]:
        session.run(train_op)
        optimizer.report(session, loss)
    average = value - 3.5 * 0.5  # of w[3] and w[4]
    swapped = swapping.save(session, str(tmp_path / "swapped"))
    path = plain.save(session, str(tmp_path / "plain"))
    for checkpoint in [swapped, path]:
        with tf.Graph().as_default() as graph:
            whole = tf.get_variable("w", [6, 2], tf.float64)
            names = NTASGDOptimizer(1.0).variables_to_restore(
                checkpoint=checkpoint
            )
            got = restored(names, graph, checkpoint, whole)
        np.testing.assert_allclose(got, average)
    with tf.Graph().as_default():
        parts = tf.get_variable(
            "w", [6, 2], tf.float64, partitioner=tf.fixed_size_partitioner(2)
        )
        names = NTASGDOptimizer(1.0).variables_to_restore()
        assert names == {"w/NTASGD": list(parts)}


def test_swapping_saver_of_some_variables(trained, tmp_path):
    """The averages alone, for serving."""
    saver = trained.optimizer.swapping_saver([trained.weights])
    path = saver.save(trained.session, str(tmp_path / "serve"))
    assert tf.train.list_variables(path) == [("w", [2, 3])]
    _, average = trained.before
    assert np.array_equal(tf.train.load_variable(path, "w"), average)


def test_swapping_saver_saves_iterators(open_session, tmp_path):
    dataset = tf.data.Dataset.range(9)
    iterator = dataset.make_one_shot_iterator()
    item = iterator.get_next()
    tf.add_to_collection(
        tf.GraphKeys.SAVEABLE_OBJECTS,
        versions.saveable_from_iterator(iterator),
    )
    fed = Fed(open_session())
    saver = fed.optimizer.swapping_saver()
    assert fed.session.run([item, item]) == [0, 0]
    path = saver.save(fed.session, str(tmp_path / "model"))
    assert [fed.session.run(item) for _ in range(3)] == [1, 2, 3]
    saver.restore(fed.session, path)
    assert fed.session.run(item) == 1


def in_checkpoint(path, name):
    return tf.train.load_checkpoint(path).get_tensor(name)


class Truth(object):
    """What is trained and what is shown after any history, in numpy."""

    def __init__(self, weights):
        self.weights, self.counted = weights, None  # since averaging began

    def step(self, gradient):
        self.weights = self.weights - 0.5 * gradient
        if self.counted is not None:
            self.counted.append(self.weights)

    @property
    def shown(self):
        return np.mean(self.counted or [self.weights], 0)


@pytest.mark.parametrize(
    "use_resource", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_what_is_shown_is_saved_and_training_goes_on_from_any_checkpoint(
    open_session, tmp_path, use_resource, seed
):
    """Steps, losses, weights from elsewhere, savers and restarts at random."""
    fed = Fed(open_session(), use_resource=use_resource, nonmono=1)
    optimizer, session = fed.optimizer, fed.session
    value = tf.placeholder(tf.float64, [2, 3])
    load = fed.weights.assign(value)
    savers = [tf.train.Saver(), optimizer.swapping_saver()]
    initialize = tf.global_variables_initializer()
    graph, w, _ = evaluation_graph()

    def to_restore(path):
        with graph.as_default():
            names = NTASGDOptimizer(1.0).variables_to_restore(checkpoint=path)
        (name,) = [name for name, variable in names.items() if variable is w]
        return name

    def check(truth, path, by_name):
        for name in {by_name, to_restore(path)}:
            got = in_checkpoint(path, name)
            np.testing.assert_allclose(got, truth.shown, atol=1e-12)
        with optimizer.averaged(session):
            got = session.run(fed.weights)
        np.testing.assert_allclose(got, truth.shown, atol=1e-12)
        got = session.run(fed.weights)
        np.testing.assert_allclose(got, truth.weights, atol=1e-12)

    random = np.random.RandomState(seed)
    begun = 0
    for life in range(6):
        session.run(initialize)
        truth, loss = Truth(fed.first), 0
        for _ in range(12):
            kind = random.choice(["step", "step", "load", "report", "restart"])
            array = random.randn(2, 3)
            if kind == "step":
                fed.step(array)
                truth.step(array)
            elif kind == "load" and truth.counted is None:
                session.run(load, {value: array})
                truth.weights = array
            elif kind == "report":
                loss += 1  # worse and worse: the third one triggers
                if fed.report(loss) and truth.counted is None:
                    truth.counted = [truth.weights]
            elif kind == "restart" and life % 3 == 0:
                session.run(optimizer.restart)
                truth.weights = truth.shown
                truth.counted = [truth.weights]
            begun += truth.counted is not None
            saved, swapped, restored_by = random.randint(2, size=3)
            saver, to = savers[saved], str(tmp_path / "model")
            if swapped:
                with optimizer.averaged(session):
                    path = saver.save(session, to)
            else:
                path = saver.save(session, to)
            by_name = "w" if saved or swapped else to_restore(path)
            check(truth, path, by_name)
            session.run(initialize)
            savers[restored_by].restore(session, path)
            if saved and restored_by:  # in place, without `swap_out`
                got = session.run(fed.weights)
                np.testing.assert_allclose(got, truth.weights, atol=1e-12)
            session.run(optimizer.swap_out)
            check(truth, path, by_name)
    assert 0 < begun < 72  # saved before averaging began, and after


def test_averaging_starts_from_a_plain_checkpoint_restored_by_the_other_saver(
    open_session, tmp_path
):
    """The one state in which the two places differ, and neither is a mean."""
    fed = Fed(open_session(), nonmono=1)
    plain, swapping = tf.train.Saver(), fed.optimizer.swapping_saver()
    loaded = np.full([2, 3], 7.0)
    fed.weights.load(loaded, fed.session)
    path = plain.save(fed.session, str(tmp_path / "model"))
    for end in ["report", "restart", "save"]:
        swapping.restore(fed.session, path)
        if end == "save":
            with fed.optimizer.averaged(fed.session):
                assert np.array_equal(fed.values()[0], loaded)
            swapping.restore(fed.session, path)
            again = swapping.save(fed.session, str(tmp_path / "again"))
            assert np.array_equal(in_checkpoint(again, "w"), loaded)
            continue
        if end == "report":
            assert [fed.report(x) for x in [1, 2, 3]] == [False, False, True]
        else:
            fed.session.run(fed.optimizer.restart)
        fed.session.run(fed.optimizer.swap_out)
        assert np.array_equal(fed.values(), [loaded, loaded])


@both_kinds
def test_saver_without_averages_restores_what_was_shown(
    open_session, tmp_path, use_resource
):
    fed = Fed(open_session(), use_resource=use_resource, nonmono=1)
    initialize = tf.global_variables_initializer()
    everything = [v for v in tf.global_variables() if v is not fed.average]
    for var_list in [[fed.weights], everything]:
        saver = fed.optimizer.swapping_saver(var_list, reshape=True)
        for begun in [False, True]:
            fed.session.run(initialize)
            shown = np.full([2, 3], 7.0)
            fed.weights.load(shown, fed.session)
            if begun:
                _, shown = fed.train_until_averaging()
            path = saver.save(fed.session, str(tmp_path / "model"))
            assert np.array_equal(in_checkpoint(path, "w"), shown)
            fed.session.run(initialize)
            saver.restore(fed.session, path)
            assert np.array_equal(fed.values(), [shown, shown])
            # A plain one finds nothing to put back.
            fed.session.run(initialize)
            tf.train.Saver(var_list).restore(fed.session, path)
            fed.session.run(fed.optimizer.swap_out)
            assert np.array_equal(fed.values()[0], shown)


def test_saver_of_a_partitioned_variable(open_session, tmp_path):
    value = np.arange(12.0).reshape(6, 2)
    w = tf.get_variable(
        "w",
        initializer=tf.constant(value),
        partitioner=tf.fixed_size_partitioner(3),
    )
    optimizer = NTASGDOptimizer(0.5, nonmono=1)
    train_op = optimizer.minimize(tf.reduce_sum(w))
    saver, plain = optimizer.swapping_saver([w]), tf.train.Saver()
    session = open_session()
    session.run(tf.global_variables_initializer())
    for loss in [2.0, 1.0, 3.0, 4.0]:
        session.run(train_op)
        optimizer.report(session, loss)
    path = saver.save(session, str(tmp_path / "model"))
    np.testing.assert_allclose(in_checkpoint(path, "w"), value - 3.5 * 0.5)
    path = plain.save(session, str(tmp_path / "plain"))
    names = NTASGDOptimizer(1.0).variables_to_restore([w], path)
    assert "w/NTASGD" in names and "w" not in names


@versions.needs_estimator
def test_warm_start_is_in_the_first_checkpoint(tmp_path):
    old, new = [str(tmp_path / name) for name in ["old", "new"]]
    with tf.Graph().as_default(), tf.Session() as session:
        w = tf.get_variable("w", initializer=[7.0, 8.0])
        session.run(w.initializer)
        tf.train.Saver().save(session, old + "/model")

    def model_fn(features, labels, mode):
        w = tf.get_variable("w", initializer=[1.0, 1.0])
        loss = tf.reduce_sum(w * features)
        optimizer = NTASGDOptimizer(0.5)
        return tf.estimator.EstimatorSpec(
            mode,
            loss=loss,
            train_op=optimizer.minimize(loss, tf.train.get_global_step()),
            scaffold=tf.train.Scaffold(saver=optimizer.swapping_saver()),
        )

    start = tf.estimator.WarmStartSettings(old)
    estimator = tf.estimator.Estimator(model_fn, new, warm_start_from=start)
    estimator.train(
        lambda: tf.data.Dataset.from_tensors([1.0, 1.0]).repeat(), steps=1
    )
    for step in [0, 1]:
        got = in_checkpoint(f"{new}/model.ckpt-{step}", "w")
        assert np.array_equal(got, np.array([7.0, 8.0]) - 0.5 * step)


# In branches and loops


@pytest.fixture(params=["as it is", "v2"])
def any_flow(request):
    if request.param == "v2":
        request.getfixturevalue("control_flow_v2")


def test_accumulated_gradients_are_applied_in_a_branch(open_session, any_flow):
    first = np.arange(3.0)
    w = tf.get_variable("w", initializer=first, use_resource=True)
    total = tf.get_variable(
        "total", initializer=np.zeros(3), trainable=False, use_resource=True
    )
    gradient, is_last = tf.placeholder(tf.float64, [3]), tf.placeholder(tf.bool)
    optimizer = NTASGDOptimizer(0.5, nonmono=1)

    def apply():
        with tf.control_dependencies(
            [optimizer.apply_gradients([(total.read_value() / 2.0, w)])]
        ):
            with tf.control_dependencies([total.assign(tf.zeros_like(total))]):
                return tf.constant(True)

    with tf.control_dependencies([total.assign_add(gradient)]):
        step = tf.cond(tf.identity(is_last), apply, lambda: tf.constant(False))
    session, paper = open_session(), Paper(first, 0.5, 1, "iclr")
    session.run(tf.global_variables_initializer())
    random = np.random.RandomState(0)
    for loss in [2.0, 1.0, 3.0, 4.0, 5.0]:
        gradients = random.randn(2, 3)
        for each, last in zip(gradients, [False, True]):
            session.run(step, {gradient: each, is_last: last})
        paper.step(gradients.mean(0))
        got = session.run([w, optimizer.average(w)])
        np.testing.assert_allclose(got, [paper.iterates[-1], paper.average])
        assert optimizer.report(session, loss) == paper.validate(loss)
    assert paper.start == 3
    session.run(optimizer.swap_in)
    with pytest.raises(tf.errors.InvalidArgumentError, match="swap_out"):
        session.run(step, {gradient: first, is_last: True})


def test_steps_of_a_loop(open_session, any_flow):
    w = tf.get_variable("w", initializer=np.ones(3), use_resource=True)
    optimizer = NTASGDOptimizer(0.5, nonmono=1)

    def body(i):
        gradient = tf.cast(i, tf.float64) * tf.ones([3], tf.float64)
        train_op = optimizer.apply_gradients([(gradient, w)])
        with tf.control_dependencies([train_op]):
            return i + 1

    loop = tf.while_loop(lambda i: i < 4, body, [0], parallel_iterations=1)
    session, paper = open_session(), Paper(np.ones(3), 0.5, 1, "iclr")
    session.run(tf.global_variables_initializer())
    for loss in [2.0, 1.0, 3.0, 4.0]:
        session.run(loop)
        for i in range(4):
            paper.step(i * np.ones(3))
        got = session.run([w, optimizer.average(w)])
        np.testing.assert_allclose(got, [paper.iterates[-1], paper.average])
        assert optimizer.report(session, loss) == paper.validate(loss)
    assert paper.start == 12


def test_no_resource_in_a_branch_of_v2_is_refused(control_flow_v2):
    w = tf.get_variable("w", initializer=1.0, use_resource=False)
    optimizer, yes = NTASGDOptimizer(0.5), tf.placeholder(tf.bool, [])
    with pytest.raises(ValueError) as caught:
        tf.cond(
            yes,
            lambda: optimizer.apply_gradients([(tf.constant(1.0), w)]),
            tf.no_op,
        )
    assert str(caught.value) == (
        "NTASGDOptimizer must be given resource variables in a function, and "
        "in a branch or loop of control flow v2, got w: make it with "
        "`use_resource=True`, or call `tf.disable_control_flow_v2()` first."
    )


# Killed and resumed


class SmallRNN(object):
    """A recurrent network whose every step is a function of its number."""

    def __init__(self, use_resource=False):
        scope = tf.variable_scope("model", use_resource=use_resource)
        with scope:
            self.global_step = tf.train.get_or_create_global_step()
            data = np.random.RandomState(0).randn(16, 2, 4, 3)
            inputs = tf.constant(data, tf.float32)[self.global_step % 16]
            cell = tf.nn.rnn_cell.LSTMCell(4, name="lstm_cell")
            outputs, _ = tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)
            self.loss = tf.reduce_mean(
                tf.squared_difference(outputs[:, :, :3], tf.tanh(inputs))
            )
        self.optimizer = NTASGDOptimizer(0.5, nonmono=1)
        self.train_op = self.optimizer.minimize(
            self.loss, global_step=self.global_step
        )


def worse_and_worse(step):
    return 1.0 + (step - 2.0) ** 2


@pytest.mark.parametrize(
    "swapping, use_resource", [(False, False), (True, True)]
)
def test_killed_at_any_step_and_resumed_ends_bit_equal(
    open_session, tmp_path, swapping, use_resource
):
    model = SmallRNN(use_resource)
    make_saver = model.optimizer.swapping_saver if swapping else tf.train.Saver
    saver = make_saver(max_to_keep=None)
    initialize = tf.global_variables_initializer()

    def train(session, first, last, save=False):
        paths = []
        for step in range(first, last):
            if save:
                paths.append(saver.save(session, str(tmp_path / f"at{step}")))
            session.run(model.train_op)
            if step % 2:
                with model.optimizer.averaged(session):
                    session.run(model.loss)
                model.optimizer.report(session, worse_and_worse(step))
        assert session.run(model.optimizer.averaging)
        return session.run(tf.global_variables()), paths

    whole = open_session()
    whole.run(initialize)
    expected, paths = train(whole, 0, 9, save=True)
    names = [v.op.name for v in tf.global_variables()]
    resumed = open_session()  # one for all, as starting them takes long
    for step, path in enumerate(paths):
        saver.restore(resumed, path)
        values, _ = train(resumed, step, 9)
        for name, value, other in zip(names, values, expected):
            assert np.array_equal(value, other), (step, name)


class KillAt(tf.train.SessionRunHook):
    def __init__(self, step):
        self.step = step

    def after_run(self, run_context, run_values):
        step = run_context.session.run(tf.train.get_global_step())
        if step == self.step:
            raise KeyboardInterrupt


def monitored(folder, kill_at=None):
    """Trains for 9 steps, saving and validating at every other one.

    Returns the last checkpoint's values, and the steps validated at.
    """
    with tf.Graph().as_default():
        step = tf.train.get_or_create_global_step()
        w = tf.get_variable("w", initializer=tf.random_normal([5], seed=3))
        loss = tf.reduce_sum((w - tf.sin(tf.cast(step, tf.float32))) ** 2)
        optimizer = NTASGDOptimizer(0.3, nonmono=1)
        train_op = optimizer.minimize(loss, step)
        validated = []

        def evaluate(session):
            averages = tf.train.load_checkpoint(str(folder)).get_tensor("w")
            assert np.array_equal(session.run(w), averages)
            validated.append(int(session.run(step)))
            return worse_and_worse(validated[-1])

        hooks = [
            optimizer.validation_hook(evaluate, every_steps=2),
            KillAt(kill_at),
            tf.train.StopAtStepHook(last_step=9),
        ]
        session = tf.train.MonitoredTrainingSession(
            checkpoint_dir=str(folder),
            scaffold=tf.train.Scaffold(saver=optimizer.swapping_saver()),
            hooks=hooks,
            save_checkpoint_steps=2,
            save_checkpoint_secs=None,
            save_summaries_steps=None,
            save_summaries_secs=None,
            log_step_count_steps=None,
        )
        with session:
            while not session.should_stop():
                session.run(train_op)
    return checkpoint_values(str(folder)), validated


def checkpoint_values(path):
    reader = tf.train.load_checkpoint(path)
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names}


@pytest.mark.slow
def test_monitored_session_killed_and_resumed(tmp_path):
    expected, validated = monitored(tmp_path / "whole")
    assert validated == [2, 4, 6, 8]
    assert expected["NTASGD/trigger_step"] == 6
    for kill_at, resumed in [(4, [4, 6, 8]), (7, [6, 8])]:
        folder = tmp_path / str(kill_at)
        with pytest.raises(KeyboardInterrupt):
            monitored(folder, kill_at)
        values, validated = monitored(folder)
        assert validated == resumed
        assert sorted(values) == sorted(expected)
        for name in values:
            assert np.array_equal(values[name], expected[name]), name


def test_hook_restores_a_checkpoint_written_while_swapped(trained, tmp_path):
    fed = trained
    with fed.optimizer.averaged(fed.session):
        path = fed.savers["plain"].save(fed.session, str(tmp_path / "in"))
    hook = fed.optimizer.validation_hook(lambda session: 1.0, 100)
    fed.savers["plain"].restore(fed.session, path)
    hook.after_create_session(fed.session, None)
    assert np.array_equal(fed.values(), fed.before)


@versions.needs_estimator
def test_estimator(tmp_path):
    """Trained with the hook; evaluated, by itself, on the averages."""
    seen = []

    def model_fn(features, labels, mode):
        w = tf.get_variable("w", initializer=[4.0])
        loss = tf.reduce_sum(w * features["x"])
        optimizer = NTASGDOptimizer(1.0, nonmono=1)
        if mode != tf.estimator.ModeKeys.TRAIN:
            return tf.estimator.EstimatorSpec(mode, loss=loss)
        train_op = optimizer.minimize(loss, tf.train.get_global_step())

        def evaluate(session):
            seen.append(estimator.evaluate(input_fn, steps=1)["loss"])
            return -seen[-1]

        return tf.estimator.EstimatorSpec(
            mode,
            loss=loss,
            train_op=train_op,
            training_hooks=[optimizer.validation_hook(evaluate, 2)],
            scaffold=tf.train.Scaffold(saver=optimizer.swapping_saver()),
        )

    def input_fn():
        return tf.data.Dataset.from_tensors({"x": [1.0]}).repeat()

    estimator = tf.estimator.Estimator(
        model_fn,
        str(tmp_path),
        tf.estimator.RunConfig(save_checkpoints_steps=2),
    )
    estimator.train(input_fn, steps=4)
    estimator.train(input_fn, steps=6)
    # w is 2, 0, -2 at the checks; the third starts averaging, at step 6. At 8
    # it is the mean of -2, -3, -4; at the end, at 10, that of -2, ..., -6.
    assert seen == [2.0, 0.0, -2.0, -3.0]
    assert estimator.evaluate(input_fn, steps=1)["loss"] == -4.0
    assert estimator.get_variable_value("w/NTASGD") == [-6.0]


# Names, places, sizes


@pytest.mark.smoke
def test_names_and_collections(open_session):
    tf.get_variable("w", initializer=1.0)
    with tf.variable_scope("a", reuse=tf.AUTO_REUSE), tf.name_scope("b"):
        w = tf.get_variable("w", initializer=1.0)
        optimizer = NTASGDOptimizer(1.0)
        optimizer.minimize(w**2)
    own = [f"NTASGD/{name}" for name in STATE] + ["a/w/NTASGD"]
    assert [v.op.name for v in optimizer.variables()] == own
    assert {"w", "a/w"}.union(own) == {v.op.name for v in tf.global_variables()}
    assert [v.op.name for v in tf.trainable_variables()] == ["w", "a/w"]
    assert not tf.local_variables()
    assert optimizer.average_name(w) == "a/w/NTASGD"
    assert optimizer.get_slot_names() == ["average"]
    assert optimizer.get_name() == "NTASGD"


def test_two_optimizers_share_a_graph(open_session):
    v, w = [tf.get_variable(n, initializer=1.0) for n in "vw"]
    first, second = NTASGDOptimizer(0.5), NTASGDOptimizer(0.25, name="Second")
    step = [first.minimize(v), second.minimize(w)]
    session = open_session()
    session.run(tf.global_variables_initializer())
    session.run(step)
    assert session.run([v, w]) == [0.5, 0.75]
    assert first.average_name(v) == "v/NTASGD"
    assert second.average_name(w) == "w/Second"


def test_one_optimizer_in_two_graphs(open_session):
    optimizer = NTASGDOptimizer(0.5)
    for _ in range(2):
        with tf.Graph().as_default():
            w = tf.get_variable("w", initializer=1.0)
            train_op = optimizer.minimize(w)
            session = open_session()
            session.run(tf.global_variables_initializer())
            session.run(train_op)
            assert not optimizer.report(session, 1.0)
            assert session.run(optimizer.average(w)) == 0.5


def test_state_is_placed_like_slots():
    setter = tf.train.replica_device_setter(
        ps_tasks=2, worker_device="/job:worker/task:0"
    )
    with tf.device(setter):
        v, w = [tf.get_variable(n, initializer=1.0) for n in "vw"]
        optimizer = NTASGDOptimizer(1.0)
        optimizer.minimize(v + w)
    assert v.device != w.device
    for var in [v, w]:
        assert optimizer.average(var).device == var.device
    for variable in optimizer.variables():
        assert variable.device.startswith("/job:ps")
    ops = tf.get_default_graph().get_operations()
    # With control flow v2, where the division is in a branch, that; but not
    # the one that prints, whose condition is of counts.
    kinds = {"RealDiv", "ApplyGradientDescent", "Pack"}
    if versions.VERSION >= (2,) and versions.FLOW == "v2":
        kinds = {"StatelessIf", "ResourceApplyGradientDescent", "Pack"}
    heavy = [
        op
        for op in ops
        if op.type in kinds
        and tf.float32 in [tensor.dtype.base_dtype for tensor in op.inputs]
    ]
    assert {op.type for op in heavy} == kinds
    assert all(op.device.startswith("/job:ps") for op in heavy)


@pytest.mark.smoke
def test_finalized_graph(open_session):
    fed = Fed(open_session(), nonmono=1)
    hook = fed.optimizer.validation_hook(lambda session: 1.0, 2)
    tf.get_default_graph().finalize()
    fed.train_until_averaging()
    hook.end(fed.session)
    with fed.optimizer.averaged(fed.session):
        pass
    fed.session.run([fed.optimizer.restart, fed.optimizer.averaging])


# Never validated


def test_training_without_validation_says_so_once(
    open_session, monkeypatch, capfd
):
    monkeypatch.setattr(_averages, "_PATIENCE", 3)
    fed = Fed(open_session())
    for _ in range(8):
        fed.step(np.zeros([2, 3]))
    sys.stderr.flush()
    assert capfd.readouterr().err.count("was told no validation loss in 3") == 1
    fed.session.run(tf.global_variables_initializer())
    fed.report(1.0)
    for _ in range(8):
        fed.step(np.zeros([2, 3]))
    assert "validation loss" not in capfd.readouterr().err


def test_evaluate_that_runs_out_of_data_does_not_end_training():
    data = tf.data.Dataset.range(1).make_one_shot_iterator().get_next()
    w = tf.get_variable("w", initializer=1.0)
    optimizer = NTASGDOptimizer(0.1)
    train_op = optimizer.minimize(w)
    hook = optimizer.validation_hook(lambda session: session.run(data) + 0.5, 1)
    with pytest.raises(RuntimeError, match="`evaluate` .* out of data"):
        with tf.train.MonitoredSession(hooks=[hook]) as session:
            while not session.should_stop():
                session.run(train_op)


def test_hook_validates_at_its_own_steps_whoever_else_reports(open_session):
    fed, validated = Fed(open_session()), []
    hook = fed.optimizer.validation_hook(
        lambda session: validated.append(step) or 1.0, every_steps=4
    )
    run_context = tf.train.SessionRunContext(None, fed.session)
    for step in range(9):
        if step == 3:
            fed.report(1.0)
        hook.before_run(run_context)
        fed.step(np.zeros([2, 3]))
    assert validated == [4, 8]


def test_hook_that_never_validated_warns(open_session):
    fed = Fed(open_session())
    hook = fed.optimizer.validation_hook(lambda session: 1.0, 2)
    hook.end(fed.session)  # no step: nothing to say
    fed.step(np.zeros([2, 3]))
    with pytest.warns(UserWarning, match="no validation loss in 1 steps"):
        hook.end(fed.session)
    fed.step(np.zeros([2, 3]))
    hook.end(fed.session)  # it is due, at the next step
