"""What runs from cached features, on the card and on the CPU: how equal the codes are, and the ratios."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.card.options import Options, Row
from benchmarks.card.workspace import Workspace, prepared
from benchmarks.common import best_seconds
from benchmarks.training import NOTHING as NO_STRUCTURE
from benchmarks.training import our_epoch, sample
from ssdh.core.device import use_device
from ssdh.core.files import read_array
from ssdh.hashing.codes import unpack
from ssdh.structure.pseudo_labels import PairLabels

Codes = NDArray[np.uint8]


def rows(options: Options) -> Iterator[Row]:
    """The hash layer by itself, then the whole way through the stages."""
    device = use_device(options.device, deterministic=True)
    workspace, _ = prepared(options)
    yield from _hash_layer(device, options)
    yield from _stages(workspace, options)


def _ratio(cpu: float, device: float) -> Row:
    return {"cpu_seconds": cpu, "device_seconds": device, "times_as_fast": cpu / device}


def _hash_layer(device: torch.device, options: Options) -> Iterator[Row]:
    """An epoch of batches on the CPU's cores and on the device, from the same features and labels."""
    for dim in (512,) if options.small else (512, 4096):
        values, matrix = sample(dim)
        for batch in (256,) if options.small else (24, 256):
            epochs = {
                place: our_epoch(values, PairLabels(values, NO_STRUCTURE, matrix), batch, on)
                for place, on in (("cpu", torch.device("cpu")), ("device", device))
            }
            losses = {place: np.array(epoch()) for place, epoch in epochs.items()}
            seconds = best_seconds(epochs, 3)
            yield {
                "what": "hash layer, an epoch",
                "dimensions": dim,
                "batch": batch,
                "steps_s_cpu": len(losses["cpu"]) / seconds["cpu"],
                "steps_s_device": len(losses["cpu"]) / seconds["device"],
                "loss_difference": float(np.abs(losses["cpu"] - losses["device"]).max()),
                **_ratio(seconds["cpu"], seconds["device"]),
            }


def _stages(workspace: Workspace, options: Options) -> Iterator[Row]:
    """structure, train (the hash layer) and encode of both recipes, as processes, on the CPU and on the device."""
    for recipe in ("published", "manifold_views"):
        workspace.set(recipe=recipe, bits=64, train__finetune=None, train__epochs=None, train__precision=None)
        workspace.run("views")
        result: dict[str, tuple[bytes, Codes, dict[str, float]]] = {}
        for place, where in (("cpu", "cpu"), ("device", options.device)):
            run = workspace.copy(options.work / f"cached-{recipe}-{place}")
            run.set(runtime__device=where)
            started = time.perf_counter()
            seconds = run.run("structure", "train", "encode")
            seconds["all"] = time.perf_counter() - started
            labels = (run.folder / "features/pseudo_labels.npy").read_bytes()
            result[place] = (labels, read_array(run.folder / "models/codes.npy"), seconds)
        codes = [unpack(result[place][1], 64) for place in ("cpu", "device")]
        yield {
            "what": "stages, hash layer on cached features",
            "recipe": recipe,
            "same_labels": result["cpu"][0] == result["device"][0],
            "share_of_equal_bits": float((codes[0] == codes[1]).mean()),
            "seconds_cpu": result["cpu"][2],
            "seconds_device": result["device"][2],
        }
