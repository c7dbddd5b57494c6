"""Work shared out over the cores in threads, each with one BLAS thread."""

import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from ssdh.runtime import num_cores, rank_cores

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


def on_cores(work: Callable[[U, int], T], items: Sequence[U]) -> list[T]:
    """`work(item, worker)` of every item, in their order; each core's worker, counted from 0, takes the next one.

    The caller waits for the workers, not for each item: waking it takes the interpreter lock from them. Items are taken
    in order; after an error no further one is, and the error of the first item that failed is raised.
    """
    results: list[Any] = [None] * len(items)
    errors: dict[int, Exception] = {}
    numbers = iter(range(len(items)))

    def run(worker: int) -> None:
        for number in numbers:
            try:
                results[number] = work(items[number], worker)
            except Exception as error:
                errors[number] = error
                _exhaust(numbers)

    workers = max(1, min(num_cores(), len(items)))
    with one_blas_thread(), ThreadPoolExecutor(workers) as pool:
        try:
            list(pool.map(run, range(workers)))
        except KeyboardInterrupt:
            _exhaust(numbers)
            raise
    if errors:
        raise errors[min(errors)]
    return results


def share_out(work: Callable[[slice], Any], size: int, parts: int) -> None:
    """`work(part)` of about equal parts that make up range(size), on this rank's cores; the caller's thread takes part.

    For work of about a millisecond, again and again: the threads are there already and sleep meanwhile, so they take no
    core from other processes, as BLAS's own do that wait by spinning. `parts` must not depend on the cores where digits
    depend on the parts.
    """
    bounds = [size * number // parts for number in range(parts + 1)]
    slices = iter([slice(*ends) for ends in itertools.pairwise(bounds)])

    def run() -> None:
        for part in slices:
            work(part)

    helpers = min(parts, rank_cores()) - 1
    others = [_helpers().submit(run) for _ in range(helpers)]
    try:
        run()
    finally:
        wait(others)  # nobody writes into the caller's arrays afterwards
    for other in others:
        other.result()


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(rank_cores(), "share_out")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.cache_clear)  # a child has none of these threads


def _exhaust(numbers: Iterator[int]) -> None:
    for _ in numbers:
        pass
