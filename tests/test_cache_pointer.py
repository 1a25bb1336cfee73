"""benchmarks/cache_pointer.py against the formulas of the paper."""

import numpy as np
import pytest


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_cache_is_that_of_the_paper(example, size, monkeypatch):
    """Against the sums of the paper, written out."""
    cache_pointer = example("cache_pointer")
    monkeypatch.setattr(cache_pointer, "_BLOCK", 16)
    time, theta, share = 50, 0.7, 0.3
    outputs = np.random.randn(time, 5)
    targets = np.random.randint(4, size=time)
    model = np.random.uniform(0.1, 3.0, time)
    expected = [model[0]]
    for t in range(1, time):
        total = match = 0.0
        for i in range(max(0, t - size), t):
            weight = np.exp(theta * np.dot(outputs[t], outputs[i]))
            total += weight
            if targets[i] == targets[t]:
                match += weight
        p = (1 - share) * np.exp(-model[t]) + share * match / total
        expected.append(-np.log(p))
    actual = cache_pointer.losses(model, outputs, targets, size, theta, share)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)
