"""A folder as a finished run leaves it, of a few generated photos and a small network with random weights."""

import hashlib
from pathlib import Path

import numpy as np
import torch
import yaml

from ssdh.core.files import write_array, write_csv, write_json
from ssdh.core.params import read_params
from ssdh.features.backbone import feature_size
from ssdh.features.images import open_images
from ssdh.features.loader import eval_loader, normalise
from ssdh.features.params import BackboneParams, ImageParams
from ssdh.hashing.codes import pack, sign_codes
from ssdh.hashing.encoder import load_encoder
from ssdh.hashing.model_file import describe_backbone, save_hashnet
from ssdh.hashing.network import centre, seeded_hashnet
from tests.helpers.galleries import disc

SIZE = 32


def finished_run(project: Path, folder: Path, *, count: int = 24, bits: int = 12, power: float = 0.0) -> Path:
    """Write what a run of data set `folder` leaves but for its metrics; photos lie in `<folder>/photos`."""
    params = read_params(project / "params.yaml")
    params |= {"dataset": "folder", "bits": bits}
    params["backbone"]["arch"] = "resnet18"
    params["datasets"]["folder"]["data"]["root"] = str(folder / "photos")
    params["datasets"]["folder"]["images"] |= {"size": SIZE, "resize": SIZE, "weights": "random"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))

    rows = []
    for row in range(count):
        path = folder / "photos" / f"day {row % 3}" / f"{row:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        disc(row, (300 + 10 * row, 200)).save(path, "JPEG", quality=92)
        name = path.relative_to(folder / "photos").as_posix()
        rows.append((row, name, hashlib.sha256(path.read_bytes()).hexdigest()))
    write_csv(folder / "data/images/manifest.csv", ("row", "path", "sha256"), rows)
    write_array(folder / "data/labels.npy", np.zeros((count, 0), np.uint8))
    write_json(folder / "metrics/data.json", {"dataset": "folder", "classes": []})

    backbone = BackboneParams(**params["backbone"])
    images = ImageParams(**params["datasets"]["folder"]["images"])
    model = seeded_hashnet(feature_size("resnet18", "penultimate", SIZE), bits, seed=1, power=power)
    metadata = describe_backbone(backbone, images) | {"bits": bits}
    save_hashnet(folder / "models/hashnet.safetensors", model, metadata)

    # as the stages do: features of blocks of images, a centre, the sign
    encoder = load_encoder(folder / "models/hashnet.safetensors")
    source = open_images(folder / "data/images", folder / "photos")
    with torch.inference_mode():
        blocks = eval_loader(source, encoder.preprocessing)
        features = torch.cat([encoder.model.features(normalise(block, encoder.preprocessing)) for block in blocks])
    centre(model, features.clone())
    save_hashnet(folder / "models/hashnet.safetensors", model, metadata)
    with torch.inference_mode():
        codes = pack(sign_codes(model(features).numpy()))
    write_array(folder / "models/codes.npy", codes)
    write_array(folder / "features/features.npy", features.numpy())
    return folder
