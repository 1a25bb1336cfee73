"""What kinds of TensorFlow's ops an integer model is made of."""

from awd_lstm_tf import _integer_graph

SUMS = {"Add", "AddV2", "BiasAdd"}
RELUS = {"Relu": 1, "Relu6": 3}  # TFLite's numbers of fused activations
FUSING = SUMS | {"MatMul", "Sub", "Mul"}
GATHERS = {"Gather", "GatherV2", "ResourceGather"}
CUTS = {"Split", "SplitV", "Slice", "StridedSlice", "Unpack"}
JOINS = {"ConcatV2", "Pack"}
PASSING = _integer_graph.PASSING | {"StopGradient"}
UNARY = {"Sigmoid": "LOGISTIC", "Tanh": "TANH"}
_KNOWN = FUSING | GATHERS | CUTS | JOINS | PASSING | set(UNARY) | set(RELUS)
_KNOWN |= _integer_graph.FAKE_QUANT | {"Softmax", "Cast"}

# The fix where a range is missing.
REWRITE = (
    "call tf.contrib.quantize.create_eval_graph before converting (and "
    "create_training_graph before `minimize` in training), or apply "
    "tf.fake_quant_with_min_max_vars"
)


def check_known(op):
    if op.type not in _KNOWN:
        raise ValueError(
            f"The op '{op.name}' of type {op.type} has no integer form: a "
            "model may hold cells with `is_quant=True` and `is_train=False` "
            "called once, embeddings by gather, dense layers and softmax."
        )


def refuse(op, rule):
    raise ValueError(
        f"The op '{op.name}' of type {op.type} {rule}: it has no other integer "
        "form."
    )


def operand(op):
    """What an op cuts, or passes on."""
    return op.inputs[1 if op.type == "Split" else 0]


def parts(op):
    """What an op joins."""
    return list(op.inputs)[: None if op.type == "Pack" else -1]
