import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mantlet.types import Signal
from serving.policy import Level, level_of_rows

LEVELS = (
    Level(name="normal"),
    Level(name="suspected", suspicion=0.5),
    Level(name="pressed", suspicion=0.7),
    Level(name="alarmed", alarm=True),
)


def signal(*suspicion: float, alarm: bool = False) -> Signal:
    return Signal(torch.tensor(suspicion), torch.tensor([alarm] * len(suspicion)), "d")


def chosen(signals: dict[str, Signal], rows: int) -> list[str]:
    return [LEVELS[index].name for index in level_of_rows(LEVELS, signals, rows)]


def test_a_level_holds_from_its_suspicion_on() -> None:
    just_below = torch.nextafter(torch.tensor(0.7), torch.tensor(0.0)).item()
    signals = {"d": signal(0.0, 0.49, 0.5, just_below, 0.7, 1.0)}

    assert chosen(signals, 6) == [
        "normal",
        "normal",
        "suspected",
        "suspected",
        "pressed",
        "pressed",
    ]


def test_the_most_suspicious_detector_decides_row_by_row() -> None:
    signals = {"a": signal(0.1, 0.9), "b": signal(0.6, 0.2)}

    assert chosen(signals, 2) == ["suspected", "pressed"]


def test_one_detector_in_alarm_is_enough() -> None:
    signals = {"a": signal(1.0, alarm=True), "b": signal(0.0)}

    assert chosen(signals, 1) == ["alarmed"]


def test_a_suspicion_of_one_without_an_alarm_is_no_alarm() -> None:
    assert chosen({"a": signal(1.0)}, 1) == ["pressed"]


def test_without_detectors_everybody_is_at_the_first_level() -> None:
    assert chosen({}, 3) == ["normal"] * 3


def test_a_single_level_holds_for_all() -> None:
    only = (Level(name="all"),)

    assert level_of_rows(only, {"a": signal(1.0, 0.0, alarm=True)}, 2).tolist() == [0, 0]


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=9))
def test_more_suspicion_never_means_a_milder_level(drawn: list[float]) -> None:
    rising = sorted(drawn)
    levels = level_of_rows(LEVELS, {"d": signal(*rising)}, len(rising)).tolist()

    assert levels == sorted(levels)


@pytest.mark.parametrize(
    "wrong",
    [
        {"suspicion": 1.5},
        {"suspicion": -0.1},
        {"deny_s": 0},
        {"deny_s": -5},
        {"defence": ["rounding"]},
        {"alarm": "perhaps"},
    ],
)
def test_a_level_out_of_bounds_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Level(name="x", **wrong)  # type: ignore[arg-type]
