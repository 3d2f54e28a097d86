"""Tables of the ownership bench say what its records say."""

import pytest

from docs import owned
from docs.owned import Record
from redteam.ownership import THIEVES


def record(**fields: object) -> Record:
    base = {
        "pool": "mnist",
        "rate": 0.02,
        "thief": "plain",
        "seed": 0,
        "model": "clone",
        "evidence": "submitted",
        "changed": 0.01,
        "clone_accuracy": 0.96,
        "marked": 50,
        "named": 40,
        "p": 1e-20,
    }
    return base | fields


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Records in place of those in the results."""
    found: list[Record] = []
    monkeypatch.setattr(owned, "records", lambda: found)
    return found


def test_a_thief_shows_the_worst_seed_and_what_an_unmarked_clone_would_be_worth(
    measured: list[Record],
) -> None:
    measured += [
        record(),
        record(seed=1, p=1e-7, named=10, clone_accuracy=0.94),
        record(evidence="others", p=0.2),
        record(rate=0.0, clone_accuracy=0.975, p=1.0, changed=0.0),
        record(model="independent", p=0.5),
    ]

    assert owned.thieves()[1:] == [
        (
            "MNIST",
            "2.0%",
            "learns from the answers",
            "1.0%",
            "50%",
            "1e-07",
            "95.0% (97.5%)",
            "0.2",
        )
    ]


def test_thieves_are_listed_by_pictures_then_kind_then_rate(measured: list[Record]) -> None:
    measured += [
        record(pool="notmnist"),
        record(thief="labels"),
        record(rate=0.05),
        record(rate=0.005),
    ]

    assert [row[:3] for row in owned.thieves()[1:]] == [
        ("MNIST", "0.5%", "learns from the answers"),
        ("MNIST", "5.0%", "learns from the answers"),
        ("MNIST", "2.0%", "from the labels alone"),
        ("notMNIST", "2.0%", "learns from the answers"),
    ]


def test_controls_count_tests_and_show_the_smallest_p(measured: list[Record]) -> None:
    measured += [
        record(model="independent", p=0.04),
        record(model="independent", p=0.5, rate=0.0),
        record(rate=0.0, p=0.3),
        record(model="clone, wrong keys", keys=100, p=0.002, p_to_005=0.04),
        record(model="clone, wrong keys", keys=300, p=0.01, p_to_005=0.02),
    ]

    assert [row[1:] for row in owned.controls()[1:]] == [
        ("2", "50.0%", "0.04"),
        ("1", "0.0%", "0.3"),
        ("400", "2.5%", "0.002"),
    ]


def test_every_thief_of_the_bench_has_its_words() -> None:
    assert owned.WORDS.keys() == THIEVES.keys()
