"""Jobs that go together, in the order in which they came."""

import numpy as np
import torch

from serving.admission import Client
from serving.explaining import Why
from serving.jobs import Job, in_groups, method_of, spans

ANN = Client("id", "ann", "default")


def job(rows: int, method: str = "") -> Job:
    inputs = np.full((rows, 4), rows, np.float32)
    return Job(ANN, inputs, Why(method, torch.zeros(rows)) if method else None)


def test_rows_of_a_batch_are_those_of_their_jobs() -> None:
    assert spans([job(2), job(1), job(3)]) == [slice(0, 2), slice(2, 3), slice(3, 6)]


def test_groups_are_worked_on_together_and_answered_in_order() -> None:
    worked = []

    def work(jobs: list[Job]) -> list[int]:
        worked.append([len(each.inputs) for each in jobs])
        return [10 * len(each.inputs) for each in jobs]

    jobs = [job(1, "a"), job(2, "b"), job(3, "a"), job(4)]
    answers = in_groups(jobs, method_of, work)  # type: ignore[arg-type]  # a list is a sequence

    assert answers == [10, 20, 30, 40]
    assert worked == [[1, 3], [2], [4]]


def test_a_group_that_fails_takes_no_other_along() -> None:
    def work(jobs: list[Job]) -> list[int]:
        if jobs[0].why:
            raise ValueError("no")
        return [len(each.inputs) for each in jobs]

    failed, given = in_groups([job(1, "a"), job(2)], method_of, work)  # type: ignore[arg-type]  # as above

    assert isinstance(failed, ValueError)
    assert given == 2
