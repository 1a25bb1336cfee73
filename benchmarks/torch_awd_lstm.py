"""The AWD-LSTM language model, in PyTorch, written from the paper.

For comparison with tf_awd_lstm.py, whose class `Model` has the same methods.
What a mask keeps is drawn here, or given; weights, gradients and masks go in
and out in TensorFlow's layout, see `_to_torch`.

References:
  Merity, Keskar, Socher: "Regularizing and Optimizing LSTM Language Models",
  https://arxiv.org/abs/1708.02182.
"""

import numpy as np
import torch
from torch.nn import functional

FORGET_BIAS = 1.0

# Adam's constants, as TensorFlow keeps them, whatever the weights' dtype.
BETAS = float(np.float32(0.9)), float(np.float32(0.999))
EPSILON = float(np.float32(1e-8))


class WeightDropLSTM(torch.nn.Module):
    """An LSTM layer with DropConnect on its recurrent weights (section 2)."""

    def __init__(self, name, depth, units, keep):
        super().__init__()
        self.name, self.keep = name, keep
        self.lstm = torch.nn.LSTM(depth, units)
        torch.nn.init.zeros_(self.lstm.bias_ih_l0)
        # PyTorch has two biases, which do the same. One is trained, the other
        # is the constant that TensorFlow adds to the forget gate.
        constant = self.lstm.bias_hh_l0.requires_grad_(False).zero_()
        constant[units : 2 * units] = FORGET_BIAS

    def forward(self, inputs, state, draw):
        recurrent = self.lstm.weight_hh_l0
        dropped = recurrent * draw(self.name, recurrent.shape, self.keep)
        parameters = dict(self.lstm.named_parameters(), weight_hh_l0=dropped)
        return torch.func.functional_call(
            self.lstm, parameters, (inputs, state)
        )


class Network(torch.nn.Module):
    """embedding -> LSTM layers -> softmax, over a window, `[time, batch]`."""

    def __init__(self, settings):
        super().__init__()
        self.settings, self.keep = settings, settings["keep"]
        shape = settings["vocabulary"], settings["embedding"]
        self.embedding = _uniform(shape, 0.1)
        depths = [settings["embedding"]] + settings["units"]
        self.layers = torch.nn.ModuleList(
            WeightDropLSTM(f"weights_{i}", *sizes, self.keep["weights"])
            for i, sizes in enumerate(zip(depths, depths[1:]))
        )
        self.bias = _uniform(shape[:1], 0.0)
        self.softmax = self.embedding
        if not settings["tied"]:
            self.softmax = _uniform(shape, depths[-1] ** -0.5)

    def forward(self, inputs, targets, state, draw):
        """Runs a window.

        Args:
          inputs, targets: ids, `[time, batch]`.
          state: list of c and h of each layer.
          draw: function from a mask's name, shape and keep rate to the mask.

        Returns:
          The mean of -log(probability), the loss, and the new state.
        """
        outputs = self._embedded(inputs, draw)
        outputs = self._locked("inputs", outputs, draw)
        last = []
        for i, layer in enumerate(self.layers):
            if i:
                outputs = self._locked(f"hidden_{i}", outputs, draw)
            c, h = (part[None] for part in state[2 * i : 2 * i + 2])
            outputs, (h, c) = layer(outputs, (h, c), draw)
            last += [c[0].detach(), h[0].detach()]
        raw, outputs = outputs, self._locked("outputs", outputs, draw)
        logits = functional.linear(outputs, self.softmax, self.bias)
        entropy = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten()
        )
        return entropy, entropy + self._penalty(raw, outputs), last

    def _embedded(self, inputs, draw):
        # Section 4.3: words, not entries, are dropped.
        words = self.embedding.shape[:1]
        mask = draw("embedding", words, self.keep["embedding"])
        rows = functional.embedding(inputs, self.embedding)
        return rows * mask[inputs][..., None]

    def _locked(self, name, outputs, draw):
        # Section 4.2: one mask for all steps, another for each row.
        shape = (1,) + outputs.shape[1:]
        return outputs * draw(name, shape, self.keep[name.split("_")[0]])

    def _penalty(self, raw, outputs):
        # Section 4.6: AR and TAR.
        changes = raw[1:] - raw[:-1]
        return (
            self.settings["alpha"] * outputs.square().mean()
            + self.settings["beta"] * changes.square().mean()
        )

    def named(self):
        """Dict of the trained parameters, see `_exported`."""
        named = {"embedding": self.embedding, "bias": self.bias}
        if not self.settings["tied"]:
            named["softmax"] = self.softmax
        for i, layer in enumerate(self.layers):
            named[f"inputs_{i}"] = layer.lstm.weight_ih_l0
            named[f"recurrent_{i}"] = layer.lstm.weight_hh_l0
            named[f"bias_{i}"] = layer.lstm.bias_ih_l0
        return named


