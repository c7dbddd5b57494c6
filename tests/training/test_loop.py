"""Training of the hash layer: equal to the plain loop, the same bits each time, resumed at any step, labels unused."""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ssdh.core import runtime as parallel
from ssdh.core.errors import DataError, SSDHError
from ssdh.hashing.model_file import save_hashnet
from ssdh.hashing.network import HashNet, seeded_hashnet
from ssdh.methods.published import Published
from ssdh.structure.fit import fit_structure
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.thresholds import Structure, pseudo_labels
from ssdh.training import loop as training
from ssdh.training.checkpoint import Snapshots
from ssdh.training.head import HeadTrainer, train_head
from ssdh.training.loop import Run, epoch_batches, epoch_steps
from ssdh.training.loss import weighted_loss
from ssdh.training.method import Batch, Method
from ssdh.training.pairs import pair_weights
from ssdh.training.params import TrainParams

N, D, K = 53, 6, 8


def train_params(none: Path, **more: Any) -> TrainParams:
    none.touch()
    values: dict[str, Any] = {"finetune": False, "epochs": 3, "optimizer": "sgd", "lr": 0.05, "momentum": 0.9}
    values |= {"weight_decay": 1e-3, "batch_size": 12, "centre": True, "unknown_weight": 0.0}
    values |= {"eval_interval": 0, "snapshot_interval": 0, "init_file": str(none)}
    return TrainParams(**(values | more))


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, Structure, np.ndarray]:
    """(features (N, D), the structure, labels (N, N))."""
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(4, D))[rng.integers(0, 4, N)] + 0.4 * rng.normal(size=(N, D)) + 1).astype(np.float32)
    structure = fit_structure(features, alpha=1.0, beta=1.0, bins=50)
    return features, structure, np.asarray(pseudo_labels(features, structure))


class ByAutograd(Method):
    """The pair loss, without the step in closed form."""

    pairs = True

    def loss(self, batch: Batch) -> torch.Tensor:
        return weighted_loss(batch.outputs[0], batch.targets, batch.weights)


def fitted(
    data: tuple[np.ndarray, Structure, np.ndarray],
    params: TrainParams,
    *,
    matrix: bool = True,
    kind: type[Method] = Published,
    **more: Any,
) -> tuple[HashNet, training.Progress]:
    features, structure, labels = data
    pair_labels = PairLabels(features, structure, labels.copy() if matrix else None)
    validate = more.pop("validate", None)
    return train_head(features, pair_labels, Run(kind(params), K, 4, **more), validate=validate)


def test_a_given_model_without_a_centre_starts_with_its_own_codes(
    data: tuple[np.ndarray, Structure, np.ndarray], tmp_path: Path
) -> None:
    given, _ = fitted(data, train_params(tmp_path / "none", centre=False))
    assert given.hash.bias.any()
    path = tmp_path / "given.safetensors"
    save_hashnet(path, given, {"bits": K})
    more: dict[str, Any] = {"centre": True, "epochs": 1, "lr": 1e-9, "weight_decay": 0.0}
    values = train_params(tmp_path / "none").model_dump() | more | {"init_file": str(path)}
    result, _ = fitted(data, TrainParams(**values))
    features = torch.from_numpy(data[0])
    torch.testing.assert_close(result(features), given(features), rtol=0, atol=1e-5)


