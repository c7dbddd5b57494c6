"""Training steps with `torch.compile`, beside the bare step without; the first pass holds the compilation."""

from collections.abc import Iterator

from benchmarks.card.options import Options, Row
from benchmarks.training import network
from ssdh.core.device import use_device


def rows(options: Options) -> Iterator[Row]:
    """One row for each batch size."""
    device = use_device(options.device, deterministic=True)
    for batch, steps in options.steps.items():
        yield network(options.trained, options.size, batch, device, "bf16", steps, 2, compile=True)
