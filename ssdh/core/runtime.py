"""`runtime` of `params.yaml`: how the work is done."""

import functools
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator
from threadpoolctl import ThreadpoolController

from ssdh.core.launcher import is_launched, launcher_number
from ssdh.core.params import Params


class RuntimeParams(Params):
    """How the work is done: results are the same for any number of workers; another device agrees to rounding.

    So does another number of training processes.
    """

    device: str
    workers: int | None = Field(ge=0, le=256)
    processes: int | None = Field(ge=1, le=4096)
    deterministic: bool
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"]

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", device):
            raise ValueError("must be auto, cpu, cuda, cuda:N (a card's number) or mps")
        return device

    @property
    def num_workers(self) -> int:
        """`workers`; null: one for each CPU core of this rank; 0 works in the process."""
        if self.workers is not None:
            return self.workers
        return rank_cores()


def rank_cores() -> int:
    """CPU cores for this training process: those that there are, shared out over the ranks of this machine."""
    local = launcher_number("LOCAL_WORLD_SIZE", least=1) if is_launched() and "LOCAL_WORLD_SIZE" in os.environ else 1
    return max(1, num_cores() // local)


def num_cores() -> int:
    """CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


T = TypeVar("T")
U = TypeVar("U")
BRING_BLAS = {"numpy", "scipy.linalg", "faiss", "torch"}  # packages with a BLAS of their own, once they are imported


@functools.cache
def _blas(loaded: frozenset[str]) -> Any:
    """The BLAS libraries of these packages, all that are loaded."""
    return ThreadpoolController().select(user_api="blas")  # looking for the libraries takes longer than a pass


def one_blas_thread() -> AbstractContextManager[Any]:
    """Meanwhile each matrix product runs in the thread that asks for it.

    So no digit depends on the number of cores, and BLAS's own threads, which wait for more work by spinning, take no
    core from the threads of `on_cores`. It holds for the whole process: for one caller at a time.
    """
    limit: AbstractContextManager[Any] = _blas(frozenset(BRING_BLAS & sys.modules.keys())).limit(limits=1)
    return limit


def on_cores(work: Callable[[U], T], items: Iterable[U]) -> list[T]:
    """`work(item)` of every item, in their order, one on each core.

    Items are taken in order; once one has failed no further one is taken, and the error of the first that failed is
    raised.
    """
    with one_blas_thread(), ThreadPoolExecutor(num_cores()) as pool:
        return list(pool.map(work, items))


def share_out(work: Callable[[slice], Any], size: int, parts: int) -> None:
    """`work(part)` of about equal parts that make up range(size), on this rank's cores; the caller's thread takes part.

    For work of milliseconds, again and again: the threads are there already and sleep meanwhile, so they take no core
    from other processes, as BLAS's own do that wait by spinning. BLAS and PyTorch must be set to one thread before the
    first call. `parts` must not depend on the cores where digits depend on the parts. After an error no further part is
    taken, and one that was raised is raised here when nothing of `work` runs any more.
    """
    bounds = [size * number // parts for number in range(parts + 1)]
    slices = iter([slice(*ends) for ends in itertools.pairwise(bounds)])

    def run() -> None:
        try:
            for part in slices:
                work(part)
        except BaseException:
            _exhaust(slices)
            raise

    helpers: list[Future[None]] = []
    try:
        for _ in range(min(parts, rank_cores()) - 1):
            helpers.append(_pool().submit(run))
        run()
    finally:
        started = [helper for helper in helpers if not helper.cancel()]  # for the others nothing is left to do
        wait(started)
    for helper in started:
        helper.result()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, rank_cores() - 1), "share_out")  # the caller works on the last core


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of these threads


def _exhaust(items: Iterator[Any]) -> None:
    for _ in items:
        pass
