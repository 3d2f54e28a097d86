"""The micro-batcher, held still by events in place of clocks: no test waits for a time."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from mantlet.errors import RequestError
from serving.batching import Batcher

LATER = 3600.0


class Work:
    """Answers each job with itself, once a test lets it; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.free = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)

    def __call__(self, jobs: Sequence[str]) -> list[str | Exception]:
        self.batches.append(list(jobs))
        self.begun.release()
        assert self.free.acquire(timeout=30)
        return [ValueError(job) if job.startswith("bad") else job for job in jobs]

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=30)


Story = Callable[[Batcher[str, str], Work], Coroutine[Any, Any, None]]


def play(story: Story, **settings: Any) -> Work:
    """Run a story with a batcher, and close it."""
    work = Work()

    async def run() -> None:
        limits = {"max_batch_rows": 8, "max_queue_rows": 20} | settings
        batcher: Batcher[str, str] = Batcher(work, **limits)
        try:
            async with asyncio.timeout(60):
                await story(batcher, work)
        finally:
            work.free.release(1000)
            await asyncio.to_thread(batcher.close)

    asyncio.run(run())
    return work


def ask(
    batcher: Batcher[str, str], tasks: asyncio.TaskGroup, job: str, rows: int = 1, **wait: float
) -> asyncio.Task[str]:
    deadline = asyncio.get_running_loop().time() + wait.get("within", LATER)
    return tasks.create_task(batcher.submit(job, rows, deadline))


