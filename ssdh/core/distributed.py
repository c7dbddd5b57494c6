"""Several processes: ranks, launching, and a batch shared out over them; the one place that knows torch.distributed.

A process is a rank when a launcher (torchrun) says so in its environment; gloo on the CPU and NCCL on GPUs take the
same path. A stage that profits from several processes starts itself again through torchrun's own launcher:

    runtime.processes: 2            # or SSDH_NPROC=2, on one machine
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m stages.train
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from loguru import logger

from ssdh.core.errors import ParameterError, SSDHError
from ssdh.core.launcher import LAUNCHER, is_launched, launcher_number, threads_allowed
from ssdh.core.resume import work_folder
from ssdh.core.runtime import num_cores
from ssdh.core.stage import LAUNCH_ID

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup
    from torch.distributed.distributed_c10d import Store


T = TypeVar("T")

# A rank that dies ends the others at once (the launcher stops them); one that hangs does so after COLLECTIVE. Where
# rank 0 alone has work, or waits for a lock, the others wait in a group of their own, with PATIENCE.
COLLECTIVE = timedelta(minutes=30)
PATIENCE = timedelta(days=7)

# A launcher starts all ranks at once. One that waits longer for the others was most likely started without them, in a
# shell where an earlier launch left its variables.
JOIN = timedelta(minutes=2)
JOIN_SECONDS = 3.0  # of silence; then a rank says what it waits for


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
    """The rank that the launcher's environment names; rank 0 of 1 without a launcher.

    A launcher is recognised by RANK; other variables, such as those of SLURM and MPI, say nothing by themselves.
    Raises ParameterError where its variables are incomplete or no numbers.
    """
    if not is_launched():
        return Rank()
    count = launcher_number("WORLD_SIZE", least=1)
    return Rank(launcher_number("RANK", below=count), count, launcher_number("LOCAL_RANK", below=count))


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
    from torch.distributed.distributed_c10d import PrefixStore

    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = PrefixStore("ssdh", _meet(rank))
    dist.init_process_group(backend, store=store, rank=rank.index, world_size=rank.count, timeout=COLLECTIVE)
    patient = cast("ProcessGroup", dist.new_group(backend="gloo", timeout=PATIENCE))
    yield replace(rank, patient=patient)
    dist.destroy_process_group()


def _meet(rank: Rank) -> "Store":
    """Wait for the other ranks where the launcher says, saying so after JOIN_SECONDS, at most for JOIN.

    Raises SSDHError where they do not come, and ParameterError where the address is none.
    """
    from torch.distributed.rendezvous import rendezvous

    launcher_number("MASTER_PORT", least=1, below=2**16)
    address = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ['MASTER_PORT']}"
    if address.startswith(":"):
        raise ParameterError(f"MASTER_ADDR is not set, though RANK is: {LAUNCHER}")
    waiting = f"rank {rank.index} of {rank.count} waits for the others at {address}"
    patience = f"{JOIN.total_seconds() / 60:g} minutes"
    met: Future[Store] = Future()

    def meet() -> None:
        try:
            met.set_result(next(rendezvous("env://", timeout=JOIN))[0])
        except Exception as error:
            met.set_exception(error)

    # in a thread of its own: the call itself takes no interrupt, and tries for longer than it is told to
    threading.Thread(target=meet, name="meet", daemon=True).start()
    try:
        try:
            store = met.result(JOIN_SECONDS)
        except TimeoutError:
            logger.warning("{}, at most {}: {}", waiting, patience, LAUNCHER)
            store = met.result(JOIN.total_seconds())
    except (TimeoutError, RuntimeError, ValueError) as error:  # torch's own are RuntimeErrors
        reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
        raise SSDHError(f"{waiting} and gave up after at most {patience}{reason}: {LAUNCHER}") from None
    store.set_timeout(COLLECTIVE)
    return store


def wanted_processes(processes: int | None) -> int:
    """The number of processes to start: `runtime.processes`, else `$SSDH_NPROC`, else 1.

    Raises ParameterError where that is no positive integer.
    """
    if processes is not None:
        return processes
    text = os.environ.get("SSDH_NPROC", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ParameterError(f"SSDH_NPROC must be a positive integer, got {text!r} (environment)")
    return int(text)


def relaunch(module: str, processes: int | None, arguments: Sequence[str] = ()) -> bool:
    """Run `python -m module ARGUMENTS` on several local processes by torchrun's launcher; False where one is enough.

    A process that is a rank already (started here or by torchrun) goes on itself. Raises SSDHError when a rank fails;
    its own line is on stderr.
    """
    if is_launched() or (count := wanted_processes(processes)) == 1:
        return False
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if threads_allowed() is None:
        os.environ["OMP_NUM_THREADS"] = str(max(1, num_cores() // count))
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
        elastic_launch(config, sys.executable)("-m", module, *arguments)
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
def shared_work(rank: Rank, make_key: Callable[[], str]) -> Iterator[Path]:
    """Give every rank the folder of this resumable work (`work_folder` of the key, which rank 0 makes and locks).

    The folder goes when the body has ended on every rank.
    """
    if not rank.first:
        yield broadcast(Path(), rank)
        barrier(rank)
        return
    with work_folder(make_key()) as folder:
        yield broadcast(folder, rank)
        barrier(rank)


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
