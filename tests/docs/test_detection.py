"""Tables of the detection bench say what its records say."""

import math

import pytest

from docs import detection
from docs.detection import Record


def record(**fields: object) -> Record:
    base = {
        "victim": "mnist",
        "detector": "all",
        "attack": "jbda",
        "seed": 0,
        "streams": 20,
        "detected": 20,
        "rows_to_alarm_median": 8.0,
        "rows_to_alarm_p90": 12.0,
        "ever_alarm_upper": 1.0,
        "alpha": 1e-4,
    }
    return base | fields


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Records in place of those in the results."""
    found: list[Record] = []
    monkeypatch.setattr(detection, "records", lambda part="": found)
    return found


def test_an_attack_shows_the_median_over_seeds_of_its_rows(measured: list[Record]) -> None:
    measured += [record(seed=seed, rows_to_alarm_median=m) for seed, m in enumerate((7.0, 9.0, 30))]

    assert detection.thieves(["jbda"])[1] == ("jbda", "MNIST", "9 / 12")


def test_an_attack_says_how_well_its_family_is_known(measured: list[Record]) -> None:
    measured += [record(attack="knockoff x", family="never seen")]

    assert detection.thieves(["knockoff x"])[1][0] == "knockoff x (never seen)"


def test_an_attack_that_is_seldom_seen_says_how_seldom(measured: list[Record]) -> None:
    measured += [record(detected=3, rows_to_alarm_median=None, rows_to_alarm_p90=None)]

    assert detection.thieves(["jbda"])[1][2] == "- / - (3 of 20)"


def test_a_detector_has_a_column_where_it_ever_alarms(measured: list[Record]) -> None:
    measured += [record(), record(detector="foreign"), record(detector="rate", detected=0)]

    assert detection.thieves(["jbda"])[0] == ("attack", "victim", "all", "foreign")


def test_honest_clients_come_with_the_bound_of_none_of_so_many(measured: list[Record]) -> None:
    measured += [
        record(attack="none", condition="natural", detected=0, streams=67, seed=seed)
        for seed in range(3)
    ]

    assert detection.honest()[1] == ("natural", "MNIST", "1.5 %", "0 of 201")


def test_attacks_are_told_apart_by_what_else_the_client_sends(measured: list[Record]) -> None:
    names = ["jbda", "jbda, after honest rows", "knockoff x, 20% of rows", "jbda, 64 accounts"]
    enrolled = "knockoff x, enrolled for slow drift"
    measured += [record(attack=name) for name in [*names, enrolled, "none"]]

    assert detection.plain_attacks() == names[:1]
    assert detection.diluted_attacks() == names[1:3]
    assert detection.enrolled_attacks() == [enrolled]


def test_a_campaign_shows_who_was_named(measured: list[Record]) -> None:
    name = "jbda, 64 accounts"
    measured += [
        record(attack=name, streams=64, detected=2),
        record(attack=name, detector="campaign", streams=1, detected=1, precision=1.0, recall=0.95),
    ]

    assert detection.campaigns()[1] == (name, "MNIST", "2 of 64", "1 of 1", "1.00", "0.95")


def test_never_is_longer_than_any_number_of_rows(measured: list[Record]) -> None:
    found = [record(rows_to_alarm_median=m) for m in (5.0, None, None)]

    assert detection.middle(found, "rows_to_alarm_median") == math.inf
    assert detection.rows(math.inf) == "-"
