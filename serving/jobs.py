"""What waits for a model: jobs, which of them go together, and whose rows are whose."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeVar

import numpy as np

from serving.admission import Client
from serving.explaining import Why

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Job:
    """One request's rows: ``inputs`` (n, *shape) float32 of one client, and what is asked about them."""

    client: Client
    inputs: np.ndarray
    why: Why | None = None


def method_of(job: Job) -> str:
    """By which method it is to be explained; empty where nothing is."""
    return job.why.method if job.why else ""


def in_groups(
    jobs: Sequence[Job],
    key: Callable[[Job], Hashable],
    work: Callable[[Sequence[Job]], list[A | Exception]],
) -> list[A | Exception]:
    """Answers to jobs of which those with one ``key`` can go through the model together, in their order.

    What one group raises is the answer to that group alone: others may be remembered already.
    """
    places: dict[Hashable, list[int]] = {}
    for place, job in enumerate(jobs):
        places.setdefault(key(job), []).append(place)
    answers: dict[int, A | Exception] = {}
    for own in places.values():
        try:
            given = work([jobs[place] for place in own])
        except Exception as error:  # handed to everybody who waits for this group
            given = [error] * len(own)
        answers |= zip(own, given, strict=True)
    return [answers[place] for place in range(len(jobs))]


def spans(jobs: Sequence[Job]) -> list[slice]:
    """The rows of each job in their batch."""
    ends = [*accumulate(len(job.inputs) for job in jobs)]
    return [slice(start, stop) for start, stop in pairwise([0, *ends])]