def _uniform(shape, bound):
    return torch.nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class Model(object):
    """The network in training, with its weights, state and optimizer.

    Args:
      settings: dict, see parity.py.
      seed: of initial weights and masks.
      threads: number of them.
      time: length of the windows to train on; of no account here.
      dtype: "float32" or "float64".
    """

    version = "PyTorch " + torch.__version__
    averages_after = 2  # steps past `start_averaging`, see torch.optim.ASGD

    def __init__(self, settings, seed=0, threads=1, time=None, dtype="float32"):
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        self._settings, self._dtype = settings, getattr(torch, dtype)
        self._network = Network(settings).to(self._dtype)
        self._trained = list(self._network.named().values())
        self._optimizer = torch.optim.SGD(self._trained)
        if self._adam:
            self._optimizer = torch.optim.Adam(self._trained, betas=BETAS)
        self._steps = 0

    @property
    def _adam(self):
        return self._settings["optimizer"] == "adam"

    def weights(self):
        """Dict of all weights."""
        return _exported(self._network.named())

    def load(self, weights):
        """Takes weights of `tf_awd_lstm.Model`."""
        with torch.no_grad():
            for name, tensor in _imported(weights).items():
                self._network.named()[name].copy_(tensor)

    def averages(self):
        """Dict of the averages of NT-ASGD."""
        state = self._optimizer.state
        named = self._network.named()
        return _exported({name: state[named[name]]["ax"] for name in named})

    def start_averaging(self):
        """Has NT-ASGD start to average (algorithm 1)."""
        # No weight decay, and no learning rate that falls by itself.
        self._optimizer = torch.optim.ASGD(
            self._trained, lambd=0.0, alpha=0.0, t0=0
        )

    def set_state(self, state):
        """Has the next window go on from here: c and h of each layer."""
        self._state = [torch.as_tensor(part) for part in state]

    def reset_state(self, batch):
        """Has the next window go on from nothing."""
        self._state = [
            torch.zeros(batch, size, dtype=self._dtype)
            for size in self._settings["units"]
            for _ in range(2)
        ]

    def _loss(self, inputs, targets, draw):
        ids = (torch.as_tensor(x, dtype=torch.int64) for x in (inputs, targets))
        entropy, loss, self._state = self._network(*ids, self._state, draw)
        return entropy, loss

    def _update(self, rate):
        self._steps += 1
        for group in self._optimizer.param_groups:
            group["lr"] = rate
            if self._adam:
                # TensorFlow's epsilon is the "epsilon hat" of the paper on
                # Adam, end of section 2: added before the bias correction.
                group["eps"] = EPSILON / (1.0 - BETAS[1] ** self._steps) ** 0.5
        _clip([x.grad for x in self._trained], self._settings["clip"])
        self._optimizer.step()
        self._optimizer.zero_grad()

    def train(self, inputs, targets, rate):
        """Takes a step; returns the mean of -log(probability)."""
        entropy, loss = self._loss(inputs, targets, _drawn)
        loss.backward()
        self._update(rate)
        return entropy.item()

    def evaluate(self, inputs, targets):
        """The mean of -log(probability), with nothing dropped."""
        with torch.no_grad():
            return self._loss(inputs, targets, _nothing_dropped)[0].item()

    def examine(self, inputs, targets, rate, kept):
        """Takes a step with given masks, and tells all about it.

        Args:
          inputs, targets: ids.
          rate: the learning rate.
          kept: dict of bool arrays, from `tf_awd_lstm.Model.examine`.

        Returns:
          Dict with the `loss`, its `gradients`, and the `state` after it.
        """
        _, loss = self._loss(inputs, targets, _given(kept, self._dtype))
        loss.backward()
        named = self._network.named()
        gradients = _exported({name: x.grad for name, x in named.items()})
        self._update(rate)
        return {
            "loss": loss.detach().numpy(),
            "gradients": gradients,
            "state": {i: part.numpy() for i, part in enumerate(self._state)},
        }


def _clip(gradients, largest):
    # As torch.nn.utils.clip_grad_norm_, which adds 1e-6 to the norm.
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    scale = torch.clamp(largest / norm, max=1.0)
    torch._foreach_mul_(gradients, scale)


# ---------------------------------------------------------------------------
# Masks: kept entries are 1 / keep, others 0.


def _drawn(name, shape, keep):
    if keep == 1.0:
        return torch.ones(shape)
    return torch.empty(shape).bernoulli_(keep).div_(keep)


def _nothing_dropped(name, shape, keep):
    return torch.ones(()).expand(shape)


def _given(kept, dtype):
    def draw(name, shape, keep):
        if keep == 1.0:
            return torch.ones(shape, dtype=dtype)
        mask = kept[name]
        if name.startswith("weights"):
            mask = _to_torch(mask)
        mask = torch.as_tensor(mask)
        assert mask.shape == tuple(shape)
        return mask.to(dtype) / keep

    return draw


# ---------------------------------------------------------------------------
# TensorFlow's layout: one kernel for inputs and state, `[depth + units, 4 *
# units]`, its columns in the order input, new input, forget, output; here two
# matrices, transposed, in the order input, forget, new input, output.


def _exchanged(array):
    first, second, third, last = np.split(array, 4, axis=-1)
    return np.concatenate([first, third, second, last], axis=-1)


def _to_torch(array):
    return np.ascontiguousarray(_exchanged(array).T)


def _to_tensorflow(array):
    return _exchanged(array.T)


def _imported(weights):
    tensors = {}
    for name, array in weights.items():
        if name.startswith("kernel"):
            i, units = name.split("_")[1], array.shape[1] // 4
            tensors[f"inputs_{i}"] = _to_torch(array[:-units])
            tensors[f"recurrent_{i}"] = _to_torch(array[-units:])
        else:
            tensors[name] = _to_torch(array) if "_" in name else array
    return {name: torch.as_tensor(x) for name, x in tensors.items()}


def _exported(tensors):
    arrays = {}
    for name, tensor in tensors.items():
        array = tensor.detach().numpy().copy()
        arrays[name] = _to_tensorflow(array) if "_" in name else array
    for name in [name for name in arrays if name.startswith("inputs")]:
        i = name.split("_")[1]
        parts = [arrays.pop(name), arrays.pop(f"recurrent_{i}")]
        arrays[f"kernel_{i}"] = np.concatenate(parts)
    return arrays
