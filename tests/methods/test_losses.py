"""Every rival's loss and gradient against float64 numpy; the order of a batch changes nothing."""

from typing import Any

import numpy as np
import pytest
import torch

from ssdh.core.params import read_recipe
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.thresholds import Structure
from ssdh.training.method import Batch, Method, load_method
from ssdh.training.params import TrainParams
from tests.methods import references as ref

N, B, D, K = 40, 11, 7, 6
RIVALS = ["greedyhash", "bihalf", "sdc", "mls3rduh", "cibhash", "cimon", "crovca"]
OF_FEW_IMAGES = {"cimon": {"clusters": 4.0}, "mls3rduh": {"neighbors": 0.2, "manifold_neighbors": 0.3}}


def method_of(name: str, **loss: float) -> Method:
    """With the weights of the authors, which the formulas of the reference have."""
    recipe: dict[str, Any] = dict(read_recipe(name))
    weights = recipe["train"]["loss"] | recipe["authors"]["train"].get("loss", {}) | loss
    return load_method(name)(TrainParams(**(recipe["train"] | {"init_file": "none", "loss": weights})))


class Case:
    """A prepared method, a batch of it, and its loss and gradients by the reference."""

    def __init__(self, name: str, rows: np.ndarray | None = None) -> None:
        rng = np.random.default_rng(5)
        centres = rng.normal(size=(4, D))
        self.features = centres[rng.integers(0, 4, N)] + 0.6 * rng.normal(size=(N, D))
        self.views = [self.features + 0.2 * rng.normal(size=(N, D)) for _ in range(2)]
        self.all_outputs = [np.tanh(rng.normal(size=(N, K))), np.tanh(rng.normal(size=(N, K)))]
        self.method = method_of(name, **OF_FEW_IMAGES.get(name, {}))
        pair_labels = PairLabels(self.features, Structure(0.5, 0.1, 0.1, 0.3, 0.7, 1, 0.0, 0.0))
        self.method.prepare(torch.from_numpy(self.features), list(map(torch.from_numpy, self.views)), pair_labels)
        self.rows = rng.permutation(N)[:B] if rows is None else rows
        self.outputs = [h[self.rows] for h in self.all_outputs][: max(1, self.method.views)]
        self.x = self.features[self.rows]

    def run(self) -> tuple[float, list[np.ndarray]]:
        outputs = [torch.from_numpy(h).requires_grad_() for h in self.outputs]
        views = [torch.from_numpy(view[self.rows]) for view in self.views]
        loss = self.method.loss(Batch(outputs, self.rows, torch.from_numpy(self.x), views))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item(), [h.grad.numpy() for h in outputs]  # type: ignore[union-attr]


def expected(name: str, case: Case) -> tuple[float, list[np.ndarray]]:
    """(loss, gradient of each view's outputs)."""
    h, x = case.outputs[0], case.x
    if name == "greedyhash":
        codes = ref.sign(h)
        through = ref.gradient(lambda b: ref.greedyhash(h, b, x), codes)
        return ref.greedyhash(h, codes, x), [through + ref.gradient(lambda o: ref.greedyhash(o, codes, x), h)]
    if name == "bihalf":
        codes = ref.half_codes(h)
        through = ref.gradient(lambda b: ref.cosine_gap(b, x), codes)
        return ref.cosine_gap(codes, x), [through + 6 * (h - codes) / (B * K)]
    if name == "sdc":
        return ref.sdc(h, x), [ref.gradient(lambda o: ref.sdc(o, x), h)]
    if name == "mls3rduh":
        targets = ref.mls3rduh_targets(case.features, 8, 12)[np.ix_(case.rows, case.rows)]  # 0.2 n and 0.3 n
        return ref.mls3rduh(h, targets), [ref.gradient(lambda o: ref.mls3rduh(o, targets), h)]
    a, b = case.outputs
    if name == "cibhash":
        codes = (ref.sign(a), ref.sign(b))

        def loss(one: Any = a, two: Any = b, signs: Any = codes) -> float:
            return ref.cibhash(one, two, (a, b), signs)

        slope = [ref.sigmoid(o) * (1 - ref.sigmoid(o)) for o in (a, b)]
        of_a = ref.gradient(lambda s: loss(signs=(s, codes[1])), codes[0]) * slope[0]
        of_b = ref.gradient(lambda s: loss(signs=(codes[0], s)), codes[1]) * slope[1]
        return loss(), [of_a + ref.gradient(lambda o: loss(one=o), a), of_b + ref.gradient(lambda o: loss(two=o), b)]
    if name == "cimon":
        fitted: Any = case.method
        fit = {"mode": fitted.fitted.mode, "sigma_left": fitted.fitted.sigma_left}
        fit |= {"sigma_right": fitted.fitted.sigma_right, "threshold": fitted.threshold}
        clusters = fitted.clusters.numpy()[case.rows]
        labels = [ref.cimon_targets(view[case.rows], clusters, fit) for view in case.views]
        assert any((s > 0).sum() > B for s, _ in labels)
        result = [
            ref.gradient(lambda o: ref.cimon(o, b, labels), a),
            ref.gradient(lambda o: ref.cimon(a, o, labels), b),
        ]
        return ref.cimon(a, b, labels), result
    targets = ((a > 0).astype(float), (b > 0).astype(float))
    result = [
        ref.gradient(lambda o: ref.crovca(o, b, targets), a),
        ref.gradient(lambda o: ref.crovca(a, o, targets), b),
    ]
    return ref.crovca(a, b, targets), result


@pytest.mark.parametrize("name", RIVALS)
def test_loss_and_gradient_are_those_of_the_formula(name: str) -> None:
    case = Case(name)
    loss, gradients = case.run()
    requested, slopes = expected(name, case)
    assert loss == pytest.approx(requested, rel=1e-6)
    assert len(gradients) == max(1, case.method.views)
    for result, slope in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(result, slope, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", RIVALS)
def test_the_order_of_a_batch_changes_nothing(name: str) -> None:
    case = Case(name)
    order = np.random.default_rng(0).permutation(B)
    loss, gradients = case.run()
    shuffled, moved = Case(name, case.rows[order]).run()
    assert shuffled == pytest.approx(loss, rel=1e-12)
    for one, two in zip(gradients, moved, strict=True):
        np.testing.assert_allclose(two, one[order], rtol=1e-9, atol=1e-15)
