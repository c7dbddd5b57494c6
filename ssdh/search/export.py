"""A finished run as files that other software reads: codes, names, index, and the network as safetensors and ONNX.

    python -m ssdh export FOLDER

`model.onnx` is one network from image to code: input `images`, float32 (n, 3, size, size), any n; outputs `outputs`,
float32 (n, K) in (−1, 1), `codes`, uint8 (n, ⌈K/8⌉), packed as in `codes.npy`, and `features`, float32 (n, D), by which
a program re-ranks. What must happen to a picture before is in its metadata (`preprocessing`, as JSON). Of a run on
embeddings the input is `features` itself.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor, nn

from ssdh.core.errors import DataError, SSDHError
from ssdh.core.files import atomic_path, file_sha256
from ssdh.features.params import Preprocessing
from ssdh.hashing.codes import width
from ssdh.hashing.encoder import Encoder, load_encoder
from ssdh.hashing.model_file import load_hashnet, read_metadata, save_hashnet, takes_embeddings
from ssdh.hashing.network import HashNet
from ssdh.search.export_folder import ABOUT, FILES, announce, finish, open_folder
from ssdh.search.index import Index

Network = Encoder | HashNet  # from images; from embeddings
ONE_FILE_BYTES = 2_000_000_000  # protobuf holds no more: above it, weights lie beside the graph
OPSET, IR = 18, 8  # the oldest that torch's exporter writes, and that of its release (ONNX 1.13, onnxruntime 1.14)
TOLERANCE = 1e-4  # between the network's outputs here and in onnxruntime
INSTALL = "pip install -e '.[onnx]', or leave the file out with --no-onnx"


class ToCode(nn.Module):
    """What ONNX runs: images to relaxed codes, by their sign packed codes, and the features below the hash layer.

    Of embeddings, which are the features: to relaxed and packed codes.
    """

    places: Tensor

    def __init__(self, encoder: Network) -> None:
        super().__init__()
        self.model = _hashnet(encoder)
        bit = torch.arange(encoder.bits)
        places = torch.zeros(encoder.bits, width(encoder.bits))
        places[bit, bit // 8] = 2.0 ** (7 - bit % 8)  # the first bit of a byte is its highest
        self.register_buffer("places", places, persistent=False)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """inputs: (n, 3, size, size), normalised, or (n, D); returns float32 (n, K), uint8 (n, ⌈K/8⌉) and (n, D)."""
        features = self.model.features(inputs)
        outputs: Tensor = self.model(features)
        codes = (outputs >= 0).float() @ self.places  # (n, ⌈K/8⌉), whole numbers up to 255
        return (outputs, codes.to(torch.uint8), features)[: 3 if self.model.backbone is not None else 2]


def export(folder: Path, model_path: Path, index: Index, inputs: Tensor | None, *, onnx: bool = True) -> list[Path]:
    """Write everything into `folder` (made if need be) and return the files; files of an earlier export go.

    An index of fewer bits than the model has is one of the first bits of a nested code: the network is cut to them.
    inputs: a few preprocessed images (n, 3, size, size), or embeddings (n, D), on which ONNX is checked; without them,
    noise. Raises SSDHError where a package is missing or the exported network disagrees with the original, DataError
    where `folder` holds something else than an export.
    """
    earlier = open_folder(folder)
    encoder = load_network(model_path)
    metadata = {key: value for key, value in read_metadata(model_path).items() if key != "has_backbone"}
    nested = metadata.get("train", {}).get("nested", [])
    if index.bits in nested:
        encoder = _shortened(encoder, index.bits)
        shorter = metadata["train"] | {"nested": [bits for bits in nested if bits < index.bits]}
        metadata |= {"bits": index.bits, "train": shorter}
    if encoder.bits != index.bits:
        raise DataError(f"{model_path} has {encoder.bits} bits, the codes have {index.bits}: run `dvc repro`")
    if onnx:
        _need_onnx()
    announce(folder, earlier.union(FILES))
    index.save(folder)
    names = ("codes.npy", "index.faiss", "index.json", *(() if index.names is None else ("names.csv",)))
    files = [folder / name for name in names]
    # written whole, backbone included, so that it needs nothing else
    save_hashnet(folder / "model.safetensors", _hashnet(encoder), metadata)
    shutil.copymode(folder / "codes.npy", folder / "model.safetensors")  # safetensors writes for the owner alone
    files.append(folder / "model.safetensors")
    if onnx:
        files += write_onnx(folder / "model.onnx", encoder, metadata)
        check_onnx(folder / "model.onnx", encoder, torch.randn(2, *_shape(encoder)) if inputs is None else inputs)
    about = {
        "bits": encoder.bits,
        "images": len(index),
        "index": index.kind,
        **about_input(encoder),
        "sha256": {path.name: file_sha256(path) for path in files},
    }
    finish(folder, about, earlier)
    return [*files, folder / ABOUT]


def load_network(path: Path) -> Network:
    """The trained network from images, or from embeddings where it was trained on them."""
    return load_hashnet(path) if takes_embeddings(read_metadata(path)) else load_encoder(path)


def _shortened(network: Network, bits: int) -> Network:
    if isinstance(network, Encoder):
        return Encoder(network.model.shortened(bits), network.preprocessing)
    return network.shortened(bits)


def _hashnet(network: Network) -> HashNet:
    return network.model if isinstance(network, Encoder) else network


def _shape(network: Network) -> tuple[int, ...]:
    """The shape of one input."""
    if isinstance(network, Encoder):
        return (3, network.preprocessing.size, network.preprocessing.size)
    return (network.dim,)


def about_input(network: Network) -> dict[str, Any]:
    """What must be known of the input, as JSON values."""
    if isinstance(network, Encoder):
        return {"preprocessing": about_preprocessing(network.preprocessing)}
    return {"input": f"embeddings of {network.dim} values, as float32"}


def about_preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    """The preprocessing as JSON values, with each step in words."""
    return asdict(preprocessing) | {
        "channels": "RGB",
        "layout": "NCHW",
        "steps": [
            f"a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where no side falls below {preprocessing.resize} px",
            "turned upright by its EXIF orientation",
            "16-bit grey x 255 / 65535; grey of floats x 255 where none is above 1; rounded and clipped to 8 bits",
            "transparent parts over white; then RGB, without regard to colour profiles",
            f"short side to {preprocessing.resize} px (the long one rounds down), {preprocessing.interpolation}, "
            "antialiased, in 8 bits",
            f"centre crop of {preprocessing.size}x{preprocessing.size} px, offsets rounded half to even",
            "(x / 255 - mean) / std, by channel",
        ],
    }


def write_onnx(path: Path, encoder: Network, metadata: dict[str, Any]) -> list[Path]:
    """Write the network from input to code; returns the files: one, or two where the weights exceed 2 GB."""
    network = ToCode(encoder.cpu()).eval()
    of_images = isinstance(encoder, Encoder)
    external = sum(value.nbytes for value in network.state_dict().values()) > ONE_FILE_BYTES
    with torch.inference_mode():
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *_shape(encoder)),),
            input_names=["images" if of_images else "features"],
            output_names=["outputs", "codes", "features"] if of_images else ["outputs", "codes"],
            dynamic_shapes={"inputs": {0: torch.export.Dim("n", min=1)}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.ir_version = IR
    about = {"bits": encoder.bits, **about_input(encoder)} | {
        key: metadata[key] for key in ("arch", "layer", "weights") if key in metadata
    }
    for key, value in about.items():
        program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    taken = "Images (n, 3, size, size), preprocessed as the metadata says," if of_images else "Embeddings (n, D)"
    program.model.doc_string = f"{taken} to binary codes."
    if external:
        program.save(str(path), external_data=True)
        return [path, path.with_name(path.name + ".data")]
    with atomic_path(path) as temporary:
        program.save(str(temporary), external_data=False)
    return [path]


def check_onnx(path: Path, encoder: Network, inputs: Tensor) -> float:
    """The largest difference between outputs in onnxruntime and here, for several n; SSDHError above 1e-4.

    Features, which have no fixed range, are compared by their share of the largest one.
    """
    largest = 0.0
    for batch in (inputs, inputs[:1]):
        with torch.inference_mode():
            expected, expected_features = encoder(batch).numpy(), _hashnet(encoder).features(batch).numpy()
        outputs, codes, *features = run_onnx(path, batch.numpy())
        scale = max(float(np.abs(expected_features).max()), 1e-12)
        differences = [float(np.abs(result - expected_features).max()) / scale for result in features]
        largest = max(largest, float(np.abs(outputs - expected).max()), *differences)
        if not np.array_equal(codes, np.packbits(outputs >= 0, axis=1)):
            raise SSDHError(f"{path}: its codes are not the signs of its outputs: use another version of onnxruntime")
    if largest > TOLERANCE:
        raise SSDHError(f"{path}: outputs differ by {largest:.2g} from the network's, more than {TOLERANCE}")
    logger.info("{}: outputs as here to {:.1e}", path.name, largest)
    return largest


def run_onnx(path: Path, inputs: NDArray[np.float32]) -> Sequence[NDArray[Any]]:
    """Outputs (n, K), codes (n, ⌈K/8⌉) and, of images, features (n, D) that onnxruntime computes on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: Sequence[NDArray[Any]] = session.run(None, {session.get_inputs()[0].name: inputs})
    return result


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SSDHError(f"{error.name} is not installed: {INSTALL}") from None
