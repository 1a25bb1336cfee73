"""A hook that validates on averages, and reports the loss."""

import warnings

from tensorflow.python.training import session_run_hook

from awd_lstm_tf import _averages
from awd_lstm_tf._versions import tf


class ValidationHook(session_run_hook.SessionRunHook):
    """Validates when a multiple of `every_steps` has been passed."""

    def __init__(self, optimizer, averages, evaluate, every_steps):
        self._optimizer = optimizer
        self._averages = averages
        self._evaluate = evaluate
        self._every_steps = every_steps

    def after_create_session(self, session, coord):
        # A checkpoint may have been written while the averages were in.
        session.run(self._averages.swap_out)

    def before_run(self, run_context):
        # Not after the run: whether a checkpoint of this step was written by
        # then would depend on the order of hooks. What is due is told by state
        # in the checkpoint, so it is due again after a restart, if need be.
        session = run_context.session
        if self._due(session):
            with self._optimizer.averaged(session):
                loss = self._validate(session)
            self._optimizer.report(session, loss)

    def _validate(self, session):
        try:
            return self._evaluate(session)
        except tf.errors.OutOfRangeError as error:
            # To a monitored session, the end of data is the end of training.
            raise RuntimeError(
                "`evaluate` of `validation_hook` must not run out of data, got "
                "OutOfRangeError: catch it where a validation ends, and "
                "initialize the iterator anew for each."
            ) from error

    def end(self, session):
        state = self._averages.state
        steps, checks = session.run([state.steps, state.checks])
        if steps and not checks and not self._due(session):
            message = _averages.NEVER_VALIDATED.format(steps)
            warnings.warn(message, stacklevel=1)

    def _due(self, session):
        state = self._averages.state
        steps, checked = session.run([state.steps, state.checked_step])
        return steps // self._every_steps > checked // self._every_steps
