"""Runs a recurrent TFLite model in whichever runtime this Python has.

    python run_tflite.py model.tflite inputs.npz outputs.npz

A step at a time, with the states fed back, in ai-edge-litert, tflite-runtime,
tflite-micro or TensorFlow. It needs one of these and numpy: neither this
library nor, but for the last, TensorFlow.

`inputs.npz` holds `input_0`, `input_1`, ...: for each input that is no state,
its values step by step. The model's other inputs are states, which begin as
their zero points and then get the model's last outputs. `outputs.npz` gets
`output_0`, ...: what was put out at each step.
"""

import argparse
import json
import time

import numpy as np


class Lite(object):
    """ai-edge-litert, tflite-runtime or TensorFlow.

    Args:
      content: bytes of the model.
      threads: how many.
      delegate: whether XNNPACK may take over ops.
    """

    module, name = None, None  # set by `find_runtime`

    def __init__(self, content, threads=1, delegate=True):
        self.interpreter = self.module.Interpreter(
            model_content=content, **self._options(threads, delegate)
        )
        self.interpreter.allocate_tensors()
        self.ins = self.interpreter.get_input_details()
        self.outs = self.interpreter.get_output_details()
        self.inputs = [_described(each, "quantization") for each in self.ins]
        self.outputs = [_described(each, "quantization") for each in self.outs]

    def _options(self, threads, delegate):
        kinds = getattr(self.module, "OpResolverType", None)
        if kinds is None and hasattr(self.module, "experimental"):
            experimental = self.module.experimental
            kinds = getattr(experimental, "OpResolverType", None)
        if kinds is None:  # TensorFlow 1.x
            return {}
        options = {"num_threads": threads}
        if not delegate:
            options["experimental_op_resolver_type"] = (
                kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            )
        return options

    def run(self, values):
        """What the model puts out for the values of all inputs."""
        for each, value in zip(self.ins, values):
            self.interpreter.set_tensor(each["index"], value)
        self.interpreter.invoke()
        return [
            self.interpreter.get_tensor(each["index"]) for each in self.outs
        ]


class Micro(object):
    """tflite-micro: the interpreter for micro-controllers."""

    name = "tflite-micro"

    def __init__(self, content, threads=1, delegate=True):
        del threads, delegate  # it has neither
        self.interpreter = self._interpreter(content, 1 << 24)
        ends = _end_counts(content)
        self.inputs = [
            _described(self.interpreter.get_input_details(number))
            for number in range(ends[0])
        ]
        self.outputs = [
            _described(self.interpreter.get_output_details(number))
            for number in range(ends[1])
        ]

    @staticmethod
    def _interpreter(content, arena_size):
        from tflite_micro import runtime

        return runtime.Interpreter.from_bytes(content, arena_size=arena_size)

    def run(self, values):
        for number, value in enumerate(values):
            self.interpreter.set_input(value, number)
        self.interpreter.invoke()
        return [
            self.interpreter.get_output(number).copy()
            for number in range(len(self.outputs))
        ]

    @classmethod
    def arena_bytes(cls, content):
        """The least arena, in steps of 16 bytes, that the model loads in."""
        least, enough = 0, 1 << 24
        while enough - least > 16:
            middle = (least + enough) // 32 * 16
            try:
                cls._interpreter(content, middle)
                enough = middle
            except RuntimeError:
                least = middle
        return enough


def _end_counts(content):
    """Numbers of inputs and outputs, which tflite-micro does not tell."""
    from tflite_micro.tensorflow.lite.micro.python import schema_py_generated

    graph = schema_py_generated.Model.GetRootAs(content, 0).Subgraphs(0)
    return graph.InputsLength(), graph.OutputsLength()


def _described(details, quantization=None):
    """Type, shape, scale and zero point of an end."""
    if quantization:
        scale, zero_point = details[quantization]
    else:
        parameters = details["quantization_parameters"]
        scale = ([*parameters["scales"]] + [0.0])[0]
        zero_point = ([*parameters["zero_points"]] + [0])[0]
    shape = [int(size) for size in details["shape"]]
    dtype = np.dtype(details["dtype"]).name
    return dict(
        dtype=dtype, shape=shape, scale=float(scale), zero_point=int(zero_point)
    )


def find_runtime():
    """The class for the first of the four that can be imported."""
    try:
        from ai_edge_litert import interpreter

        Lite.module, Lite.name = interpreter, "ai-edge-litert"
        return Lite
    except ImportError:
        pass
    try:
        import tflite_runtime.interpreter as interpreter

        Lite.module, Lite.name = interpreter, "tflite-runtime"
        return Lite
    except ImportError:
        pass
    try:
        import tflite_micro  # noqa: F401

        return Micro
    except ImportError:
        import tensorflow as tf

        # In TensorFlow 1.11 and 1.12 it is tf.contrib.lite.
        Lite.module = tf.lite if hasattr(tf, "lite") else tf.contrib.lite
        Lite.name = f"tensorflow {tf.__version__}"
        return Lite


def run_steps(model, fed, repeat=1):
    """Runs a model step by step.

    Args:
      model: a `Lite` or a `Micro`.
      fed: list of arrays, values of the inputs that are no states by step.
      repeat: how often to run each step, for its time.

    Returns:
      List of arrays, the outputs by step, and microseconds per step.
    """
    states = [
        np.full(end["shape"], end["zero_point"], end["dtype"])
        for end in model.inputs[len(fed) :]
    ]
    fed = [value.astype(end["dtype"]) for value, end in zip(fed, model.inputs)]
    found, times = [], []
    for step in range(len(fed[0])):
        values = [
            value[step].reshape(end["shape"])
            for value, end in zip(fed, model.inputs)
        ]
        for _ in range(repeat):
            start = time.perf_counter()
            outputs = model.run(values + states)
            times.append(time.perf_counter() - start)
        states = outputs[len(outputs) - len(states) :]
        found.append(outputs)
    return [np.stack(each) for each in zip(*found)], 1e6 * np.median(times)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("model")
    add("inputs")
    add("outputs")
    add("--threads", type=int, default=1)
    add("--no-delegate", action="store_true", help="without XNNPACK")
    add("--arena", action="store_true", help="measure tflite-micro's arena")
    add("--repeat", type=int, default=1, help="runs of each step, for its time")
    flags = parser.parse_args(arguments)
    runtime = find_runtime()
    with open(flags.model, "rb") as file:
        content = file.read()
    model = runtime(content, flags.threads, not flags.no_delegate)
    with np.load(flags.inputs) as data:
        fed = [data[f"input_{number}"] for number in range(len(data.files))]
    outputs, microseconds = run_steps(model, fed, flags.repeat)
    names = [f"output_{number}" for number in range(len(outputs))]
    np.savez(flags.outputs, **dict(zip(names, outputs)))
    told = dict(
        runtime=runtime.name, microseconds=microseconds, outputs=model.outputs
    )
    if flags.arena and runtime is Micro:
        told["arena_bytes"] = Micro.arena_bytes(content)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
