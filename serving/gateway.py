"""One protected model behind its chain: admission, micro-batch, pipeline, store, and the answer."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import structlog
import torch
from prometheus_client import Histogram

from mantlet.errors import (
    MantletError,
    PluginError,
    RequestError,
    StoreError,
    VictimError,
    VictimTimeout,
)
from mantlet.types import Kind, Prediction, Query, Released
from serving.admission import Admission, Client
from serving.batching import Batcher
from serving.metrics import Metrics
from serving.pipeline import Outcome, Pipeline, Scores, end_of_refusal
from serving.settings import Queue
from serving.stores.base import Entry, Store

log = structlog.get_logger(__name__)
ATTEMPTS = 20
STANDINGS = 100_000
STAGES = ("predict", "score", "respond", "store")


@dataclass(frozen=True, slots=True)
class Job:
    """One request's rows: ``inputs`` (n, *shape) float32 of one client."""

    client: Client
    inputs: np.ndarray


class Gateway:
    """Answers requests for one model; everything that must be remembered is in the store."""

    def __init__(
        self,
        name: str,
        pipeline: Pipeline,
        store: Store,
        admission: Admission,
        *,
        queue: Queue,
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.pipeline = pipeline
        self.input = pipeline.victim.input
        self.store = store
        self.admission = admission
        self.queue = queue
        self._seen = _Observed(metrics, name, [d.name for d in pipeline.detectors])
        self._clock = clock
        self._retry_after = str(max(1, round(queue.retry_after_s)))
        self._folding = threading.Lock()
        self._denied_until: dict[str, float] = {}
        self._alarmed: dict[str, None] = {}
        self.batcher = Batcher(
            self._work,
            max_batch_rows=queue.max_batch_rows,
            max_queue_rows=queue.max_queue_rows,
            concurrency=pipeline.victim.concurrency,
            retry_after_s=queue.retry_after_s,
        )

    @property
    def version(self) -> str:
        """The victim's version, as the V2 protocol names it."""
        return self.pipeline.victim.version

    @property
    def output_name(self) -> str:
        """The name of the answer on the wire: the victim's own, so that its clients notice nothing."""
        return "label" if self.answer_kind is Kind.LABELS else self.pipeline.victim.output

    @property
    def answer_kind(self) -> Kind:
        """What is released."""
        return Kind.LABELS if self.pipeline.answer == "labels" else self.pipeline.victim.kind

    async def admit(self, client: Client) -> None:
        """Refuse the denied (403) and the too frequent (429), before the body is even decoded."""
        try:
            until = self._denied_until.get(client.id)
            if until is None:
                until = await asyncio.get_running_loop().run_in_executor(
                    None, self._standing, client.id
                )
            if until > self._clock():
                raise _denied()
            self.admission.enter(client)
        except StoreError as error:
            raise self._closed(error) from error

    def _standing(self, client: str) -> float:
        """When the client's refusal ends, from the store: a refusal survives a restart."""
        key = self._key(client)
        entry = self.store.load_many([key], self._clock())[key]
        until = end_of_refusal(entry.memory)
        if len(self._denied_until) >= STANDINGS:
            self._denied_until.clear()
        self._denied_until[client] = until
        return until

    async def answer(self, client: Client, inputs: np.ndarray) -> Released:
        """What may be released for (n, *shape) rows of a client; charges its budget once."""
        rows = len(inputs)
        try:
            charged_at = self.admission.charge(client, rows)
        except StoreError as error:
            raise self._closed(error) from error
        deadline = asyncio.get_running_loop().time() + self.queue.deadline_s
        self._seen.rows.inc(rows)
        try:
            return await self.batcher.submit(Job(client, inputs), rows, deadline)
        except RequestError as error:
            if error.status >= 500:
                self.admission.refund(client, rows, charged_at)
            raise
        except VictimTimeout as error:
            self.admission.refund(client, rows, charged_at)
            log.warning("victim_timeout", model=self.name, error=str(error))
            raise RequestError(
                504, "the model took too long; try again", reason="victim_timeout"
            ) from error
        except MantletError as error:
            self.admission.refund(client, rows, charged_at)
            raise self._closed(error) from error
        except Exception:
            self.admission.refund(client, rows, charged_at)
            raise

    def _closed(self, error: MantletError) -> RequestError:
        """Fail closed: the client learns that there is no answer, the log why."""
        log.error("failed_closed", model=self.name, kind=type(error).__name__, error=str(error))
        if isinstance(error, StoreError):
            self._seen.store_errors.inc()
        return RequestError(
            503,
            "no answer can be given now; try again later",
            reason=type(error).__name__,
            headers={"Retry-After": self._retry_after},
        )

    def _work(self, jobs: Sequence[Job]) -> list[Released | Exception]:
        """A micro-batch; where it fails it is halved, so that one client's rows close no other's answer.

        Nothing was remembered of a batch that failed, so its halves count once. What is slow to fail is
        not asked again: a victim that timed out, or one far away.
        """
        try:
            return self._answers(jobs)
        except (PluginError, VictimError) as error:
            far = isinstance(error, VictimTimeout) or self.pipeline.victim.concurrency > 1
            if far or len(jobs) == 1:
                return [error] * len(jobs)
        half = len(jobs) // 2
        return self._work(jobs[:half]) + self._work(jobs[half:])

    def _answers(self, jobs: Sequence[Job]) -> list[Released | Exception]:
        """A micro-batch, in a thread of the batcher: one forward pass, one fold, one answer a job."""
        sizes = [len(job.inputs) for job in jobs]
        inputs = jobs[0].inputs if len(jobs) == 1 else np.concatenate([job.inputs for job in jobs])
        clients = [
            job.client.id for job, size in zip(jobs, sizes, strict=True) for _ in range(size)
        ]
        query = Query(clients, torch.from_numpy(inputs), self._clock())
        stages = _Stages(self._seen.stages)
        prediction = self.pipeline.predict(query)
        stages.end("predict")
        scores = self.pipeline.score(query, prediction)
        stages.end("score")
        with self._folding:  # batches that ran side by side fold one after the other
            outcome = self._respond(query, prediction, scores, stages)
        self._seen.batch_rows.observe(len(clients))
        self._note(query, outcome)
        return _split(outcome, sizes)

    def _respond(
        self, query: Query, prediction: Prediction, scores: Scores, stages: "_Stages"
    ) -> Outcome:
        """Load, respond, store; after a lost race again, but never the victim."""
        clients = list(dict.fromkeys(query.clients))
        keys = [self._key(client) for client in clients]
        for _ in range(ATTEMPTS):
            entries = self.store.load_many(keys, query.at)
            memories = {c: entries[k].memory for c, k in zip(clients, keys, strict=True)}
            outcome = self.pipeline.respond(query, prediction, scores, memories)
            stages.end("respond")
            after = {
                k: Entry(entries[k].version, outcome.memories[c])
                for c, k in zip(clients, keys, strict=True)
            }
            lost = self.store.swap_many(after, query.at)
            stages.end("store")
            if not lost:
                return outcome
            self._seen.lost_races.inc()
        raise StoreError(f"lost the race for {len(lost)} clients {ATTEMPTS} times")

    def _key(self, client: str) -> str:
        return f"{self.name}/{client}"

    def _note(self, query: Query, outcome: Outcome) -> None:
        """Remember refusals for admission; tell metrics and log of new alarms."""
        for row in outcome.denied.nonzero()[0].tolist():
            client = query.clients[row]
            self._denied_until[client] = end_of_refusal(outcome.memories[client])
        for name, signal in outcome.signals.items():
            self._seen.suspicion[name].observe(float(signal.suspicion.numpy().max()))
            for row in signal.alarm.numpy().nonzero()[0].tolist():
                self._note_alarm(query.clients[row], name)

    def _note_alarm(self, client: str, detector: str) -> None:
        mark = f"{client}/{detector}"
        if mark in self._alarmed:
            return
        if len(self._alarmed) >= STANDINGS:
            self._alarmed.clear()
        self._alarmed[mark] = None
        self._seen.alarms[detector].inc()
        log.warning("alarm", model=self.name, client=client, detector=detector)

    def close(self) -> None:
        """Finish what is running and let the victim go."""
        self.batcher.close()
        self.pipeline.victim.close()


class _Observed:
    """The metrics of one model, found once: to look up a label costs more than to count."""

    def __init__(self, metrics: Metrics, model: str, detectors: Sequence[str]) -> None:
        self.rows = metrics.rows.labels(model)
        self.batch_rows = metrics.batch_rows.labels(model)
        self.store_errors = metrics.store_errors
        self.lost_races = metrics.lost_races
        self.stages = {stage: metrics.stage_s.labels(model, stage) for stage in STAGES}
        self.suspicion = {name: metrics.suspicion.labels(model, name) for name in detectors}
        self.alarms = {name: metrics.alarms.labels(model, name) for name in detectors}


class _Stages:
    """Observes how long each stage of a batch took."""

    def __init__(self, stages: Mapping[str, Histogram]) -> None:
        self._stages, self._since = stages, perf_counter()

    def end(self, stage: str) -> None:
        now = perf_counter()
        self._stages[stage].observe(now - self._since)
        self._since = now


def _denied() -> RequestError:
    return RequestError(403, "this client is denied for now; ask the operator", reason="denied")


def _split(outcome: Outcome, sizes: Sequence[int]) -> list[Released | Exception]:
    """Each job's rows; a job with a denied row gets nothing at all."""
    answers: list[Released | Exception] = []
    start = 0
    for size in sizes:
        answers.append(outcome.rows(start, start + size) or _denied())
        start += size
    return answers
