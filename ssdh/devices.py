"""Device, rank and launching: the one place that knows about accelerators and about several processes.

A process is a rank when a launcher (torchrun) says so in its environment; gloo on the CPU and NCCL on GPUs take the
same path. A stage that profits from several processes starts itself again through torchrun's own launcher:

    runtime.processes: 2            # or SSDH_NPROC=2, on one machine
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m stages.train
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from loguru import logger

from ssdh.errors import ParameterError, SSDHError
from ssdh.runs import LAUNCH_ID, finished_before, mark_finished, num_cores, outs_lock, work_folder

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

T = TypeVar("T")

# A rank that dies ends the others at once (the launcher stops them); one that hangs does so after COLLECTIVE. Where
# rank 0 alone has work, or waits for a lock, the others wait in a group of their own, with PATIENCE.
COLLECTIVE = timedelta(minutes=30)
PATIENCE = timedelta(days=7)

# the last one: cuDNN's words where no algorithm finds its workspace
OUT_OF_MEMORY = re.compile(
    "out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|ALLOCATION_FAILED|unable to find an engine"
)
BFLOAT16_SINCE = (8, 0)  # compute capability


@dataclass(frozen=True)
class Rank:
    """This process among `count`, as the launcher numbered them; `local` numbers those of one machine.

    `patient`: the group in which ranks wait for rank 0; None outside `process_group`.
    """

    index: int = 0
    count: int = 1
    local: int = 0
    patient: "ProcessGroup | None" = field(default=None, compare=False, repr=False)

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.index == 0


def current_rank() -> Rank:
    """The rank that the launcher's environment names; rank 0 of 1 without a launcher."""
    if "RANK" not in os.environ:
        return Rank()
    return Rank(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))


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


def describe(device: "torch.device") -> str:
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


def make_deterministic(device: "torch.device", wanted: bool) -> None:
    """Let CUDA use only kernels that give the same bits every time (`runtime.deterministic`); the CPU always does.

    Operations without such a kernel warn. Fused attention is off: its gradient is not deterministic even then.
    """
    import torch

    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = not wanted
    torch.backends.cudnn.deterministic = wanted
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # (nothing reads it)
    for enable in ("enable_flash_sdp", "enable_mem_efficient_sdp", "enable_cudnn_sdp"):
        getattr(torch.backends.cuda, enable)(not wanted)


def autocast(device: "torch.device", precision: str) -> AbstractContextManager[Any]:
    """The context of a forward pass in `precision`, fp32 or bf16.

    Raises ParameterError where a card is older than bfloat16 (compute capability 8.0).
    """
    import torch

    if precision != "bf16":
        return nullcontext()
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < BFLOAT16_SINCE:
        raise ParameterError(
            f"precision is bf16, but {describe(device)} does not compute in bfloat16: set it to fp32 "
            "(params.yaml: backbone.precision, train.precision)"
        )
    return torch.autocast(device.type, torch.bfloat16)


def device_key(device: "torch.device", deterministic: bool) -> dict[str, Any]:
    """What a fingerprint says of PyTorch and the device: a run is never continued with kernels that round otherwise.

    Whether kernels are deterministic is a choice on CUDA alone.
    """
    import torch

    key = {"torch": torch.__version__, "device": describe(device)}
    return key | {"deterministic": deterministic} if device.type == "cuda" else key


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch, or a library under it, ran out of memory, on a GPU or on the CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or OUT_OF_MEMORY.search(str(error)) is not None


