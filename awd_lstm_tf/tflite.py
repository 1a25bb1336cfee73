"""Export of a quantized model as a TFLite file that computes with integers."""

from awd_lstm_tf import (
    _checks,
    _integer_graph,
    _lowering,
    _model_check,
    _versions,
)


def convert(session, inputs, outputs, states, form=None, check=True):
    """Converts a quantized single-step graph to an integer-only TFLite model.

    The graph is one for evaluation: cells with `is_quant=True` and
    `is_train=False`, called once, and around them embeddings by gather, dense
    layers rewritten by `tf.contrib.quantize.create_eval_graph`, and softmax.

    All tensors of the model are integers. Its inputs are `inputs`, then those
    of `states`; its outputs are `outputs`, then those of `states`. They bear
    the op names of the tensors given. A real value `r` is the integer
    `r / scale + zero_point`, with the two from `quantization` in the details
    that `tf.lite.Interpreter` gives. The zero state is a state's zero point;
    the state outputs are fed back as they are.

    Args:
      session: `tf.Session` whose variables hold the trained values.
      inputs: list of placeholders of known shape: ids, or float32 tensors that
        go into a quantized cell or a fake-quant op.
      outputs: list of tensors; where one goes into fake quant, what comes out
        of that, so logits are those after `create_eval_graph`, too.
      states: list of (input tensor, output tensor) pairs.

    Returns:
      The model, as bytes.

    Raises:
      ValueError: naming the op or the range at fault, when something has no
        integer form.
      TypeError: for a value of the wrong kind.
      ImportError: when the package `flatbuffers` is missing.
      OSError: when TensorFlow's converter, `toco_from_protos`, is missing.

    Example:

        ids = tf.placeholder(tf.int32, [1], name="ids")
        c = tf.placeholder(tf.float32, [1, 128], name="c")
        h = tf.placeholder(tf.float32, [1, 128], name="h")
        cell = awd_lstm_tf.WeightDropLSTMCell(
            128, is_quant=True, is_train=False)
        with tf.variable_scope("rnn"):
            output, state = cell(tf.gather(embedding, ids), (c, h))
        logits = tf.layers.dense(output, 1000)
        tf.contrib.quantize.create_eval_graph()
        tf.train.Saver().restore(session, checkpoint)
        model = awd_lstm_tf.tflite.convert(
            session, [ids], [logits], [(c, state.c), (h, state.h)])
    """
    inputs = _checks.listed("inputs", inputs)
    outputs = _checks.listed("outputs", outputs)
    states = _checks.listed("states", states)
    states = [_checks.pair("states", pair) for pair in states]
    form = _versions.default_form() if form is None else form
    _checks.one_of("form", form, _lowering.FORMS)
    _checks.boolean("check", check)
    _import_flatbuffers()  # before the work, if it is missing
    _checks.model_ends(_checks.session(session).graph, inputs, outputs, states)
    graph = _integer_graph.IntegerGraph(session, inputs, outputs, states)
    lowered = _lowering.lower(graph, form)
    content = lowered.model.write()
    if check:
        _model_check.check(graph, lowered, content)
    return content


def _import_flatbuffers():
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        _checks.flatbuffers_missing(error)
