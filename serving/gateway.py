"""One protected model behind its chain: admission, micro-batch, pipeline, store, and the answer."""

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

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
from mantlet.types import Kind, Prediction, Query, Released, Task
from serving import latents
from serving.admission import Admission, Client
from serving.batching import LATE, Batcher
from serving.events.log import EventLog
from serving.explaining import Explaining, Why
from serving.folding import CAMPAIGN, Memory, Scores
from serving.jobs import Job, in_groups, method_of, spans
from serving.metrics import Metrics
from serving.pipeline import Outcome, Pipeline
from serving.policy import ALLOWED, Level
from serving.reporting import Reporter
from serving.settings import Queue
from serving.standing import Standing, standing_of
from serving.stores.base import Entry, Store, key_of, remembered

log = structlog.get_logger(__name__)
A = TypeVar("A")
ATTEMPTS = 20
STANDINGS = 100_000
"""Clients whose standing is kept at hand."""
WITHHELD = "withheld"
"""Why a request is refused whose client's level has no explanations."""
RECHECK_S = 1.0
"""How long a refusal, or a level that is not the first, is believed before it is read anew."""
VERBS = {Task.CLASSIFY: "predict", Task.GENERATE: "generate", Task.TRANSLATE: "translate"}
"""What the V1 protocol asks a model with."""
STAGES = ("predict", "score", "respond", "store", "explain")


