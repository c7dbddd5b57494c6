"""Devices, ranks and shares, by the launcher's environment alone."""

import subprocess
import sys

import pytest
import torch
from loguru import logger

from ssdh.core import device
from ssdh.core.device import autocast, check_device, check_precision, device_key, memory_for, select_device
from ssdh.core.distributed import Rank, current_rank, process_group, relaunch, share, wanted_processes
from ssdh.core.errors import ParameterError, SSDHError


def test_rank_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_rank() == Rank(0, 1, 0)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert current_rank() == Rank(3, 8, 1)
    assert not current_rank().first


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 4, 7, 24])
def test_shares_cut_a_batch_without_rest(size: int, count: int) -> None:
    rows = list(range(size))
    parts = [rows[share(size, Rank(index, count))] for index in range(count)]
    assert [row for part in parts for row in part] == rows
    assert max(map(len, parts)) == -(-size // count)


def test_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_processes(None) == 1
    monkeypatch.setenv("SSDH_NPROC", "3")
    assert wanted_processes(None) == 3
    assert wanted_processes(2) == 2
    monkeypatch.setenv("SSDH_NPROC", "many")
    with pytest.raises(ParameterError, match="SSDH_NPROC must be a positive integer, got 'many'"):
        wanted_processes(None)


def test_a_rank_never_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    assert relaunch("stages.nothing", 4) is False


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert select_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ParameterError, match=f"runtime.device is '{name}', but PyTorch finds no CUDA device"):
            check_device(name)


def test_the_key_of_a_device_names_deterministic_kernels_on_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    assert device_key(torch.device("cpu"), True) == device_key(torch.device("cpu"), False)
    assert device_key(torch.device("cpu"), True) == {"torch": torch.__version__, "device": "cpu"}
    card = {"torch": torch.__version__, "device": "a card"}
    assert device_key(torch.device("cuda", 0), True) == card | {"deterministic": True}
    assert device_key(torch.device("cuda", 0), False) == card | {"deterministic": False}


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "FIND was unable to find an engine to execute this computation",
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to …",
    ],
)
def test_memory_that_ran_out_is_one_line(text: str) -> None:
    cpu = torch.device("cpu")
    with (
        pytest.raises(SSDHError, match=r"^out of memory on cpu with 3 images: take 2$"),
        memory_for("3 images", cpu, "take 2"),
    ):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="CUDNN_STATUS_BAD_PARAM"), memory_for("3 images", cpu, "take 2"):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM")


def test_an_old_card_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old Card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ParameterError, match=r"bf16, but Old Card does not .* set it to fp32 .*backbone\.precision"):
        autocast(card, "bf16")
    with autocast(card, "fp32"):
        assert not torch.is_autocast_enabled("cuda")
    with autocast(torch.device("cpu"), "bf16"):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")


def test_a_processor_without_bfloat16_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING", format="{message}")
    try:
        for capability, knows, lines in (("AVX512", True, 0), ("AVX512", False, 1), ("AVX2", True, 1)):
            monkeypatch.setattr(device.platform, "machine", lambda: "x86_64")
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
            monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda found=knows: found)
            device._warn_of_slow_bfloat16.cache_clear()
            said.clear()
            check_precision("cpu", ["fp32"])
            assert said == []
            for _ in range(2):
                check_precision("cpu", ["fp32", "bf16"])
            assert len(said) == lines
            assert all("this processor has no bfloat16 instructions" in line for line in said)
    finally:
        logger.remove(sink)
        device._warn_of_slow_bfloat16.cache_clear()


def test_deterministic_kernels() -> None:
    """Asked for in a process of their own: the settings are the process's."""
    code = """if True:
        import torch
        from ssdh.core.device import make_deterministic
        card = torch.device("cuda", 0)
        for deterministic in (True, False):
            make_deterministic(card, deterministic)
            fused = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
            print(torch.are_deterministic_algorithms_enabled(), *fused, torch.backends.cuda.cudnn_sdp_enabled(),
                  torch.backends.cuda.math_sdp_enabled(), torch.backends.cudnn.deterministic)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["True False False False True True", "False True True True True False"]


def test_an_error_takes_no_process_group_down(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in ("init_process_group", "new_group", "destroy_process_group"):
        monkeypatch.setattr(f"torch.distributed.{name}", lambda *_, name=name, **__: called.append(name))
    monkeypatch.setattr("ssdh.core.distributed._meet", lambda rank: torch.distributed.HashStore())
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SSDHError), process_group(torch.device("cpu")):
        raise SSDHError("broken")
    assert called == ["init_process_group", "new_group"]
    with process_group(torch.device("cpu")):
        pass
    assert called[2:] == ["init_process_group", "new_group", "destroy_process_group"]


def test_more_processes_than_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ParameterError, match="asks for cuda:2, but there are 2 CUDA devices"):
        select_device("auto")
