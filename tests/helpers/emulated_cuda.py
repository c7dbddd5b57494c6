"""A CUDA device that there is not: tensors that say `cuda:0` and lie in memory, to run the GPU's code without a card.

As on a card, an operation on tensors of two devices fails, and so does looking at a tensor of the device by numpy.
Kernels are the CPU's, so that results must equal those of the CPU to the bit. What only a card can show (its kernels,
streams, NCCL, autocast) is not emulated. `python -m tests.helpers.emulated_cuda [--kill POINT] STAGE…` runs stages
in the working directory, to a point of `tests.helpers.killing` if one is given.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from tests.helpers import killing

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
BETWEEN_DEVICES = {"aten::_to_copy", "aten::copy_"}
WITH_CPU_INDICES = {"aten::index", "aten::index_put_", "aten::index_put"}  # a card takes indices from either


class DeviceError(RuntimeError):
    """What a card would refuse."""


class OnDevice(torch.Tensor):
    """A tensor whose values lie in `held`; PyTorch's own code takes it for a CPU tensor, Python code for a GPU's."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnDevice":
        """Same shape, strides and dtype as `held`."""
        tensor: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=CPU
        )
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on what is held."""
        return _run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors: list[torch.Tensor] = []
    tree_map(lambda item: tensors.append(item) if isinstance(item, torch.Tensor) else None, (args, kwargs))
    name = func._schema.name
    device = kwargs.get("device")
    there = [isinstance(tensor, OnDevice) for tensor in tensors]
    if any(there) and not all(there) and name not in BETWEEN_DEVICES | WITH_CPU_INDICES:
        strangers = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.ndim]
        if strangers:
            raise DeviceError(f"{func}: tensors on cuda:0 and on cpu, {[tuple(item.shape) for item in strangers]}")
    if device is not None:
        kwargs = kwargs | {"device": CPU, "pin_memory": None}
        on_device = torch.device(device).type == "cuda"
    else:
        on_device = there[0] if name == "aten::copy_" else any(there)
    plain_args, plain_kwargs = tree_map(lambda item: getattr(item, "held", item), (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    known = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, OnDevice)}  # written in place

    def back(item: Any) -> Any:
        return known.get(id(item)) or OnDevice(item) if isinstance(item, torch.Tensor) and on_device else item

    return tree_map(lambda item: known[id(item)] if id(item) in known else back(item), result)


class _Dispatch(TorchDispatchMode):
    """For operations without a tensor of the device: factories, copies to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Function(TorchFunctionMode):
    """What PyTorch would decide by the device it takes these tensors to be on."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cpu:
            return _moved(args[0], CPU)
        if func is torch.Tensor.to:
            rest = {key: value for key, value in kwargs.items() if key != "copy"}
            device, dtype, _, memory_format = torch._C._nn._parse_to(*args[1:], **rest)
            return _moved(args[0], device or args[0].device, dtype, memory_format)
        if func is torch.tensor and kwargs.get("device") is not None:
            return _moved(func(*args, **kwargs | {"device": CPU}), torch.device(kwargs["device"]))
        if func is torch.Tensor.tolist and isinstance(args[0], OnDevice):
            return _moved(args[0], CPU).tolist()
        if func is torch.Tensor.numpy and isinstance(args[0], OnDevice):
            raise DeviceError("numpy cannot look at a tensor on cuda:0: .cpu() first")
        return func(*args, **kwargs)


def _moved(tensor: torch.Tensor, device: torch.device, dtype: Any = None, memory_format: Any = None) -> torch.Tensor:
    there = isinstance(tensor, OnDevice) == (device.type == "cuda")
    laid_out = memory_format is None or tensor.is_contiguous(memory_format=memory_format)
    if there and dtype in (None, tensor.dtype) and laid_out:
        return tensor
    moved: torch.Tensor = torch.ops.aten._to_copy(tensor, device=device, dtype=dtype, memory_format=memory_format)
    return moved


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, OnDevice):
        raise DeviceError("only a CPU tensor can be pinned")
    return tensor.clone()


def _module_to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """`Module.to`, which on a card keeps the parameters' objects; here they are new ones where anything changes."""
    device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        floating = dtype if tensor.is_floating_point() else None
        return _moved(tensor, device or tensor.device, floating, memory_format if tensor.ndim == 4 else None)

    tensors = [*module.parameters(), *module.buffers()]
    return module if all(moved(tensor) is tensor for tensor in tensors) else module._apply(moved)


def _save(save: Callable[..., Any], item: Any, *args: Any) -> None:
    """`torch.save`, which writes a card's tensors as it does the CPU's."""
    save(tree_map(lambda value: getattr(value, "held", value), item), *args)


def _load(load: Callable[..., Any], *args: Any, map_location: Any = None, **kwargs: Any) -> Any:
    """`torch.load`, whose storages would be the card's."""
    loaded = load(*args, map_location=CPU, **kwargs)
    device = torch.device(map_location or CPU)
    return tree_map(lambda item: item.to(device) if isinstance(item, torch.Tensor) else item, loaded)


@contextmanager
def emulated_cuda() -> Iterator[None]:
    """Let PyTorch find one CUDA device for the body; for a process of its own."""
    card = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "is_bf16_supported": lambda including_emulation=True: True,
        "set_device": lambda index: None,
        "get_device_name": lambda device: "emulated",
        "get_device_capability": lambda device: (9, 0),
        "Event": mock.MagicMock,
        "is_current_stream_capturing": lambda: False,
        "manual_seed_all": lambda seed: None,
        "synchronize": lambda device=None: None,
    }
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            mock.patch.multiple(torch.cuda, **card),
            mock.patch.object(nn.Module, "to", _module_to),
            mock.patch.object(torch.Tensor, "pin_memory", _pinned),  # in all threads, which a mode is not
            mock.patch.object(torch, "save", functools.partial(_save, torch.save)),
            mock.patch.object(torch, "load", functools.partial(_load, torch.load)),
            mock.patch("torch.accelerator.current_accelerator", return_value=None),
            mock.patch("torch.accelerator.is_available", return_value=False),
            _Function(),
            _Dispatch(),
        ):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def main(stages: list[str]) -> None:
    """Run stages of the working directory on the device."""
    point = None
    if stages[0] == "--kill":
        _, point, *stages = stages
    with emulated_cuda():
        killing.run(Path.cwd(), Path(os.environ["SSDH_HOME"]), stages, point)


if __name__ == "__main__":
    main(sys.argv[1:])
