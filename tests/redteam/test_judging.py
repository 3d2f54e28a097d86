"""Records: who was alarmed, after how many rows of the attack, and who was alarmed too early."""

import numpy as np
import orjson
import pytest

from redteam.detection.folding import Trace
from redteam.judging import curve, judged, lines, linked, upper_bound


def said(firsts: list[int], length: int = 100) -> Trace:
    """Clients whose alarm comes at these rows; 0 for never."""
    rows = np.arange(1, length + 1)
    alarms = np.stack([(rows >= first) & (first > 0) for first in firsts])
    return Trace({"all": alarms}, np.linspace(0, 1, length)[None].repeat(len(firsts), 0), {})


def test_rows_are_counted_from_the_start_of_the_attack() -> None:
    record = judged({"seed": 1}, "all", said([61, 65, 70]), 60)

    assert record["seed"] == 1
    assert (record["streams"], record["detected"], record["alarmed_before"]) == (3, 3, 0)
    assert (record["rows_to_alarm_median"], record["rows_to_alarm_p90"]) == (5, 10)


def test_an_alarm_before_the_attack_is_no_detection() -> None:
    record = judged({}, "all", said([60, 61]), 60)

    assert (record["detected"], record["alarmed_before"]) == (1, 1)


def test_who_is_never_alarmed_took_forever() -> None:
    record = judged({}, "all", said([3, 4, 5, 0]), 0)

    assert (record["detected"], record["rows_to_alarm_median"]) == (3, 5)
    assert record["rows_to_alarm_p90"] is None


@pytest.mark.parametrize(("alarmed", "clients", "bound"), [(0, 201, 0.0148), (3, 3, 1.0)])
def test_the_bound_is_that_of_clopper_and_pearson(alarmed: int, clients: int, bound: float) -> None:
    """0 of n: 1 - 0.05 ** (1 / n)."""
    assert upper_bound(alarmed, clients) == pytest.approx(bound, abs=1e-4)


def test_a_campaign_is_judged_by_who_is_named_in_it() -> None:
    record = linked({}, [{"a", "b", "x"}, {"y"}], {"a", "b", "c", "d"})

    assert record["detected"] == 1
    assert record["groups"] == 2
    assert (record["precision"], record["recall"]) == (0.5, 0.5)


def test_a_campaign_that_nobody_found_has_no_precision() -> None:
    record = linked({}, [], {"a"})

    assert (record["detected"], record["precision"], record["recall"]) == (0, None, 0.0)


def test_honest_clients_are_wrongly_one_campaign_or_none() -> None:
    wrong, right = linked({}, [{"a", "b"}], ()), linked({}, [], ())

    assert (wrong["detected"], wrong["precision"], wrong["recall"]) == (1, 0.0, None)
    assert right["detected"] == 0


def test_a_curve_starts_at_the_first_row_and_ends_at_the_last() -> None:
    shown = curve({}, said([5, 0]))

    assert (shown["rows"][0], shown["rows"][-1]) == (1, 100)
    assert shown["suspicion"][0][-1] == 1.0
    assert len(shown["suspicion"]) == 2


def test_results_are_a_json_list_with_a_record_a_line() -> None:
    records = [judged({"seed": seed}, "all", said([61, 65]), 60) for seed in (1, 2, 3)]
    text = lines(records)

    assert orjson.loads(text) == records
    assert len(text.splitlines()) == len(records) + 2
