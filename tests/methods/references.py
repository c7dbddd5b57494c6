"""Every rival's loss once more, in float64 numpy and independent of the package: the oracle of its tests.

Where a method passes gradients through a sign, its reference takes the codes as an argument of their own: the gradient
wanted is that at the codes, as if they were outputs, plus that of the other terms.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


def unit(x: Array) -> Array:
    return x / np.sqrt((x**2).sum(1, keepdims=True))


def sign(x: Array) -> Array:
    return np.where(x >= 0, 1.0, -1.0)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def contrastive(a: Array, b: Array, temperature: float) -> float:
    """−log of the partner's share among all others, row by row."""
    both = unit(np.concatenate((a, b)))
    size, total = len(a), 0.0
    for i in range(2 * size):
        others = [np.exp(both[i] @ both[j] / temperature) for j in range(2 * size) if j != i]
        total -= np.log(np.exp(both[i] @ both[(i + size) % (2 * size)] / temperature) / np.sum(others))
    return total / (2 * size)


def cosine_gap(codes: Array, x: Array) -> float:
    return float(((unit(codes) @ unit(codes).T - unit(x) @ unit(x).T) ** 2).mean())


def greedyhash(h: Array, codes: Array, x: Array) -> float:
    return cosine_gap(codes, x) + 0.1 * float((np.abs(np.abs(h) - 1) ** 3).mean())


def half_codes(h: Array) -> Array:
    codes = -np.ones_like(h)
    for k in range(h.shape[1]):
        codes[np.argsort(-h[:, k])[: len(h) // 2], k] = 1
    return codes


def sdc(h: Array, x: Array) -> float:
    pairs = [(i, j) for i in range(len(h)) for j in range(i)]
    pairs.sort(key=lambda pair: unit(x)[pair[0]] @ unit(x)[pair[1]])
    result = [unit(h)[i] @ unit(h)[j] for i, j in pairs]
    n = len(pairs)
    expected = [2 * stats.beta.ppf((2 * i - 1) / (2 * n), 5, 5) - 1 for i in range(1, n + 1)]
    own = [unit(h)[i] @ sign(h)[i] / np.sqrt(h.shape[1]) for i in range(len(h))]
    return float(np.mean(np.abs(np.array(result) - expected)) + 1 - np.mean(own))


def mls3rduh_targets(x: Array, near_count: int, along_count: int) -> Array:
    cosine, n = unit(x) @ unit(x).T, len(x)
    near = np.array([[cosine[i, j] >= np.sort(cosine[i])[-near_count] for j in range(n)] for i in range(n)])
    graph = np.where(near & near.T & ~np.eye(n, dtype=bool), np.maximum(cosine, 0), 0)
    root = np.diag(1 / np.sqrt(np.maximum(graph.sum(1), 1e-12)))
    manifold = np.linalg.inv(np.eye(n) - 0.99 * root @ graph @ root)
    along = np.array(
        [[manifold[i, j] >= max(1e-6, np.sort(manifold[i])[-along_count]) for j in range(n)] for i in range(n)]
    )
    s = np.where(near & along, 1.0, np.where(near, 0.0, np.maximum(cosine, 0)))
    return 2 * (s + s.T) / 2 - 1


def mls3rduh(h: Array, targets: Array) -> float:
    return float(np.log(np.cosh(h @ h.T / h.shape[1] - targets)).mean())


def cibhash(a: Array, b: Array, fixed: tuple[Array, Array], codes: tuple[Array, Array]) -> float:
    """fixed: the logits that the divergences hold fixed; codes: −1 or 1."""

    def divergence(h: Array, held: Array) -> float:
        p, q = sigmoid(h), sigmoid(held)
        return float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1).mean())

    bottleneck = (divergence(a, fixed[1]) + divergence(b, fixed[0])) / 2
    return contrastive(codes[0], codes[1], 0.3) + 0.001 * bottleneck


def cimon_targets(x: Array, clusters: NDArray[np.int64], fit: dict[str, float]) -> tuple[Array, Array]:
    distance = 1 - unit(x) @ unit(x).T

    def share(d: Array | float) -> Array:
        left = stats.norm.cdf(d, fit["mode"], fit["sigma_left"])
        return np.asarray(np.where(d <= fit["mode"], left, stats.norm.cdf(d, fit["mode"], fit["sigma_right"])))

    t = fit["threshold"]
    similar = distance <= t
    below = (share(t) - share(distance)) / (share(t) - share(0.0))
    above = (share(distance) - share(t)) / (share(2.0) - share(t))
    agree = similar == (clusters[:, None] == clusters[None, :])
    weights = np.clip(np.where(similar, below, above), 0, 1) * np.where(agree, 2.0, 0.0)
    return np.where(similar, 1.0, -1.0), weights


def cimon(a: Array, b: Array, labels: list[tuple[Array, Array]]) -> float:
    total = 0.3 * contrastive(a, b, 0.5)
    for s, w in labels:
        for h in (a, b):
            total += float((w * (h @ h.T / h.shape[1] - s) ** 2).mean())
    return total


def crovca(a: Array, b: Array, targets: tuple[Array, Array]) -> float:
    """targets: 0 or 1, of a and of b."""

    def cross_entropy(h: Array, t: Array) -> float:
        return float(-(t * np.log(sigmoid(h)) + (1 - t) * np.log(1 - sigmoid(h))).mean())

    def rate(h: Array) -> float:
        size, bits = h.shape
        z = unit(h)
        sign_, value = np.linalg.slogdet(np.eye(bits) + bits / (0.05 * size) * z.T @ z)
        assert sign_ == 1
        return float(-value / 2 * (bits + size) / (bits * size))

    return (cross_entropy(a, targets[1]) + cross_entropy(b, targets[0])) / 2 + 0.1 * (rate(a) + rate(b)) / 2


def gradient(function: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    """Central differences."""
    result = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        result[index] = (function(up) - function(down)) / (2 * step)
    return result


def neighbors(z: Array, x: Array, t: float, tau: float) -> float:
    """Cross-entropy of the neighbours by code against those by features; t in deviations of the cosines."""
    size = len(z)
    c = unit(x) @ unit(x).T
    sigma = np.std([c[i, j] for i in range(size) for j in range(size) if i != j])
    total = 0.0
    for i in range(size):
        others = [j for j in range(size) if j != i]
        p = np.exp([c[i, j] / (t * sigma) for j in others])
        q = np.exp([z[i] @ z[j] / z.shape[1] / tau for j in others])
        total -= np.sum(p / p.sum() * np.log(q / q.sum()))
    return total / size


def pair_loss(z: Array, targets: Array, weights: Array) -> float:
    return float((weights * (z @ z.T / z.shape[1] - targets) ** 2).mean())
