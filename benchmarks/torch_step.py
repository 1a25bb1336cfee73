"""PyTorch's LSTM for step_time.py, which starts this as another process.

    python torch_step.py THREADS BATCH TIME DEPTH UNITS

Says PyTorch's version; then, for each line read ("train", "train_drop" or
"forward"), runs one such step and says its seconds. Weight drop is on the
whole of both matrices, as in the rows it is compared with.
"""

import os
import sys
import time

# Its threads sleep, not spin, while the other rows have their turns.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

KEEP_RATE = 0.5


def dropped(lstm):
    """The parameters of `lstm`, its two matrices with weights dropped."""
    return {
        name: torch.nn.functional.dropout(value, 1 - KEEP_RATE)
        if name.startswith("weight")
        else value
        for name, value in lstm.named_parameters()
    }


def train(lstm, inputs, parameters):
    outputs, _ = torch.func.functional_call(lstm, parameters, (inputs,))
    outputs.square().mean().backward()
    with torch.no_grad():
        for value in list(lstm.parameters()) + [inputs]:
            value -= 0.1 * value.grad
            value.grad = None


def forward(lstm, inputs):
    with torch.no_grad():
        return lstm(inputs)


def main(threads, batch, time_, depth, units):
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(depth, units)
    inputs = torch.randn(time_, batch, depth, requires_grad=True)
    steps = {
        "train": lambda: train(lstm, inputs, dict(lstm.named_parameters())),
        "train_drop": lambda: train(lstm, inputs, dropped(lstm)),
        "forward": lambda: forward(lstm, inputs),
    }
    print(torch.__version__, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        steps[line.strip()]()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(*[int(argument) for argument in sys.argv[1:]])
