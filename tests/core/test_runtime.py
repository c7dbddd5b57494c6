"""Work shared out over the cores: everything once, the first error, nothing left running."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import ssdh.core.runtime
from ssdh.core.runtime import on_cores, share_out

LONG = 300  # seconds: what is not there then never comes


def test_the_error_of_the_first_bad_row_is_raised_and_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssdh.core.runtime, "num_cores", lambda: 4)
    done: list[int] = []
    ended = threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, *arguments: Any, **options: Any) -> None:
            ended.set()  # the caller has the error
            super().shutdown(*arguments, **options)

    def work(item: int) -> int:
        if item in (20, 21, 40):
            raise ValueError(str(item))
        if item > 40:
            ended.wait(LONG)
        done.append(item)
        return item

    monkeypatch.setattr(ssdh.core.runtime, "ThreadPoolExecutor", Pool)
    for _ in range(20):
        done.clear()
        ended.clear()
        with pytest.raises(ValueError, match=r"^20$"):
            on_cores(work, range(1000))
        assert len(done) <= 38 + 4  # those up to 40 but three, and one on each core
    assert on_cores(lambda item: item * 2, range(50)) == list(range(0, 100, 2))


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Sets how many cores there are; the threads of a test end with it."""

    def set_cores(count: int) -> None:
        monkeypatch.setattr(ssdh.core.runtime, "rank_cores", lambda: count)
        ssdh.core.runtime._pool.cache_clear()

    yield set_cores
    ssdh.core.runtime._pool.cache_clear()


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(("size", "parts"), [(10, 3), (3, 3), (2, 5), (0, 1)])
def test_parts_are_everything_once(size: int, parts: int, count: int, cores: Callable[[int], None]) -> None:
    cores(count)
    done: list[int] = []
    share_out(lambda part: done.extend(range(size)[part]), size, parts)
    assert sorted(done) == list(range(size))


@pytest.mark.parametrize("fails_here", [True, False])
def test_an_error_in_a_part_is_raised_when_nobody_works_any_more(
    fails_here: bool, cores: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cores(2)
    here, done, both, ended = threading.get_ident(), [], threading.Barrier(2), threading.Event()
    exhaust = ssdh.core.runtime._exhaust
    monkeypatch.setattr(ssdh.core.runtime, "_exhaust", lambda items: (exhaust(items), ended.set()))

    def work(part: slice) -> None:
        if part.start < 2:
            both.wait(LONG)  # so each thread has one
            if (threading.get_ident() == here) == fails_here:
                raise ValueError(str(part.start))
            ended.wait(LONG)
        done.append(part.start)

    with pytest.raises(ValueError, match=r"^[01]$"):
        share_out(work, 8, 8)
    assert len(done) == 1  # the part that had begun, to its end; none after it
    assert sorted(done) in ([0], [1])


def test_callers_inside_each_other_do_not_wait_for_threads_that_wait(cores: Callable[[int], None]) -> None:
    cores(2)
    done: list[tuple[slice, slice]] = []

    def outer(part: slice) -> None:
        share_out(lambda inner: share_out(lambda innermost: done.append((inner, innermost)), 2, 2), 2, 2)

    callers = [threading.Thread(target=share_out, args=(outer, 2, 2), daemon=True) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(LONG)
    assert not any(caller.is_alive() for caller in callers)
    assert len(done) == 4 * 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_shares_out_with_threads_of_its_own(cores: Callable[[int], None]) -> None:
    cores(2)
    share_out(lambda part: time.sleep(0.01), 4, 4)
    child = multiprocessing.get_context("fork").Process(target=share_out, args=(lambda part: time.sleep(0.01), 4, 4))
    child.start()
    child.join(LONG)
    ended = child.exitcode
    child.kill()
    assert ended == 0
