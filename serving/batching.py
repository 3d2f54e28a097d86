"""The micro-batcher: whatever queued while the last batch ran becomes the next one. No timer."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, TypeVar

from mantlet.errors import RequestError

J = TypeVar("J")
A = TypeVar("A")
LATE = "late"
"""Why a request is refused whose deadline passed after work on it had begun."""
LONG_S = 0.01
CLOSE_S = 3.0


@dataclass(slots=True)
class _Waiting(Generic[J, A]):
    job: J
    rows: int
    deadline: float
    answer: "asyncio.Future[A]" = field(repr=False)
    begun: bool = False


@dataclass(frozen=True, slots=True)
class _Batch(Generic[J, A]):
    jobs: Sequence[_Waiting[J, A]]
    loop: asyncio.AbstractEventLoop
    since: float


class Batcher(Generic[J, A]):
    """Runs ``work`` on batches of jobs in threads of its own, at most ``concurrency`` at once.

    A second batch starts beside a running one only where batches take over `LONG_S` (an upstream far
    away): short ones are better waited for, since what queues meanwhile shares the next.

    ``work`` maps a sequence of jobs to an answer, or an exception, for each. A job whose deadline
    has passed is dropped before any work is done for it. The queue is bounded in rows; beyond that
    jobs are refused at once. A deadline is a time of the running loop, in seconds.
    """

    def __init__(
        self,
        work: Callable[[Sequence[J]], Sequence[A | Exception]],
        *,
        max_batch_rows: int,
        max_queue_rows: int,
        concurrency: int = 1,
        retry_after: str = "1",
    ) -> None:
        self._work = work
        self._max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._concurrency = concurrency
        self._running = 0
        self._usual_s = 0.0  # how long a batch takes, smoothed
        self._retry_after = retry_after
        self._batches: SimpleQueue[_Batch[J, A] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work_on_batches, name=f"batch-{number}", daemon=True)
            for number in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()
        self._queue: deque[_Waiting[J, A]] = deque()
        self.queued_rows = 0

    async def submit(self, job: J, rows: int, deadline: float) -> A:
        """The answer to a job of ``rows`` rows; raises what ``work`` gave, or a 503 when it is too late."""
        if self.queued_rows + rows > self._max_queue_rows:
            raise self._overloaded("shed", f"{self.queued_rows} rows are waiting already")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(job, rows, deadline, loop.create_future())
        self._queue.append(waiting)
        self.queued_rows += rows
        self._start(loop)
        too_late = loop.call_at(deadline, self._expire, waiting)
        try:
            answer: A = await waiting.answer
        finally:
            too_late.cancel()
        return answer

    def _expire(self, waiting: _Waiting[J, A]) -> None:
        if waiting.answer.done():
            return
        if waiting.begun:
            error = self._overloaded(LATE, "the deadline passed while it was answered")
        else:
            error = self._overloaded("expired", "the deadline passed while it waited")
        waiting.answer.set_exception(error)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._running >= min(self._concurrency, 1 + int(self._usual_s / LONG_S)):
            return
        now = loop.time()
        batch = self._take(now)
        if not batch:
            return
        self._running += 1
        self._batches.put(_Batch(batch, loop, now))

    def _work_on_batches(self) -> None:
        """A thread's life: a queue and a wake-up, which cost a third of an executor's futures."""
        while (batch := self._batches.get()) is not None:
            try:
                answers = self._work([waiting.job for waiting in batch.jobs])
            except Exception as error:  # handed to everybody who waits for this batch
                answers = [error] * len(batch.jobs)
            except (
                BaseException
            ) as error:  # a plug-in that calls exit() ends neither us nor the thread
                answers = [RuntimeError(f"{type(error).__name__} in a batch")] * len(batch.jobs)
            batch.loop.call_soon_threadsafe(self._finish, batch, answers)

    def _take(self, now: float) -> list[_Waiting[J, A]]:
        batch: list[_Waiting[J, A]] = []
        rows = 0
        while self._queue and (not batch or rows + self._queue[0].rows <= self._max_batch_rows):
            waiting = self._queue.popleft()
            self.queued_rows -= waiting.rows
            if waiting.deadline < now:
                self._expire(waiting)
            if waiting.answer.done():
                continue
            waiting.begun = True
            batch.append(waiting)
            rows += waiting.rows
        return batch

    def _finish(self, batch: "_Batch[J, A]", answers: Sequence[A | Exception]) -> None:
        self._running -= 1
        self._usual_s += 0.1 * (batch.loop.time() - batch.since - self._usual_s)
        self._start(batch.loop)
        for waiting, answer in zip(batch.jobs, answers, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)

    def _overloaded(self, reason: str, why: str) -> RequestError:
        return RequestError(
            503,
            f"the gateway is overloaded: {why}; try again later",
            reason=reason,
            headers={"Retry-After": self._retry_after},
        )

    def close(self) -> None:
        """Let go of the threads, after what they are doing; not of one that never ends."""
        for _ in self._threads:
            self._batches.put(None)
        for thread in self._threads:
            thread.join(CLOSE_S)
