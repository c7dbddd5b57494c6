"""Texts to codes, where the images' network has a text tower: its vectors go through the same hash layer."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ssdh.core.errors import ParameterError
from ssdh.features.families.registry import find
from ssdh.hashing.codes import pack, sign_codes
from ssdh.hashing.model_file import load_hashnet, read_metadata, takes_embeddings
from ssdh.search.gallery import Encoded

EncodeTexts = Callable[[Sequence[str]], Encoded]


def reads_texts(metadata: dict[str, Any]) -> bool:
    """Whether a model's network has a text tower that shares the images' space: not where it was trained itself."""
    if takes_embeddings(metadata) or metadata["has_backbone"] or metadata.get("weights") == "random":
        return False
    family, network = find(str(metadata["arch"]))
    return family.has_texts(network)


def text_encoder(model_path: Path) -> EncodeTexts:
    """The function from texts to packed codes, outputs and vectors; ParameterError where the model reads none."""
    metadata = read_metadata(model_path)
    if not reads_texts(metadata):
        raise ParameterError(
            f"{model_path} reads no texts: that takes a frozen open_clip backbone with trained weights "
            "(params.yaml: backbone.arch)"
        )
    family, network = find(str(metadata["arch"]))
    vectors_of = family.texts(network, str(metadata["weights"]), str(metadata["weights_file"]))
    model = load_hashnet(model_path)

    def encode(texts: Sequence[str]) -> Encoded:
        vectors = vectors_of(texts)
        with torch.inference_mode():
            outputs = model(vectors).numpy()
        return Encoded(pack(sign_codes(outputs)), outputs, vectors.numpy())

    return encode


def texts_on_demand(model_path: Path) -> EncodeTexts | None:
    """`text_encoder`, whose tower is loaded with the first text; None where the model reads none."""
    opened = cache(text_encoder)
    return (lambda texts: opened(model_path)(texts)) if reads_texts(read_metadata(model_path)) else None
