"""The estimator: features in, packed binary codes out, with scikit-learn's `fit` and `transform`.

    from ssdh import Hasher
    hasher = Hasher(bits=64).fit(X)       # X: (n, D) floats or integers, an array, a memory map or a tensor
    codes = hasher.transform(X)           # (n, 8) uint8, packed

It is the pipeline's `structure`, `train` and `encode` on features at hand, the same to the bit, without DVC and without
a `params.yaml`: values come from the recipe, which is package data.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from ssdh.core.arrays import from_tensor
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.params import Bits, Seed, overridden, read_recipe, validate
from ssdh.core.split import Split
from ssdh.structure.params import StructureParams
from ssdh.training.params import TrainParams, check_train_params

if TYPE_CHECKING:
    from ssdh.structure.pseudo_labels import PairLabels
    from ssdh.training.method import Method

NumTrain = Annotated[int, Field(strict=True, ge=2)] | None
SAMPLE_STREAM = 41  # of the seed's random streams
BLOCK = 8192  # rows that are encoded at once
HOW = ("device", "verbose")  # of the work, not of the codes
SCORE_QUERIES, SCORE_NEIGHBORS = 1000, 10


class Hasher(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Learns compact binary codes of features without labels (SSDH, IJCAI 2018, and its relatives).

    bits: K, the length of a code. recipe: a method with its settings. num_train: rows that are trained on, drawn by the
    seed where X has more; None for all. seed: of the sample, the initial weights and the order of batches. device:
    auto | cpu | cuda | cuda:1 | mps. verbose: show a progress bar and what is logged.
    values: any value of the recipe's sections `structure` and `train` by its name, such as `epochs=20` or `alpha=1.5`;
    `power` is set in both.

    After `fit`: `model_` (the hash network), `structure_` (the fitted distribution), `losses_` (of the epochs),
    `n_features_in_`. Raises ParameterError for a value or recipe that does not exist or fit, DataError for features
    without structure, ValueError (scikit-learn's) for arrays that are no features.

    >>> X = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
    >>> Hasher(bits=12, epochs=2).fit(X).transform(X).shape
    (200, 2)
    """

    def __init__(
        self,
        bits: int = 32,
        *,
        recipe: str = "manifold_views",
        num_train: int | None = 5000,
        seed: int = 0,
        device: str = "auto",
        verbose: bool = False,
        **values: Any,
    ) -> None:
        self.bits = bits
        self.recipe = recipe
        self.num_train = num_train
        self.seed = seed
        self.device = device
        self.verbose = verbose
        self._values = values

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments, the recipe's values among them, as scikit-learn's `clone` needs them."""
        return dict(super().get_params(deep)) | self._values

    def set_params(self, **params: Any) -> Self:
        """Set arguments of the constructor; returns self."""
        named = self._get_param_names()
        for name, value in params.items():
            if name in named:
                setattr(self, name, value)
            else:
                self._values = self._values | {name: value}
        return self

    @property
    def _n_features_out(self) -> int:
        """Bytes of a code, for scikit-learn's `get_feature_names_out` and `set_output`."""
        from ssdh.hashing.codes import width

        return width(int(self.model_.bits))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # codes are uint8 whatever X is
        return tags

    def fit(self, X: Any, y: Any = None, *, views: Any = None) -> Self:
        """Learn the hash network from features X (n, D); y is ignored.

        views: (V, n, D) features of V random crops of each image, for recipes that compare two views; the default
        recipe trains as `manifold` without. Returns self.
        """
        from ssdh.structure.fit import fit_recipe
        from ssdh.structure.pseudo_labels import PairLabels
        from ssdh.structure.thresholds import pseudo_labels
        from ssdh.training.method import load_method

        bits: int = validate(Bits, _plain(self.bits), "bits", "Hasher")
        seed: int = validate(Seed, _plain(self.seed), "seed", "Hasher")
        num_train: int | None = validate(NumTrain, _plain(self.num_train), "num_train", "Hasher")
        structure, train = self._sections()
        check_train_params(train, bits, "Hasher")
        X = self._checked(X, reset=True)
        rows = _sample(len(X), num_train, seed)
        features = _floats(X[rows])
        chosen = () if views is None else _views(views, X.shape)[:, rows]
        method = load_method(self.recipe)(train)
        method.check_crops(len(chosen), "give them as fit(X, views=…), (crops, n, D)")
        fitted = fit_recipe(features, structure, seed=seed, views=chosen)
        large = len(rows) ** 2 / 2**30 > structure.max_matrix_gib
        matrix = None if large else pseudo_labels(fitted.pairs, fitted.structure)
        pair_labels = PairLabels(fitted.pairs.features, fitted.structure, matrix)
        self._train(method, bits, seed, features, pair_labels, chosen)
        self.structure_ = fitted.structure
        return self

    def decision_function(self, X: Any) -> NDArray[np.float32]:
        """Outputs of the network (n, K) whose signs are the codes: in (−1, 1) for heads with tanh."""
        check_is_fitted(self, "model_")
        return np.concatenate(list(self._outputs(self._checked(X, reset=False))))

    def transform(self, X: Any) -> NDArray[np.uint8]:
        """Packed codes (n, ⌈K/8⌉) uint8 of features X (n, D), block by block; `ssdh.unpack` gives ±1."""
        from ssdh.hashing.codes import pack, sign_codes

        check_is_fitted(self, "model_")
        X = self._checked(X, reset=False)
        return np.concatenate([pack(sign_codes(outputs)) for outputs in self._outputs(X)])

    def score(self, X: Any, y: Any = None) -> float:
        """How well codes keep neighbours, no labels needed: the recall of the ten nearest by cosine of X (n, D).

        Up to 1000 rows, drawn by the seed, are queries, the others the database: the share of a query's ten nearest
        that are among its ten nearest by code, in expectation over ties (`neighbor_recall_at` of the pipeline). y is
        ignored. Raises ValueError for fewer than twelve rows.
        """
        from ssdh.evaluation.float_search import nearest
        from ssdh.evaluation.metrics import neighbor_recall
        from ssdh.hashing.retrieval import count_distances

        check_is_fitted(self, "model_")
        X = self._checked(X, reset=False)
        if len(X) <= SCORE_NEIGHBORS + 1:
            raise ValueError(f"X must have more than {SCORE_NEIGHBORS + 1} rows for a score, got {len(X)}")
        drawn = np.random.default_rng([int(self.seed), SAMPLE_STREAM]).permutation(len(X))
        count = min(SCORE_QUERIES, max(1, (len(X) - SCORE_NEIGHBORS) // 2))
        query, database = np.sort(drawn[:count]), np.sort(drawn[count:])
        packed, no_labels = self.transform(X), np.empty((len(X), 0), np.uint8)
        counts = count_distances(
            packed[query], packed[database], no_labels[query], no_labels[database], bits=self.model_.bits
        )
        true = nearest(X, query, database, SCORE_NEIGHBORS)
        split = Split(query=query, train=query[:0], database=database)
        return neighbor_recall(packed, split, counts, true, [SCORE_NEIGHBORS])[str(SCORE_NEIGHBORS)]

    def save(self, path: str | Path) -> None:
        """Write the network as a `.safetensors` file that `Hasher.load`, `load_hashnet` and `ssdh search` read."""
        from ssdh.hashing.model_file import save_hashnet

        check_is_fitted(self, "model_")
        settings = {name: _plain(value) for name, value in self.get_params().items() if name not in HOW}
        metadata = {name: settings[name] for name in ("bits", "seed", "recipe")}
        metadata |= {"input": "embeddings", "dim": self.n_features_in_, "hasher": settings}
        save_hashnet(Path(path), self.model_, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "Hasher":
        """Open a file that `save` or the pipeline's `train` stage wrote; it encodes at once.

        Raises DataError where the file is missing, broken or a whole network, which takes images.
        """
        from ssdh.hashing.model_file import load_hashnet, read_metadata

        if not Path(path).is_file():
            raise DataError(f"{path} does not exist: name a file that `Hasher.save` or the stage `train` wrote")
        metadata = read_metadata(Path(path))
        model = load_hashnet(Path(path))
        if model.backbone is not None:
            raise DataError(f"{path} is a whole network from images to codes: use ssdh.load_hashnet or `ssdh encode`")
        settings = metadata.get("hasher", {"seed": metadata.get("seed", 0)})
        hasher = cls(**(settings | {"bits": model.bits}))
        hasher.model_, hasher.n_features_in_ = model, model.dim
        return hasher

    @classmethod
    def from_run(cls, path: str | Path = ".") -> "Hasher":
        """Open the hash layer of a finished run of the pipeline in the folder `path`.

        Its file does not name the recipe: `fit` would train with the default one.
        """
        return cls.load(Path(path) / "models/hashnet.safetensors")

    def _sections(self) -> tuple[StructureParams, TrainParams]:
        """The recipe's sections with the values given by name, validated."""
        recipe = read_recipe(self.recipe)
        of_structure, of_train = StructureParams.model_fields, TrainParams.model_fields
        for name in self._values:
            if name not in of_structure.keys() | of_train.keys():
                known = ", ".join(sorted(of_structure.keys() | of_train.keys()))
                raise ParameterError(f"{name} is no value of a recipe; known are {known}")
        values = {name: _plain(value) for name, value in self._values.items()}
        structure = recipe["structure"] | {name: value for name, value in values.items() if name in of_structure}
        train = overridden(recipe["train"], {name: value for name, value in values.items() if name in of_train})
        chosen: TrainParams = validate(TrainParams, {"init_file": ""} | train, "train", "Hasher")
        if chosen.finetune:
            raise ParameterError("finetune trains a whole network, from images: run the pipeline for it (`ssdh init`)")
        return validate(StructureParams, structure, "structure", "Hasher"), chosen

    def _train(
        self,
        method: "Method",
        bits: int,
        seed: int,
        features: NDArray[np.float32],
        pair_labels: "PairLabels",
        views: Any,
    ) -> None:
        from ssdh.core.device import use_device
        from ssdh.training.collapse import WaysOut, examine_training
        from ssdh.training.head import train_head
        from ssdh.training.loop import Run

        device = use_device(self.device, deterministic=True)
        run = Run(method, bits, seed, device, verbose=self.verbose)
        model, progress = train_head(features, pair_labels, run, views=views)
        self.model_ = model.cpu()
        self.losses_ = np.array([loss for _, _, loss in progress.epochs])
        outputs = np.concatenate(list(self._outputs(features)))
        ways_out = WaysOut(
            saturation="lower lr",
            no_learning="lower weight_decay, change lr or choose another recipe",
            collapse="lower lr or choose another recipe",
        )
        examine_training(run, progress, outputs, ways_out)

    def _checked(self, X: Any, *, reset: bool) -> NDArray[Any]:
        """X as an array (n, D) of numbers, not copied; its values are looked at block by block where they are used."""
        checked: NDArray[Any] = validate_data(
            self,
            from_tensor(X),
            reset=reset,
            dtype="numeric",
            ensure_all_finite=False,
            ensure_min_samples=2 if reset else 1,
        )
        return checked

    def _outputs(self, X: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
        """Outputs (≤ BLOCK, K) of the rows of X, in order."""
        import torch

        for start in range(0, len(X), BLOCK):
            block = torch.from_numpy(_floats(X[start : start + BLOCK]))
            with torch.inference_mode():
                yield self.model_(block).numpy()


def _plain(value: Any) -> Any:
    """A number of NumPy's as Python's; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _sample(count: int, num_train: int | None, seed: int) -> NDArray[np.int64]:
    """Rows that are trained on, in ascending order: all, or `num_train` drawn by the seed."""
    if num_train is None or count <= num_train:
        return np.arange(count)
    drawn = np.random.default_rng([seed, SAMPLE_STREAM]).permutation(count)[:num_train]
    return np.sort(drawn).astype(np.int64)


def _views(views: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Views as an array (V, n, D); raises ValueError where they are not those of features of `shape` (n, D)."""
    array = np.asarray(from_tensor(views))
    if array.ndim != 3 or array.shape[1:] != shape:
        raise ValueError(
            f"views must have the shape (V, {shape[0]}, {shape[1]}), V of each row of X, got {array.shape}"
        )
    return array


def _floats(X: NDArray[Any]) -> NDArray[np.float32]:
    """A copy as float32; raises ValueError for NaN, infinity and what float32 cannot hold."""
    with np.errstate(over="ignore"):
        values = np.array(X, np.float32, order="C")
    if not np.isfinite(values).all():
        raise ValueError("Input X contains NaN or infinity.")
    return values