def test_every_rank_waits_for_a_validation(
    data: tuple[np.ndarray, Structure, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take longer than a collective's time-out."""
    met: list[str] = []
    monkeypatch.setattr(training, "barrier", lambda rank: met.append("barrier"))

    def validate(_: HashNet) -> float:
        met.append("validation")
        return 0.5

    fitted(data, train_params(tmp_path / "none", eval_interval=7), validate=validate)
    assert met == ["validation", "barrier"] * 2  # of 15 steps


def plain_loop(
    data: tuple[np.ndarray, Structure, np.ndarray], params: TrainParams, dtype: torch.dtype
) -> tuple[HashNet, list[float]]:
    """The textbook loop: autograd, torch.optim, the public loss."""
    features, structure, labels = data
    x = torch.from_numpy(features).to(dtype)
    model = seeded_hashnet(D, K, 4).to(dtype)
    if params.centre:
        model.center.copy_(x.double().mean(0))
        nn.init.zeros_(model.hash.bias)
    affinities = torch.from_numpy(PairLabels(features, structure, None).affinities(np.arange(N), np.arange(N)).copy())
    kind: Any = torch.optim.SGD if params.optimizer == "sgd" else torch.optim.Adam
    options = {"momentum": params.momentum} if params.optimizer == "sgd" else {}
    optimizer = kind(model.parameters(), lr=params.lr, weight_decay=params.weight_decay, **options)
    losses = []
    for epoch in range(params.epochs):
        for rows in epoch_batches(N, params.batch_size, 4, epoch):
            known = torch.from_numpy(labels[np.ix_(rows, rows)])
            expected = affinities[np.ix_(rows, rows)] if params.target == "soft" else known
            loss = weighted_loss(
                model(x[rows]), expected.to(dtype), pair_weights(known, params.unknown_weight).to(dtype)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return model, losses


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"centre": False},
        {"unknown_weight": 1.0},
        {"unknown_weight": 1.0, "target": "soft", "optimizer": "adam", "lr": 0.01},
        {"batch_size": 200},
        {"shared_out": True},
    ],
    ids=["centred", "published", "unknown", "soft-adam", "one-batch", "shared-out"],
)
@pytest.mark.parametrize("by_autograd", [False, True], ids=["closed", "autograd"])
def test_equal_to_the_plain_loop_step_by_step(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], by_autograd: bool
) -> None:
    """The pair loss by its step in closed form, and by autograd as every other method."""
    if "shared_out" in more:
        _share_out_everything(monkeypatch)
    params = train_params(tmp_path / "none", **{name: value for name, value in more.items() if name != "shared_out"})
    seen: list[float] = []
    step = HeadTrainer.step

    def noted(self: HeadTrainer, *arguments: Any) -> torch.Tensor:
        loss = step(self, *arguments)
        seen.append(loss.item())
        return loss

    monkeypatch.setattr(HeadTrainer, "step", noted)
    model, progress = fitted(data, params, dtype=torch.float64, kind=ByAutograd if by_autograd else Published)
    expected, losses = plain_loop(data, params, torch.float64)
    np.testing.assert_allclose(seen, losses, rtol=1e-9)
    rounding = 1e-6 if params.target == "soft" else 1e-9  # affinities are of single precision
    torch.testing.assert_close(model.hash.weight, expected.hash.weight, rtol=rounding, atol=rounding / 100)
    torch.testing.assert_close(model.hash.bias, expected.hash.bias, rtol=rounding, atol=rounding / 100)
    steps = -(-N // params.batch_size)
    means = [np.mean(losses[start : start + steps]) for start in range(0, len(losses), steps)]
    assert [row[:2] for row in progress.epochs] == [(epoch + 1, (epoch + 1) * steps) for epoch in range(3)]
    np.testing.assert_allclose([row[2] for row in progress.epochs], means, rtol=1e-9)


def _share_out_everything(monkeypatch: pytest.MonkeyPatch, cores: int = 3) -> None:
    """Products and look-ups of the tiny features run in parts of about a row, on that many threads."""
    monkeypatch.setattr("ssdh.training.head.PART_PRODUCT", D * K)
    monkeypatch.setattr("ssdh.training.head.PART_VALUES", D)
    monkeypatch.setattr("ssdh.core.runtime.num_cores", lambda: cores)


def test_parts_and_bits_do_not_depend_on_the_number_of_cores(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So tiny products round alike however they are cut, so the cuts themselves are looked at too."""
    result, cuts = [], []
    share_out = parallel.share_out

    def noted(work: Callable[[slice], Any], size: int, parts: int) -> None:
        def part_of(part: slice) -> None:
            assert torch.get_num_threads() == 1
            cuts[-1].append((size, parts, part.start, part.stop))
            work(part)

        share_out(part_of, size, parts)

    monkeypatch.setattr("ssdh.training.head.share_out", noted)
    for cores in (1, 2, 3):
        _share_out_everything(monkeypatch, cores)
        cuts.append([])
        model, progress = fitted(data, train_params(tmp_path / "none", batch_size=24))
        result.append((model.hash.weight.detach().numpy().tobytes(), progress.epochs, sorted(cuts[-1])))
    assert max(parts for _, parts, *_ in cuts[0]) > 3
    assert result[1] == result[2] == result[0]


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    first, second = (np.concatenate(epoch_batches(N, 12, 4, epoch)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(N))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.concatenate(epoch_batches(N, 12, 5, 0)))


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(53, [12] * 4 + [5]), (48, [12] * 4), (50, [12] * 4 + [2]), (49, [12] * 3 + [13]), (13, [13]), (1, [1])],
)
def test_no_image_is_a_batch_of_its_own(count: int, sizes: list[int]) -> None:
    batches = epoch_batches(count, 12, 4, 0)
    assert [len(batch) for batch in batches] == sizes
    assert sorted(np.concatenate(batches)) == list(range(count))
    assert epoch_steps(count, 12) == len(sizes)


@pytest.mark.parametrize("target", ["ternary", "soft"])
def test_labels_on_the_fly_give_the_same_bits(data: Any, tmp_path: Path, target: str) -> None:
    params = train_params(tmp_path / "none", target=target, unknown_weight=0.5)
    stored, _ = fitted(data, params)
    computed, _ = fitted(data, params, matrix=False)
    assert torch.equal(stored.hash.weight, computed.hash.weight)


def test_small_chunks_of_pairs_change_nothing(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = train_params(tmp_path / "none")
    whole, _ = fitted(data, params)
    monkeypatch.setattr("ssdh.training.pairs.CHUNK_PAIRS", 1)
    cut, _ = fitted(data, params)
    assert torch.equal(whole.hash.weight, cut.hash.weight)


class Interrupted(Snapshots):
    """Ctrl-C as soon as the snapshot of an iteration is on the disk."""

    def __init__(self, folder: Path, iteration: int) -> None:
        super().__init__(folder, "same")
        self.iteration = iteration

    def save(self, state: dict[str, Any]) -> None:
        super().save(state)
        if state["progress"]["iteration"] == self.iteration:
            self.finish()
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_resumed_after_any_step_to_the_same_bits(data: Any, tmp_path: Path, optimizer: str) -> None:
    more = {"optimizer": optimizer, "snapshot_interval": 1, "eval_interval": 4}
    params = train_params(tmp_path / "none", **more)

    def validate(model: HashNet) -> float:
        return model.hash.weight.detach().double().sum().item()

    whole, curves = fitted(data, params, validate=validate)
    for stop in range(1, 15):
        folder = tmp_path / str(stop)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            fitted(data, params, validate=validate, snapshots=Interrupted(folder, stop))
        torch.manual_seed(stop)  # whatever the process drew meanwhile
        resumed, result = fitted(data, params, validate=validate, snapshots=Snapshots(folder, "same"))
        assert torch.equal(resumed.hash.weight, whole.hash.weight)
        assert torch.equal(resumed.hash.bias, whole.hash.bias)
        assert [list(row) for row in result.epochs] == [list(row) for row in curves.epochs]
        assert [list(row) for row in result.validation] == [list(row) for row in curves.validation]


def test_snapshots_that_do_not_fit_are_ignored_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ssdh.core.stage import configure_logging

    configure_logging()
    snapshots = Snapshots(tmp_path, "mine")
    assert snapshots.load() is None
    assert capsys.readouterr().err == ""
    snapshots.save({"iteration": 3})
    assert snapshots.load() == {"iteration": 3, "fingerprint": "mine"}
    assert Snapshots(tmp_path, "other").load() is None
    assert "belongs to other parameters, inputs or code: ignored" in capsys.readouterr().err
    for size in (0, 10, snapshots.path.stat().st_size - 30):
        snapshots.save({"iteration": 3})
        snapshots.finish()
        snapshots.path.write_bytes(snapshots.path.read_bytes()[:size])
        assert snapshots.load() is None
        assert "is not a whole snapshot" in capsys.readouterr().err


def test_a_snapshot_is_written_beside_the_training_and_holds_its_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_is_ready = threading.Event()
    write = torch.save

    def slow(state: Any, path: Path) -> None:
        assert disk_is_ready.wait(60)
        write(state, path)

    monkeypatch.setattr(torch, "save", slow)
    snapshots = Snapshots(tmp_path, "mine")
    weight, curve = torch.zeros(3), [1.0]
    snapshots.save({"model": {"weight": weight}, "curve": curve})  # returns although nothing is written yet
    weight += 1
    curve.append(2.0)
    disk_is_ready.set()
    result = snapshots.load()
    assert result is not None
    assert result["model"]["weight"].tolist() == [0, 0, 0]
    assert result["curve"] == [1.0]


def test_a_snapshot_that_could_not_be_written_ends_the_training(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    for interval in (1, 40):  # found at the next snapshot, or at the end: 8 epochs of 5 steps
        params = train_params(tmp_path / "none", snapshot_interval=interval, epochs=8)
        with pytest.raises(DataError, match=r"snapshot.pt could not be written: PytorchStreamWriter failed"):
            fitted(data, params, snapshots=Snapshots(tmp_path, "mine"))


def test_a_snapshot_that_memory_is_too_short_for_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = Snapshots(tmp_path, "mine")
    snapshots.save({"iteration": 3})

    def load(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(torch, "load", load)
        snapshots.load()
    assert snapshots.load() == {"iteration": 3, "fingerprint": "mine"}


def test_a_loss_that_is_no_number_stops_the_run(data: Any, tmp_path: Path) -> None:
    features, structure, labels = data
    broken = (features.copy(), structure, labels)
    broken[0][3] = np.nan
    with pytest.raises(SSDHError, match=r"no longer a finite number: lower train.lr"):
        fitted(broken, train_params(tmp_path / "none"))


def test_centre_of_a_given_model_stays(data: Any, tmp_path: Path) -> None:
    from ssdh.hashing.model_file import save_hashnet

    first, _ = fitted(data, train_params(tmp_path / "none"))
    torch.testing.assert_close(first.center, torch.from_numpy(data[0]).mean(0))
    save_hashnet(tmp_path / "first.safetensors", first, {"bits": K})
    params = train_params(tmp_path / "none", init_file=str(tmp_path / "first.safetensors"), centre=False, lr=1e-9)
    second, _ = fitted(data, params)
    assert torch.equal(second.center, first.center)
    torch.testing.assert_close(second.hash.weight, first.hash.weight, rtol=1e-4, atol=1e-5)


def test_every_batch_is_logged_where_it_is_asked_for(
    data: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ssdh.core.stage import configure_logging

    params = train_params(tmp_path / "none", epochs=2)
    for level, lines in (("TRACE", 10), ("DEBUG", 0)):  # 2 epochs of 5 batches
        configure_logging(level)
        fitted(data, params)
        assert len(re.findall(r"TRACE +iteration \d+: loss \d+\.\d{5}\n", capsys.readouterr().err)) == lines
