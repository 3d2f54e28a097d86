"""The benchmark of faults says what was lost where something was lost, and nothing where nothing was."""

import json

from tests.benchmarks.faults import Asked, costs, rounded

DEFENDED = json.dumps({"predictions": [[0.123, 0.877]]}).encode()
CLEAN = json.dumps({"predictions": [[0.1234, 0.8766]]}).encode()
STRUCK = 10.0
THIEF = [
    Asked(1.0, "thief", 0, 200, DEFENDED),
    Asked(2.0, "thief", 1, 200, DEFENDED),
    Asked(3.0, "thief", 2, 403),
]
SPENDER = [Asked(at, "spender", 0, 200, DEFENDED) for at in (1.5, 2.5, 12.0)]


def of(*asked: Asked, counted: int = 3, again: int = 403) -> dict[str, object]:
    return costs(asked, STRUCK, alone=2, counted={"spender": counted}, again={"thief": [again]})


def test_where_nothing_is_lost_nothing_is_told() -> None:
    found = of(*THIEF, *SPENDER)

    assert found["thieves"] == found["refused"] == 1
    assert found["most rows of a thief"] == 2
    assert not found["thieves with more"]
    assert not found["answered after the refusal"]
    assert not found["answers without defense"]
    assert not found["rows of a budget lost"]
    assert found["rows of a budget answered"] == found["rows of a budget counted"] == 3


def test_an_alarm_that_comes_too_late_is_told() -> None:
    longer = [*THIEF[:2], Asked(3.0, "thief", 2, 200, DEFENDED)]

    assert of(*longer)["thieves with more"] == 1


def test_a_row_that_is_asked_again_for_want_of_an_answer_is_one_row() -> None:
    assert of(Asked(0.5, "thief", 0, 0), *THIEF, *SPENDER)["most rows of a thief"] == 2
    assert of(Asked(0.5, "thief", 0, 200, DEFENDED), *THIEF)["most rows of a thief"] == 2


def test_who_was_refused_and_is_answered_again_is_told() -> None:
    assert of(*THIEF, again=200)["answered after the refusal"] == 1
    assert of(*THIEF, Asked(12.0, "thief", 3, 200, DEFENDED))["answered after the refusal"] == 1


def test_a_row_that_was_answered_and_not_counted_is_told() -> None:
    assert of(*SPENDER, counted=2)["rows of a budget lost"] == 1
    assert of(*SPENDER, counted=4)["rows of a budget lost"] == 0, "counted and not answered"


def test_an_answer_without_its_defense_is_told() -> None:
    found = of(Asked(1.0, "spender", 0, 200, CLEAN), *SPENDER, counted=4)

    assert rounded(DEFENDED)
    assert found["answers without defense"] == 1


def test_the_time_without_answers_ends_with_the_first_after_the_last_that_failed() -> None:
    failed = [Asked(11.0, "spender", 0, 503), Asked(11.5, "thief", 0, 0)]

    assert of(*SPENDER, *failed)["not answered or 503, s"] == 2.0
    assert of(*SPENDER)["not answered or 503, s"] == 0.0
    assert of(*SPENDER[:2], *failed)["not answered or 503, s"] is None


def test_the_rate_is_that_before_the_fault() -> None:
    steady = [Asked(number / 10, "spender", 0, 200, DEFENDED) for number in range(101)]

    assert of(*steady, *SPENDER[2:])["requests a second before"] == 10.1