Explained = tuple[Released, Released]
"""The answer to rows, and what explains it."""


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
        events: EventLog,
    ) -> None:
        self.name = name
        self.pipeline = pipeline
        self.input = pipeline.victim.input
        self.store = store
        self.admission = admission
        self.queue = queue
        self._seen = _Observed(metrics, name, (*pipeline.fold.names, CAMPAIGN))
        self._clock = clock
        self._folding = threading.Lock()
        self._standings: dict[str, tuple[Standing, float]] = {}
        self._reporter = Reporter(name, pipeline, events, self._seen.alarms)
        self.batcher = Batcher(
            self._work,
            max_batch_rows=queue.max_batch_rows,
            max_queue_rows=queue.max_queue_rows,
            concurrency=pipeline.victim.concurrency,
            retry_after=queue.retry_after,
        )
        self._explainer = self._beside(pipeline.explaining) if pipeline.explaining else None
        # one queue keeps to the victim's concurrency by itself, two share it
        self._room: AbstractContextManager[Any] = nullcontext()
        if pipeline.explaining:
            self._room = threading.BoundedSemaphore(pipeline.victim.concurrency)

    def _beside(self, explaining: Explaining) -> Batcher[Job, Explained]:
        """A queue of their own for explanations, which take longer than answers.

        Their rows are predicted in turn with all others; what explains them runs beside predictions.
        """
        return Batcher(
            self._work_explained,
            max_batch_rows=explaining.settings.max_rows_per_request,
            max_queue_rows=self.queue.max_queue_rows,
            concurrency=self.pipeline.victim.concurrency,
            retry_after=self.queue.retry_after,
        )

    @property
    def queued_rows(self) -> int:
        """Rows that wait, for answers or explanations."""
        beside = self._explainer.queued_rows if self._explainer else 0
        return self.batcher.queued_rows + beside

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

    @property
    def task(self) -> Task:
        """What the model does."""
        return self.pipeline.victim.task

    def require(self, task: Task) -> None:
        """400 for a model that does something else than what it is asked for."""
        if task is not self.task:
            raise RequestError(
                400, f"this model is there to {self.task}: POST {self.name}:{VERBS[self.task]}"
            )

    def require_latents(self, client: Client) -> None:
        """403 for latents of a client's own where its level has none."""
        try:
            level = self._treated(client)
        except StoreError as error:
            raise self._closed(error) from error
        if not level.latents:
            raise RequestError(
                403, "latents are not taken here; send n and seed", reason="latents_closed"
            )

    def latents(self, client: Client, seed: int, rows: int) -> np.ndarray:
        """(rows, D) that a seed stands for, for this client."""
        return latents.draw(
            self.pipeline.secret,
            model=self.name,
            client=client.id,
            seed=seed,
            rows=rows,
            size=self.input.size,
        )

    async def admit(self, client: Client) -> None:
        """Refuse the denied (403) and the too frequent (429), before the body is even decoded."""
        try:
            now = self._clock()
            standing, known_at = self._standings.get(client.id, (None, now))
            # what is not the first level may have been lifted elsewhere, and a clock be set back
            if standing is None or (standing.punished and abs(now - known_at) > RECHECK_S):
                standing = await asyncio.get_running_loop().run_in_executor(
                    None, self._standing, client.id
                )
            if standing.denied_until > now and self._enforced(client):
                raise _denied()
            self.admission.enter(client, self._level(client, standing))
        except StoreError as error:
            raise self._closed(error) from error

    def _standing(self, client: str) -> Standing:
        """How a client stands, from the store: a refusal survives a restart."""
        return self._keep(client, standing_of(self.memory_of(client), self.pipeline))

    def _keep(self, client: str, standing: Standing) -> Standing:
        if len(self._standings) >= STANDINGS:
            self._standings.clear()
        self._standings[client] = standing, self._clock()
        return standing

    def _enforced(self, client: Client) -> bool:
        """Whether what the policy decides of a client is done."""
        return not self.pipeline.policy.shadow and client.judged_as != ALLOWED

    def _level(self, client: Client, standing: Standing) -> Level:
        """The level at which a client is treated."""
        policy = self.pipeline.policy
        if not self._enforced(client):
            return policy.levels[0]
        found = policy.index(standing.level) or 0
        # before its first row nothing is remembered of a client, and its tier is known
        return policy.levels[
            found if standing.override else max(found, policy.always(client.judged_as))
        ]

    def _treated(self, client: Client) -> Level:
        """The level of a client that was admitted; read anew where it is no longer at hand, which is rare."""
        known = self._standings.get(client.id)
        return self._level(client, known[0] if known else self._standing(client.id))

    async def answer(self, client: Client, inputs: np.ndarray) -> Released:
        """What may be released for (n, *shape) rows of a client; charges its budget once."""
        return await self._given(self.batcher, Job(client, inputs))

    @property
    def explaining(self) -> Explaining:
        """What can be asked about its answers; 404 for a model that explains nothing."""
        if self.pipeline.explaining is None:
            raise RequestError(
                404, f"model '{self.name}' gives no explanations", reason="no_explanations"
            )
        return self.pipeline.explaining

    async def explain(self, client: Client, inputs: np.ndarray, why: Why) -> Explained:
        """The answer to (n, *shape) rows and what explains it; charges the budgets of both once.

        A client whose level has no explanations gets 403, and pays nothing.
        """
        assert self._explainer is not None  # `explaining`, where ``why`` comes from, has refused
        return await self._given(self._explainer, Job(client, inputs, why))

    async def _given(self, batcher: Batcher[Job, A], job: Job) -> A:
        """What a batch gives a job, within the deadline; paid for where it was given."""
        client, rows = job.client, len(job.inputs)
        pixels = rows * math.prod(job.inputs.shape[2:]) if self.task is Task.TRANSLATE else 0
        explanations = rows if job.why else 0
        try:
            charged_at = self.admission.charge(client, rows, pixels, explanations)
        except StoreError as error:
            raise self._closed(error) from error
        refund = partial(self.admission.refund, client, rows, charged_at)
        deadline = asyncio.get_running_loop().time() + self.queue.deadline_s
        self._seen.rows.inc(rows)
        try:
            weight = max(rows, -(-pixels // self.queue.pixels_a_row))
            given = await batcher.submit(job, weight, deadline)
            delay_s = self._treated(client).delay_s
        except RequestError as error:
            if error.reason == LATE:  # or what is slow would hold the queue for nothing
                refund(explanations=0, pixels=0)
            elif error.status >= 500 or error.reason == WITHHELD:
                refund(explanations=explanations, pixels=pixels)
            raise
        except VictimTimeout as error:
            refund(explanations=explanations, pixels=pixels)
            log.warning("victim_timeout", model=self.name, error=str(error))
            raise RequestError(
                504, "the model took too long; try again", reason="victim_timeout"
            ) from error
        except MantletError as error:
            refund(explanations=explanations, pixels=pixels)
            raise self._closed(error) from error
        except Exception:
            refund(explanations=explanations, pixels=pixels)
            raise
        if delay_s:
            await asyncio.sleep(delay_s)
        return given

    def _closed(self, error: MantletError) -> RequestError:
        """Fail closed: the client learns that there is no answer, the log why."""
        log.error("failed_closed", model=self.name, kind=type(error).__name__, error=str(error))
        if isinstance(error, StoreError):
            self._seen.store_errors.inc()
        return RequestError(
            503,
            "no answer can be given now; try again later",
            reason=type(error).__name__,
            headers={"Retry-After": self.queue.retry_after},
        )

    def _work(self, jobs: Sequence[Job]) -> list[Released | Exception]:
        """A micro-batch; where it fails it is halved, so that one client's rows close no other's answer.

        Nothing was remembered of a batch that failed, so its halves count once. What is slow to fail is
        not asked again: a victim that timed out, or one far away. Rows of several shapes cannot go
        through the model together.
        """
        shapes = {job.inputs.shape[1:] for job in jobs} if self.input.is_open else ()
        if len(shapes) > 1:
            return in_groups(jobs, lambda job: job.inputs.shape[1:], self._work)
        return self._halved(jobs, self._answers)

    def _halved(
        self, jobs: Sequence[Job], work: Callable[[Sequence[Job]], list[A | Exception]]
    ) -> list[A | Exception]:
        try:
            return work(jobs)
        except (PluginError, VictimError) as error:
            far = isinstance(error, VictimTimeout) or self.pipeline.victim.concurrency > 1
            if far or len(jobs) == 1:
                return [error] * len(jobs)
        half = len(jobs) // 2
        return self._halved(jobs[:half], work) + self._halved(jobs[half:], work)

    def _answers(self, jobs: Sequence[Job]) -> list[Released | Exception]:
        """A micro-batch, in a thread of the batcher: one forward pass, one fold, one answer a job."""
        return _split(self._asked(jobs).outcome, jobs)

    def _work_explained(self, jobs: Sequence[Job]) -> list[Explained | Exception]:
        """A micro-batch of rows to explain, one method after the other."""
        return in_groups(jobs, method_of, lambda own: self._halved(own, self._explained))

    def _explained(self, jobs: Sequence[Job]) -> list[Explained | Exception]:
        """As `_answers`, with explanations; where one fails, each job is explained by itself.

        Raises nothing once the rows are remembered: they would count again.
        """
        asked = self._asked(jobs)
        why = Why(method_of(jobs[0]), torch.cat([job.why.classes for job in jobs if job.why]))
        since, maps = perf_counter(), self._maps(asked, why, slice(None))
        again = isinstance(maps, Exception) and not isinstance(maps, VictimTimeout)
        answers: list[Explained | Exception] = []
        for span, answer in zip(spans(jobs), _split(asked.outcome, jobs), strict=True):
            own = self._maps(asked, why, span) if again and len(jobs) > 1 else maps
            if isinstance(answer, Exception):
                answers.append(answer)
            elif isinstance(own, Exception):
                answers.append(own)
            else:
                told = own.maps(span.start, span.stop)
                answers.append(_withheld() if told is None else (answer, told))
        self._seen.stages["explain"].observe(perf_counter() - since)
        return answers

    def _maps(self, asked: "_Asked", why: Why, among: slice) -> Outcome | Exception:
        try:
            return self.pipeline.explained(asked.query, asked.prediction, asked.outcome, why, among)
        except (PluginError, VictimError) as error:
            return error

    def _asked(self, jobs: Sequence[Job]) -> "_Asked":
        """One forward pass and one fold, remembered and reported."""
        sizes = [len(job.inputs) for job in jobs]
        inputs = jobs[0].inputs if len(jobs) == 1 else np.concatenate([job.inputs for job in jobs])
        clients = [
            job.client.id for job, size in zip(jobs, sizes, strict=True) for _ in range(size)
        ]
        tiers = [
            job.client.judged_as for job, size in zip(jobs, sizes, strict=True) for _ in range(size)
        ]
        identities = (
            [
                job.client.identity
                for job, size in zip(jobs, sizes, strict=True)
                for _ in range(size)
            ]
            if self.pipeline.input_defenses
            else ()
        )
        query = Query(clients, torch.from_numpy(inputs), self._clock(), tiers, identities)
        with self._room:
            stages = _Stages(self._seen.stages)
            prediction = self.pipeline.predict(query)
            stages.end("predict")
            scores = self.pipeline.score(query, prediction)
            stages.end("score")
        with self._folding:  # batches that ran side by side fold one after the other
            before, outcome = self._respond(query, prediction, scores, stages)
        self._seen.batch_rows.observe(len(clients))
        for name, highest in outcome.signals.highest().items():
            if highest > 0:
                self._seen.suspicion[name].observe(highest)
        for client in {job.client.id: job.client for job in jobs}.values():
            memory = outcome.memories[client.id]
            standing = self._reporter.note(client, before[client.id], memory, query.at)
            if standing is not None:
                self._keep(client.id, standing)
        return _Asked(query, prediction, outcome)

    def _respond(
        self, query: Query, prediction: Prediction, scores: Scores, stages: "_Stages"
    ) -> tuple[Mapping[str, Memory], Outcome]:
        """Load, respond, store; after a lost race again, but never the victim.

        Returns what was remembered before, too.
        """
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
                return memories, outcome
            self._seen.lost_races.inc()
        raise StoreError(f"lost the race for {len(lost)} clients {ATTEMPTS} times")

    def _key(self, client: str) -> str:
        return key_of(self.name, client)

    def memory_of(self, client: str) -> Memory:
        """What is remembered of a client; nothing of one that never asked."""
        key = self._key(client)
        return self.store.load_many([key], self._clock())[key].memory

    def remembered(self) -> Iterator[tuple[str, Memory]]:
        """Every client that is remembered."""
        return remembered(self.store, self.name)

    def amend(self, client: str, change: Callable[[Memory], Memory]) -> Memory:
        """Change what is remembered of a client, against batches that do so too; returns what it was."""
        key = self._key(client)
        for _ in range(ATTEMPTS):
            entry = self.store.load_many([key], self._clock())[key]
            after = change(entry.memory)
            if not self.store.swap_many({key: Entry(entry.version, after)}, self._clock()):
                self._keep(client, standing_of(after, self.pipeline))
                return entry.memory
            self._seen.lost_races.inc()
        raise StoreError(f"lost the race for client {client} {ATTEMPTS} times")

    def close(self) -> None:
        """Finish what is running and let the victim go."""
        self.batcher.close()
        if self._explainer is not None:
            self._explainer.close()
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


def _withheld() -> RequestError:
    """The same words for every reason why: a client learns nothing of its standing."""
    return RequestError(403, "explanations are not available to this client", reason=WITHHELD)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a batch asked, what the victim said, and what is to be done."""

    query: Query
    prediction: Prediction
    outcome: Outcome


def _split(outcome: Outcome, jobs: Sequence[Job]) -> list[Released | Exception]:
    """Each job's rows; a job with a denied row gets nothing at all."""
    return [outcome.rows(span.start, span.stop) or _denied() for span in spans(jobs)]
