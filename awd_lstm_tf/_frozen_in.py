"""What must not be frozen into a model: each refused by the name of its op.

A model holds what is behind its outputs at the time of the export. That suits
weights; a random number, a held mask, a variable that is changed when the
outputs are run, or an element of a queue are other values in each run.
"""

from awd_lstm_tf import masks

# Stateful ops whose value is one of a checkpoint, or that have none.
_LASTING = {"Variable", "VariableV2", "VarHandleOp", "ReadVariableOp"}
_LASTING |= {"ResourceGather", "VarIsInitializedOp", "Assert", "Print"}
_LASTING |= {"PrintV2", "CheckNumerics", "CheckNumericsV2", "If"}
_LASTING |= {"PartitionedCall", "StatefulPartitionedCall"}
_OF_LOOPS = ("While", "TensorArray")  # refused as ops, not as values
_RANDOM = ("Random", "Multinomial", "TruncatedNormal", "RngUniform")
_ASSIGNING = ("Assign", "Scatter", "ResourceScatter", "Apply", "ResourceApply")


def check(graph, ends, behind):
    """Checks all that is behind the outputs.

    Args:
      graph: the `tf.Graph`.
      ends: ops of inputs and old states, by name.
      behind: ops behind the outputs, by name.

    Raises:
      ValueError: naming the op.
    """
    _check_lasting(graph, behind)
    _check_placeholders(ends, behind)


def _check_placeholders(ends, behind):
    for name in sorted(set(behind) - set(ends)):
        if behind[name].type in ("Placeholder", "PlaceholderWithDefault"):
            raise ValueError(
                "`inputs` and `states` must hold every placeholder that the "
                f"outputs depend on, '{name}' is missing: add it, or build the "
                "graph without it."
            )
    for name in sorted(set(ends) - set(behind)):
        raise ValueError(
            f"`inputs` and `states` must lead to the outputs, '{name}' does "
            "not: leave it out."
        )


_EVALUATE = (
    "build the graph to convert with `is_train=False` (not a tensor), without "
    "dropout, and call tf.contrib.quantize.create_eval_graph, not "
    "create_training_graph"
)


def _check_lasting(graph, behind):
    held = {mask.op.name for mask in graph.get_collection(masks.MASKS)}
    nodes = [op.node_def for _, op in sorted(behind.items())]
    kinds = [(node.name, node.op) for node in nodes]
    kinds += _kinds_in_functions(graph, nodes)
    for name, kind in kinds:
        if any(word in kind for word in _RANDOM):
            raise ValueError(
                f"The op '{name}' of type {kind} is random, and what it draws "
                f"would be frozen into the model: {_EVALUATE}."
            )
    for name in sorted(behind):
        if name in held:
            raise ValueError(
                f"The mask '{name}' would be frozen into the model: "
                f"{_EVALUATE}."
            )
    for name, kind in kinds:
        if kind.startswith(_ASSIGNING):
            raise ValueError(
                f"The op '{name}' of type {kind} changes a variable when the "
                f"outputs are run, as only training should: {_EVALUATE}."
            )
    for name, op in sorted(behind.items()):
        if op.type in _LASTING or op.type.startswith(_OF_LOOPS):
            continue
        if op.op_def.is_stateful:
            raise ValueError(
                f"The op '{name}' of type {op.type} gives another value in "
                "each run, and one would be frozen into the model: feed it by "
                "a placeholder among `inputs`."
            )


def _kinds_in_functions(graph, nodes):
    # Of control flow v2, where branches are functions.
    todo = [node for node in nodes if any(_functions_of(node))]
    if not todo:
        return []
    functions = {
        function.signature.name: function
        for function in graph.as_graph_def().library.function
    }
    kinds, seen = [], set()
    while todo:
        node = todo.pop()
        for name in set(_functions_of(node)) - seen:
            seen.add(name)
            for inner in functions[name].node_def if name in functions else ():
                kinds.append((f"{node.name}/{inner.name}", inner.op))
                todo.append(inner)
    return kinds


def _functions_of(node):
    for attribute in node.attr.values():
        yield attribute.func.name
        for function in attribute.list.func:
            yield function.name
