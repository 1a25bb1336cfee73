"""The continuous cache: recent words are more likely to come again.

Grave, Joulin, Usunier: "Improving Neural Language Models with a Continuous
Cache", https://arxiv.org/abs/1612.04426, equations 2 and 3.
"""

import numpy as np

_BLOCK = 256  # tokens at a time


def losses(model_losses, outputs, targets, size, theta, share):
    """-log(probability) of each token, when a cache helps to predict.

        p[t] = (1 - share) * exp(-model_losses[t]) + share * cache[t]
        cache[t] = sum(w[i] where targets[i] == targets[t]) / sum(w[i])
        w[i] = exp(theta * outputs[t] @ outputs[i]), t - size <= i < t

    No training is needed; the first token has no cache, and is left as it is.

    Args:
      model_losses: `[time]`, of the model alone, in nats.
      outputs: `[time, units]`, of its last layer, from which `targets` were
        predicted.
      targets: `[time]` ids.
      size: Of the cache, in tokens.
      theta: How much closer outputs count for more.
      share: Of the cache in the mixture.

    Returns:
      Float64 `[time]`.
    """
    outputs = np.asarray(outputs, np.float64)
    p = np.exp(-np.asarray(model_losses, np.float64))
    mixed = [p[:1]]
    for start in range(1, len(targets), _BLOCK):
        now = np.arange(start, min(start + _BLOCK, len(targets)))
        past = np.arange(max(0, start - size), now[-1])
        age = now[:, None] - past
        scores = theta * outputs[now] @ outputs[past].T
        scores[(age < 1) | (age > size)] = -np.inf
        weights = np.exp(scores - scores.max(1, keepdims=True))
        same = targets[now][:, None] == targets[past]
        cache = (weights * same).sum(1) / weights.sum(1)
        mixed.append((1 - share) * p[now] + share * cache)
    return -np.log(np.concatenate(mixed))
