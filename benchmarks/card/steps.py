"""A training step of the whole network beside the bare forward, backward and step; kernels deterministic or not."""

from collections.abc import Iterator

from benchmarks.card.options import Options, Row
from benchmarks.training import network
from ssdh.core.device import make_deterministic, use_device


def rows(options: Options) -> Iterator[Row]:
    """One row for each batch size, precision and kind of kernels."""
    device = use_device(options.device, deterministic=True)
    for batch, steps in options.steps.items():
        for precision in ("bf16", "fp32"):
            for deterministic in (True, False):
                make_deterministic(device, deterministic)
                result = network(options.trained, options.size, batch, device, precision, steps, 2)
                yield {"deterministic": deterministic} | result
