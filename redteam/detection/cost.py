"""What watching costs: time of a row by how much its client has sent before, and what is remembered."""

import time
from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from mantlet.plugin import Detector
from mantlet.types import Query
from redteam.detection.folding import scored
from redteam.detection.streams import Stream
from redteam.judging import Record
from serving.folding import Memory, Scores
from serving.pipeline import Pipeline
from serving.stores.base import pack

EARLIER = (10, 100_000)
"""Rows that a client has sent before its next one is timed."""
BATCH = 32
ROUNDS = 300


def measured(
    pipeline: Pipeline,
    stream: Stream,
    *,
    earlier: tuple[int, int] = EARLIER,
    rounds: int = ROUNDS,
) -> list[Record]:
    """Times are medians of ``rounds`` in turn, in microseconds; bytes are those of the store.

    The client sends the pictures of the stream's first client, again and again.
    """
    sent = stream.order[0]
    _, scores = scored(pipeline, stream, sent)
    inputs = stream.inputs(sent)
    young, old = ({"client": _remembered(pipeline, inputs, scores, count)} for count in earlier)
    one = Query(["client"], inputs[:1], float(earlier[1]))
    own = {name: score[:1] for name, score in scores.items()}
    batch, known = _crowd(inputs, float(earlier[1]), old["client"])
    prediction = pipeline.predict(batch)
    seen = pipeline.score(batch, prediction)
    timed = _medians_us(
        {
            "fold_young": lambda: pipeline.fold.run(one, own, young),
            "fold_old": lambda: pipeline.fold.run(one, own, old),
            "predict": lambda: pipeline.predict(batch),
            "score": lambda: pipeline.score(batch, prediction),
            "fold": lambda: pipeline.fold.run(batch, seen, known),
        },
        rounds,
    )
    row = {
        "what": "one row of a client",
        "earlier_rows": list(earlier),
        "fold_us": [timed["fold_young"], timed["fold_old"]],
        "ratio": round(timed["fold_old"] / timed["fold_young"], 3),
        "state_bytes": [len(pack(memory["client"])) for memory in (young, old)],
    }
    whole = {name: timed[name] for name in ("predict", "score", "fold")}
    each = [_alone(pipeline, detector, stream, rounds) for detector in pipeline.detectors]
    return [row, {"what": f"a batch of {BATCH} rows, each of another client"} | whole, *each]


def _alone(pipeline: Pipeline, detector: Detector, stream: Stream, rounds: int) -> Record:
    """What one detector costs by itself for a batch whose clients have sent all of the stream before."""
    own = Pipeline(pipeline.victim, [detector])
    sent = stream.order[0]
    inputs, (_, scores) = stream.inputs(sent), scored(own, stream, sent)
    memory = _remembered(own, inputs, scores, len(sent))
    batch, known = _crowd(inputs, float(len(sent)), memory)
    prediction = own.predict(batch)
    seen = own.score(batch, prediction)
    timed = _medians_us(
        {
            "score": lambda: own.score(batch, prediction),
            "fold": lambda: own.fold.run(batch, seen, known),
        },
        rounds,
    )
    return {"what": f"detector {detector.name}", "state_bytes": len(pack(memory))} | timed


def _crowd(inputs: Tensor, at: float, memory: Memory) -> tuple[Query, dict[str, Memory]]:
    """A batch of a row a client, of all of whom the same is remembered."""
    batch = Query([f"client {i}" for i in range(BATCH)], inputs[:BATCH], at)
    return batch, dict.fromkeys(batch.clients, memory)


def _remembered(pipeline: Pipeline, inputs: Tensor, scores: Scores, count: int) -> Memory:
    """The memory of a client after ``count`` rows."""
    memories: Mapping[str, Memory] = {}
    for start in range(0, count, len(inputs)):
        rows = min(len(inputs), count - start)
        query = Query(["client"] * rows, inputs[:rows], float(start))
        own = {name: score[:rows] for name, score in scores.items()}
        memories = pipeline.fold.run(query, own, memories).memories
    return memories["client"]


def _medians_us(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median time of each piece of work; all are done in turn, so that noise hits them alike."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, do in work.items():
            start = time.perf_counter()
            do()
            taken[name].append(1e6 * (time.perf_counter() - start))
    return {name: round(float(np.median(times)), 1) for name, times in taken.items()}