async def settle() -> None:
    """Let tasks that were just created reach the queue."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_queued_while_a_batch_ran_becomes_the_next_one() -> None:
    async def story(batcher: Batcher[str, str], work: Work) -> None:
        async with asyncio.TaskGroup() as tasks:
            first = ask(batcher, tasks, "a")
            await work.has_begun()
            rest = [ask(batcher, tasks, job) for job in "bcde"]
            await settle()
            assert batcher.queued_rows == 4
            work.free.release(2)
        assert first.result() == "a"
        assert [task.result() for task in rest] == list("bcde")
        assert batcher.queued_rows == 0

    assert play(story).batches == [["a"], ["b", "c", "d", "e"]]


def test_a_lonely_job_starts_at_once_without_any_timer() -> None:
    async def story(batcher: Batcher[str, str], work: Work) -> None:
        for job in "abc":
            work.free.release()
            assert await batcher.submit(job, 1, LATER + asyncio.get_running_loop().time()) == job

    assert play(story).batches == [["a"], ["b"], ["c"]]


def test_a_batch_is_bounded_in_rows_and_keeps_the_order() -> None:
    async def story(batcher: Batcher[str, str], work: Work) -> None:
        async with asyncio.TaskGroup() as tasks:
            ask(batcher, tasks, "a")
            await work.has_begun()
            for job, rows in (("b", 5), ("c", 3), ("d", 1), ("e", 8)):
                ask(batcher, tasks, job, rows)
            await settle()
            work.free.release(9)

    assert play(story).batches == [["a"], ["b", "c"], ["d"], ["e"]]


def test_a_job_larger_than_a_batch_runs_alone() -> None:
    async def story(batcher: Batcher[str, str], work: Work) -> None:
        async with asyncio.TaskGroup() as tasks:
            ask(batcher, tasks, "a")
            await work.has_begun()
            for job, rows in (("b", 1), ("large", 15), ("c", 1)):
                ask(batcher, tasks, job, rows)
            await settle()
            work.free.release(9)

    assert play(story).batches == [["a"], ["b"], ["large"], ["c"]]


def test_jobs_beyond_the_queue_are_shed_at_once() -> None:
    async def story(batcher: Batcher[str, str], work: Work) -> None:
        async with asyncio.TaskGroup() as tasks:
            ask(batcher, tasks, "a")
            await work.has_begun()
            ask(batcher, tasks, "b", 18)
            await settle()
            with pytest.raises(RequestError, match="18 rows are waiting already") as caught:
                await batcher.submit("c", 3, LATER)
            fits = ask(batcher, tasks, "d", 2)
            work.free.release(9)
        assert (caught.value.status, caught.value.reason) == (503, "shed")
        assert caught.value.headers == {"Retry-After": "7"}
        assert fits.result() == "d"

    assert play(story, retry_after="7").batches == [["a"], ["b"], ["d"]]


def test_a_job_whose_deadline_passed_is_dropped_before_any_work() -> None:
    async def story(batcher: Batcher[str, str], work: Work) -> None:
        async with asyncio.TaskGroup() as tasks:
            ask(batcher, tasks, "a")
            await work.has_begun()
            late = asyncio.ensure_future(batcher.submit("late", 1, 0.0))
            ask(batcher, tasks, "b")
            await settle()
            work.free.release(9)
            with pytest.raises(RequestError, match="the deadline passed") as caught:
                await late
        assert (caught.value.status, caught.value.reason) == (503, "expired")
        assert batcher.queued_rows == 0

    assert play(story).batches == [["a"], ["b"]]


def test_a_deadline_that_passes_in_the_middle_of_work_has_a_reason_of_its_own() -> None:
    async def story(batcher: Batcher[str, str], work: Work) -> None:
        deadline = asyncio.get_running_loop().time() + 0.05
        late = asyncio.ensure_future(batcher.submit("late", 1, deadline))
        await work.has_begun()
        with pytest.raises(RequestError, match="passed while it was answered") as caught:
            await late
        work.free.release(9)
        assert (caught.value.status, caught.value.reason) == (503, "late")

    assert play(story).batches == [["late"]]


def test_a_queue_of_nothing_but_late_jobs_stalls_nothing() -> None:
    async def story(batcher: Batcher[str, str], work: Work) -> None:
        work.free.release(9)
        for _ in range(2):
            with pytest.raises(RequestError, match="the deadline passed"):
                await batcher.submit("late", 1, 0.0)
        assert await batcher.submit("b", 1, asyncio.get_running_loop().time() + LATER) == "b"

    assert play(story).batches == [["b"]]


def test_a_client_that_left_costs_no_work_and_harms_nobody() -> None:
    async def story(batcher: Batcher[str, str], work: Work) -> None:
        async with asyncio.TaskGroup() as tasks:
            running = ask(batcher, tasks, "a")
            await work.has_begun()
            waiting, other = ask(batcher, tasks, "b"), ask(batcher, tasks, "c")
            await settle()
            waiting.cancel()
            running.cancel()
            await settle()
            work.free.release(9)
        assert other.result() == "c"
        assert batcher.queued_rows == 0

    assert play(story).batches == [["a"], ["c"]]


def test_an_exception_for_one_job_is_its_alone() -> None:
    async def story(batcher: Batcher[str, str], work: Work) -> None:
        async with asyncio.TaskGroup() as tasks:
            ask(batcher, tasks, "a")
            await work.has_begun()
            bad = asyncio.ensure_future(batcher.submit("bad", 1, LATER + 1e9))
            good = ask(batcher, tasks, "good")
            await settle()
            work.free.release(9)
            with pytest.raises(ValueError, match="bad"):
                await bad
        assert good.result() == "good"

    assert play(story).batches == [["a"], ["bad", "good"]]


@pytest.mark.parametrize("raised", [KeyError("broken"), SystemExit(3)])
def test_work_that_raises_fails_the_batch_and_not_the_batcher(raised: BaseException) -> None:
    calls: list[int] = []

    def work(jobs: Sequence[str]) -> list[str | Exception]:
        calls.append(len(jobs))
        if len(calls) == 1:
            raise raised
        return list(jobs)

    async def run() -> list[str | BaseException]:
        batcher: Batcher[str, str] = Batcher(work, max_batch_rows=8, max_queue_rows=20)
        later = asyncio.get_running_loop().time() + LATER
        answers = [
            *(await asyncio.gather(batcher.submit("a", 1, later), return_exceptions=True)),
            await batcher.submit("b", 1, later),
        ]
        await asyncio.to_thread(batcher.close)
        return answers

    first, second = asyncio.run(run())

    assert isinstance(first, Exception)
    assert type(raised).__name__ in repr(first)
    assert second == "b"


def test_batches_run_side_by_side_only_as_far_as_allowed_and_where_they_take_long() -> None:
    """A batch that took long, as of a far upstream, makes room for a second one and not a third."""

    async def story(batcher: Batcher[str, str], work: Work) -> None:
        batcher._usual_s = 10.0  # as after a few slow batches
        async with asyncio.TaskGroup() as tasks:
            for job in "abc":
                ask(batcher, tasks, job)
            await work.has_begun()
            await work.has_begun()
            await settle()
            assert batcher.queued_rows == 1
            assert not work.begun.acquire(blocking=False)
            work.free.release(9)

    assert sorted(map(tuple, play(story, concurrency=2).batches)) == [("a",), ("b",), ("c",)]


def test_short_batches_wait_for_each_other() -> None:
    async def story(batcher: Batcher[str, str], work: Work) -> None:
        async with asyncio.TaskGroup() as tasks:
            for job in "abc":
                ask(batcher, tasks, job)
            await work.has_begun()
            await settle()
            assert batcher.queued_rows == 2
            work.free.release(9)

    assert play(story, concurrency=4).batches == [["a"], ["b", "c"]]


def test_slow_work_is_noticed() -> None:
    async def story(batcher: Batcher[str, str], work: Work) -> None:
        async with asyncio.TaskGroup() as tasks:
            ask(batcher, tasks, "a")
            await work.has_begun()
            await asyncio.sleep(0.05)
            work.free.release()
        assert batcher._usual_s >= 0.004

    play(story, concurrency=2)


def test_closing_waits_for_what_runs() -> None:
    work = Work()
    finished: list[str] = []

    async def run() -> None:
        batcher: Batcher[str, str] = Batcher(work, max_batch_rows=8, max_queue_rows=20)
        async with asyncio.TaskGroup() as tasks:
            answer = ask(batcher, tasks, "a")
            await work.has_begun()
            closing = asyncio.ensure_future(asyncio.to_thread(batcher.close))
            await settle()
            assert not closing.done()
            work.free.release()
            await closing
        finished.append(answer.result())
        assert not any(thread.is_alive() for thread in batcher._threads)

    asyncio.run(run())

    assert finished == ["a"]
