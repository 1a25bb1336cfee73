"""Export of a quantized model as a TFLite file that computes with integers.

| form | activations | weights | runs in |
|---|---|---|---|
| "uint8" | uint8, int16 in cells | uint8 | TensorFlow from 1.11 on, LiteRT |
| "int16x8" | int16 | int8 | LiteRT, TFLite from 2.14 on, TFLite Micro |

Both are exact images of one fake-quant graph: no form needs another training.
"""

from awd_lstm_tf import (
    _checks,
    _integer_forms,
    _integer_graph,
    _model_check,
    _model_ends,
    _versions,
)


def convert(session, inputs, outputs, states, form=None, check=True):
    """Converts a quantized single-step graph to an integer-only TFLite model.

    The graph is one for evaluation: cells with `is_quant=True` and
    `is_train=False`, called once, and around them embeddings by gather, dense
    layers rewritten by `tf.contrib.quantize.create_eval_graph` (or with fake
    quant of your own), concatenations, sums, products, relu and softmax.

    All tensors of the model are integers. Its inputs are `inputs`, then those
    of `states`; its outputs are `outputs`, then those of `states`. They bear
    the op names of the tensors given. A real value `r` is the integer
    `r / scale + zero_point`, with the two from `quantization` in the details
    that TFLite's interpreter gives. The zero state is a state's zero point;
    the state outputs are fed back as they are.

    Nothing that is random or held may be behind the outputs: a cell whose
    `is_train` is True or a tensor, dropout, data of a queue. What has no exact
    integer form is refused by the name of its op.

    With `check`, the model is run beside the session's graph on 8 random states
    and inputs before it is returned, and every output compared in its own
    steps. It is run by this library, and by TensorFlow's own interpreter: the
    one of 2.14 and later runs both forms, earlier ones "uint8" alone. How much
    may differ: 1 step of `h` (2 with a projection), see docs/quantization.md.

    Args:
      session: `tf.Session` whose variables hold the trained values.
      inputs: list of placeholders of known shape: ids, or float32 tensors that
        go into a quantized cell or a fake-quant op.
      outputs: list of tensors; where one goes into fake quant, what comes out
        of that, so logits are those after `create_eval_graph`, too.
      states: list of (input tensor, output tensor) pairs.
      form: "uint8" or "int16x8"; by default what the TensorFlow at hand can run
        itself: "int16x8" from 2.14 on, "uint8" before.
      check: False: what is returned may be wrong.

    Returns:
      The model, as bytes.

    Raises:
      ValueError: naming the op or the range at fault, when something has no
        integer form; naming the output, when the model is wrong.
      TypeError: for a value of the wrong kind.
      ImportError: when the package `flatbuffers` is missing.

    Warns:
      UserWarning: how much is lost, where "int16x8" cannot hold weights that
        were trained with a zero point.

    Example:

        ids = tf.placeholder(tf.int32, [1], name="ids")
        c = tf.placeholder(tf.float32, [1, 128], name="c")
        h = tf.placeholder(tf.float32, [1, 128], name="h")
        cell = awd_lstm_tf.WeightDropLSTMCell(
            128, is_quant=True, is_train=False)
        with tf.variable_scope("rnn"):
            output, state = cell(tf.gather(embedding, ids), (c, h))
        logits = tf.layers.dense(output, 1000)
        tf.contrib.quantize.experimental_create_eval_graph(symmetric=True)
        tf.train.Saver().restore(session, checkpoint)
        model = awd_lstm_tf.tflite.convert(
            session, [ids], [logits], [(c, state.c), (h, state.h)],
            form="int16x8")
    """
    ends = _model_ends.checked(session, inputs, outputs, states)
    form = _versions.default_form() if form is None else form
    _checks.one_of("form", form, _integer_forms.FORMS)
    _checks.boolean("check", check)
    _import_flatbuffers()  # before the work, if it is missing
    graph = _integer_graph.IntegerGraph(session, *ends)
    lowered = _integer_forms.FORMS[form](graph)
    content = lowered.model.write()
    if check:
        _model_check.check(graph, lowered, content)
    return content


def _import_flatbuffers():
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"awd_lstm_tf.tflite needs the package flatbuffers ({error}): "
            "pip install 'awd-lstm-tf[tflite]'"
        ) from error
