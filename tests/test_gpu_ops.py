"""Whether steps can run on a GPU, by what TensorFlow has kernels for.

No GPU is needed: tools/gpu_ops.py says where its knowledge is from.
"""

import importlib
import pathlib
import re
import sys

import pytest
import versions

TOOLS = pathlib.Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOLS))
    yield importlib.import_module("gpu_ops")
    sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def kernels(tool):
    return tool.known_registry()[1]


@versions.needs_keras_2
@pytest.mark.skipif(
    versions.VERSION[0] == 1 and versions.VERSION[:2] != (1, 13),
    reason="of 1.x, the kernels of 1.13.1 are known",
)
@pytest.mark.parametrize(
    "more", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_every_op_of_every_step_has_a_kernel_for_a_gpu(tool, kernels, more):
    faults = {}
    steps = tool.steps()
    sisters = re.compile("peepholes|static_rnn")
    chosen = [name for name in steps if bool(sisters.search(name)) == more]
    assert chosen
    for name in chosen:
        step = steps[name]
        for op in tool.ops_of(step):
            fault = tool.fault(op, kernels)
            if fault:
                faults.setdefault(f"{op.kind}{op.types}: {fault}", name)
    assert not faults


@pytest.mark.parametrize(
    "kind, types, large, said",
    [
        ("MatMul", {"T": "float32"}, (), None),
        ("Cast", {"SrcT": "bool", "DstT": "float32"}, ("x",), None),
        ("VarHandleOp", {"dtype": "float32"}, (), None),
        ("MatMul", {"T": "int16"}, (), "no kernel for these types"),
        ("NoSuchOp", {}, (), "no kernel"),
        # One of a bool is in the memory of the host; that of one is no matter.
        ("StackPushV2", {"T": "bool"}, (), None),
        ("StackPushV2", {"T": "bool"}, ("elem",), "elem on the host"),
    ],
)
def test_a_fault_would_be_noticed(tool, kernels, kind, types, large, said):
    op = tool.Op(kind, tuple(sorted(types.items())), large)
    assert tool.fault(op, kernels) == said
