"""A network over blocks of images: outputs whose bits depend on the image alone.

A block always holds BLOCK rows when it is computed (one with fewer is padded), and no row's value depends on its place
in the block nor on the other rows: neither the number of processes, nor an interruption, nor what else is computed
changes a value.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssdh.core.device import autocast, memory_for, to_device, to_host
from ssdh.features.images import ImageSource
from ssdh.features.loader import eval_loader, normalise
from ssdh.features.params import Preprocessing

AHEAD = 2  # blocks on their way through the device while one is fetched
BLOCK = 64  # rows; part of the result's definition: another size may round differently
LESS_MEMORY = "set backbone.precision to bf16, a smaller images.size, or runtime.device to cpu"


def image_blocks(
    network: nn.Module,
    preprocessing: Preprocessing,
    source: ImageSource,
    device: torch.device,
    precision: str = "fp32",
    workers: int = 0,
) -> Callable[[NDArray[np.int64]], Iterator[NDArray[np.float32]]]:
    """What `compute_rows` asks for: the network's outputs of image rows, decoded by `workers` processes or threads."""

    def blocks_of(rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        pixels = eval_loader(
            source, preprocessing, rows=rows, batch_size=BLOCK, workers=workers, pinned=device.type == "cuda"
        )
        return run_network(network, pixels, device, precision, prepare=lambda batch: normalise(batch, preprocessing))

    return blocks_of


def run_network(
    network: nn.Module,
    batches: Iterable[Tensor],
    device: torch.device,
    precision: str = "fp32",
    prepare: Callable[[Tensor], Tensor] = lambda batch: batch,
) -> Iterator[NDArray[np.float32]]:
    """Outputs (n, D) float32 of each batch (n, …), n ≤ BLOCK; computed on BLOCK rows, in evaluation mode.

    `prepare` runs on the device. Batches are started AHEAD of the one that is fetched, so that a GPU waits neither for
    copies nor for what the caller does with an output.
    """
    with memory_for(f"blocks of {BLOCK} images", device, LESS_MEMORY):
        network = network.to(device).to(memory_format=torch.channels_last).eval()
    started: deque[Callable[[], NDArray[np.float32]]] = deque()
    for batch in batches:
        with memory_for(f"blocks of {BLOCK} images", device, LESS_MEMORY):
            output = _outputs(network, prepare(_moved(_padded(batch), device)), precision)
            started.append(_fetching(output, len(batch)))
        if len(started) > AHEAD:
            yield _fetched(started)
    while started:
        yield _fetched(started)


def _outputs(network: nn.Module, batch: Tensor, precision: str) -> Tensor:
    with torch.inference_mode(), autocast(batch.device, precision):
        outputs: Tensor = network(batch)
        return outputs.float()


def _padded(batch: Tensor) -> Tensor:
    """`batch` with zeros appended to BLOCK rows."""
    return batch if len(batch) == BLOCK else torch.cat([batch, batch.new_zeros(BLOCK - len(batch), *batch.shape[1:])])


def _moved(batch: Tensor, device: torch.device) -> Tensor:
    batch = to_device(batch, device)
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def _fetching(output: Tensor, rows: int) -> Callable[[], NDArray[np.float32]]:
    """Start the copy of the first `rows` to memory; returns what waits for it."""
    host, done = to_host(output)

    def finish() -> NDArray[np.float32]:
        done()
        values: NDArray[np.float32] = host[:rows].numpy()
        return values

    return finish


def _fetched(started: deque[Callable[[], NDArray[np.float32]]]) -> NDArray[np.float32]:
    return started.popleft()()