@contextmanager
def memory_for(work: str, device: "torch.device", way_out: str) -> Iterator[None]:
    """Turn running out of memory in the body into one line: `out of memory on cuda:0 with <work>: <way out>`."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise SSDHError(f"out of memory on {device} with {work}: {way_out}") from None
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


def barrier(rank: Rank) -> None:
    """Wait until every rank is here, however long rank 0 takes; nothing to wait for with one."""
    if rank.count > 1:
        import torch.distributed

        torch.distributed.barrier(rank.patient)


@contextmanager
def process_group(device: "torch.device") -> Iterator[Rank]:
    """Join the ranks of this run (gloo on the CPU, NCCL on GPUs) for the body; one process joins nothing.

    After an error nothing is taken down in good order, which NCCL would wait for: the process ends, then the launcher
    ends the others.
    """
    rank = current_rank()
    if rank.count == 1:
        yield rank
        return
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=COLLECTIVE)
    patient = cast("ProcessGroup", dist.new_group(backend="gloo", timeout=PATIENCE))
    yield replace(rank, patient=patient)
    dist.destroy_process_group()


def wanted_processes(processes: int | None) -> int:
    """The number of processes to start: `runtime.processes`, else `$SSDH_NPROC`, else 1."""
    if processes is not None:
        return processes
    text = os.environ.get("SSDH_NPROC", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ParameterError(f"SSDH_NPROC must be a positive integer, got {text!r} (environment)")
    return int(text)


def relaunch(module: str, processes: int | None) -> bool:
    """Run `python -m module` on several local processes through torchrun's launcher; False where one is enough.

    A process that is a rank already (started here or by torchrun) goes on itself. Raises SSDHError when a rank fails;
    its own line is on stderr.
    """
    if "RANK" in os.environ or (count := wanted_processes(processes)) == 1:
        return False
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // count)))
    logger.info("{}: {} processes, {} threads each", module, count, os.environ["OMP_NUM_THREADS"])
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=f"{LAUNCH_ID}{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise SSDHError(
            f"rank {rank} of {count} ended with exit code {failure.exitcode}: its own line is above"
        ) from None
    return True


def broadcast(value: T, rank: Rank) -> T:
    """Rank 0's value, on every rank, however long rank 0 takes to have it."""
    if rank.count == 1:
        return value
    import torch.distributed as dist

    box = [value if rank.first else None]
    dist.broadcast_object_list(box, src=0, group=rank.patient)
    return cast("T", box[0])


@contextmanager
def shared_work(rank: Rank, make_key: Callable[[], str], outs: Sequence[Path]) -> Iterator[Path | None]:
    """Give every rank the folder of this resumable work; None where a run that we waited for has put the outs in place.

    Rank 0 holds the locks of the work and of its outs; the folder goes when the body has ended on every rank.
    """
    if not rank.first:
        yield broadcast(None, rank)
        barrier(rank)
        return
    key = make_key()
    with work_folder(key) as folder, outs_lock(outs):
        finished = finished_before(key, outs)
        if finished:
            logger.info("another process has finished this work: {} in place", ", ".join(map(str, outs)))
        yield broadcast(None if finished else folder, rank)
        barrier(rank)
        mark_finished(key, outs)


# --- a batch shared out over the ranks ------------------------------------------------------------------------------


def share(size: int, rank: Rank) -> slice:
    """The rows of a batch of `size` that are this rank's: ⌈size/ranks⌉ each, the last ranks fewer or none."""
    each = -(-size // rank.count)
    return slice(min(size, rank.index * each), min(size, (rank.index + 1) * each))


def all_gather_rows(own: "torch.Tensor", size: int, rank: Rank) -> "torch.Tensor":
    """The rows of every rank's share, in order: own (≤ ⌈size/ranks⌉, K) to (size, K)."""
    if rank.count == 1:
        return own
    import torch
    import torch.distributed as dist

    each = -(-size // rank.count)
    padded = torch.cat([own, own.new_zeros(each - len(own), *own.shape[1:])])
    parts = [torch.empty_like(padded) for _ in range(rank.count)]
    dist.all_gather(parts, padded)
    return torch.cat(parts)[:size]


def all_reduce(tensors: "Sequence[torch.Tensor]", rank: Rank) -> None:
    """Sum each tensor over the ranks, in place."""
    if rank.count > 1:
        import torch.distributed as dist

        for tensor in tensors:
            dist.all_reduce(tensor)
