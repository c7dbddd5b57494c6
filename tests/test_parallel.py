"""Work shared out over the cores: everything once, the first error, nothing left running."""

import multiprocessing
import os
import threading
import time

import pytest

import ssdh.parallel
from ssdh.parallel import on_cores, share_out


def test_the_error_of_the_first_bad_row_is_raised_and_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssdh.parallel, "num_cores", lambda: 4)
    done = []

    def work(item: int, _: int) -> int:
        if item in (20, 21, 40):
            raise ValueError(str(item))
        done.append(item)
        time.sleep(0.0005)  # lets the thread with the error go on: else another may take thousands of items first
        return item

    for _ in range(20):
        with pytest.raises(ValueError, match=r"^20$"):
            on_cores(work, range(10_000))
    assert len(done) < 20 * 100
    assert on_cores(lambda item, _: item * 2, range(50)) == list(range(0, 100, 2))


@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize(("size", "parts"), [(10, 3), (3, 3), (2, 5), (0, 1)])
def test_parts_are_everything_once(size: int, parts: int, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssdh.parallel, "rank_cores", lambda: cores)
    done: list[int] = []
    share_out(lambda part: done.extend(range(size)[part]), size, parts)
    assert sorted(done) == list(range(size))


def test_an_error_in_a_part_is_raised_when_nobody_works_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssdh.parallel, "rank_cores", lambda: 2)
    here, done = threading.get_ident(), []
    for fails_here in (True, False):

        def work(part: slice, fails_here: bool = fails_here) -> None:
            time.sleep(0.01)
            if (threading.get_ident() == here) == fails_here:
                raise ValueError(str(part.start))
            done.append(part.start)

        with pytest.raises(ValueError, match=r"^\d$"):
            share_out(work, 8, 8)
        finished = len(done)
        time.sleep(0.03)
        assert len(done) == finished


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_shares_out_with_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssdh.parallel, "rank_cores", lambda: 2)
    share_out(lambda part: time.sleep(0.01), 4, 4)
    child = multiprocessing.get_context("fork").Process(target=share_out, args=(lambda part: time.sleep(0.01), 4, 4))
    child.start()
    child.join(20)
    ended = child.exitcode
    child.kill()
    assert ended == 0
