"""The device: the one place that knows about accelerators."""

import functools
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from loguru import logger

from ssdh.core.distributed import current_rank
from ssdh.core.errors import ParameterError, SSDHError

if TYPE_CHECKING:
    import torch


# the last one: cuDNN's words where no algorithm finds its workspace
OUT_OF_MEMORY = re.compile(
    "out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|ALLOCATION_FAILED|unable to find an engine"
)
BFLOAT16_SINCE = (8, 0)  # compute capability


def check_device(name: str) -> None:
    """Raise ParameterError where the device is not there; imports torch only for cuda and mps."""
    if name not in ("auto", "cpu"):
        select_device(name)


def select_device(name: str) -> "torch.device":
    """Return the device of this rank: auto is CUDA where there is one, else the CPU.

    With several processes each takes the GPU of its local number. Raises ParameterError where the device is missing.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise ParameterError(
                f"runtime.device is {name!r}, but PyTorch finds no CUDA device here: set it to auto or cpu "
                "(params.yaml: runtime.device)"
            )
        rank = current_rank()
        index = int(number) if number and rank.count == 1 else rank.local
        if index >= torch.cuda.device_count():
            raise ParameterError(
                f"runtime.device asks for cuda:{index}, but there are {torch.cuda.device_count()} CUDA devices: use a "
                "lower number or fewer runtime.processes (params.yaml: runtime)"
            )
        torch.cuda.set_device(index)
        torch.set_float32_matmul_precision("highest")  # some images' environment asks for TF32
        return torch.device("cuda", index)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ParameterError(
            f"runtime.device is {name!r}, but PyTorch finds no such device here: set it to auto or cpu"
        )
    return torch.device(kind)


def check_precision(name: str, precisions: Iterable[str]) -> None:
    """Raise ParameterError, or warn, as `autocast` on the device called `name`; imports torch only for bf16."""
    if "bf16" in precisions:
        autocast(select_device(name), "bf16")


def device_name(device: "torch.device") -> str:
    """The device in words, for logs and a model's metadata: `cpu` or the card's name."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def to_device(tensor: "torch.Tensor", device: "torch.device | str") -> "torch.Tensor":
    """The tensor on the device; to a GPU through pinned memory, so that the copy waits for no kernel before it."""
    import torch

    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: "torch.Tensor") -> tuple["torch.Tensor", Callable[[], None]]:
    """Start the tensor's copy to memory; returns the copy and what waits until it is there.

    `.cpu()` would wait for every kernel that was started after the tensor's own.
    """
    import torch

    if not tensor.is_cuda:
        return tensor.cpu(), lambda: None
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record()
    return host, done.synchronize


def use_device(name: str, *, deterministic: bool) -> "torch.device":
    """The device of this rank, as `select_device`, and its kernels, as `make_deterministic`."""
    device = select_device(name)
    make_deterministic(device, deterministic)
    return device


def make_deterministic(device: "torch.device", deterministic: bool) -> None:
    """Let CUDA use only kernels that give the same bits every time (`runtime.deterministic`); the CPU always does.

    Operations without such a kernel warn. Fused attention is off: its gradient is not deterministic even then.
    """
    import torch

    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # (nothing reads it)
    for enable in ("enable_flash_sdp", "enable_mem_efficient_sdp", "enable_cudnn_sdp"):
        getattr(torch.backends.cuda, enable)(not deterministic)


def autocast(device: "torch.device", precision: str) -> AbstractContextManager[Any]:
    """The context of a forward pass in `precision`, fp32 or bf16.

    Raises ParameterError where a card is older than bfloat16 (compute capability 8.0); warns once where a processor has
    no instructions for it.
    """
    import torch

    if precision != "bf16":
        return nullcontext()
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < BFLOAT16_SINCE:
        raise ParameterError(
            f"precision is bf16, but {device_name(device)} does not compute in bfloat16: set it to fp32 "
            "(params.yaml: backbone.precision, train.precision)"
        )
    if device.type == "cpu" and not has_bfloat16():
        _warn_of_slow_bfloat16()
    return torch.autocast(device.type, torch.bfloat16)


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16, as PyTorch uses it: AVX-512 BF16, or Arm's BF16."""
    import torch

    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_avx512_bf16_supported()
    mkldnn: Any = torch.backends.mkldnn
    return bool(mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache
def _warn_of_slow_bfloat16() -> None:
    logger.warning(
        "precision is bf16, but this processor has no bfloat16 instructions: it takes several times as long as fp32 "
        "(params.yaml: backbone.precision, train.precision; a trained model keeps its own)"
    )


def device_key(device: "torch.device", deterministic: bool) -> dict[str, Any]:
    """What a fingerprint says of PyTorch and the device: a run is never continued with kernels that round otherwise.

    Whether kernels are deterministic is a choice on CUDA alone.
    """
    import torch

    key = {"torch": torch.__version__, "device": device_name(device)}
    return key | {"deterministic": deterministic} if device.type == "cuda" else key


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch, or a library under it, ran out of memory, on a GPU or on the CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or OUT_OF_MEMORY.search(str(error)) is not None


@contextmanager
def memory_for(work: str, device: "torch.device", hint: str) -> Iterator[None]:
    """Turn running out of memory in the body into SSDHError: `out of memory on cuda:0 with <work>: <hint>`."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise SSDHError(f"out of memory on {device} with {work}: {hint}") from None
        raise


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use `count` CPU threads for the body (None: as many as before)."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
