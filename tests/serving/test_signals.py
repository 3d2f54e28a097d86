"""Signals of a batch: read as the detectors' own, one by one, without the others being made."""

import numpy as np
import pytest

from serving.signals import Signals


def said() -> Signals:
    return Signals.told({"a": ([0.25, 1.0], [False, True]), "b": ([0.5, 0.0], [False, False])})


def test_a_signal_is_read_by_its_name() -> None:
    signal = said()["a"]

    assert signal.suspicion.tolist() == [0.25, 1.0]
    assert signal.alarm.tolist() == [False, True]
    assert signal.reason == "a"


def test_what_is_written_to_the_arrays_is_heard() -> None:
    signals = Signals.nothing(("a", "b"), rows=3)
    signals.suspicion[1, 2] = 0.75

    assert signals["b"].suspicion.tolist() == [0, 0, 0.75]
    assert not signals["a"].suspicion.any()


def test_signals_are_a_mapping_in_their_order() -> None:
    assert list(said()) == ["a", "b"]
    assert len(said()) == 2
    assert "c" not in said()
    with pytest.raises(KeyError):
        said()["c"]


def test_of_wanted_names_only_those_that_are_there_are_left() -> None:
    some = said().only(("b", "c"))

    assert list(some) == ["b"]
    assert some["b"].suspicion.tolist() == [0.5, 0.0]


def test_rows_are_taken_in_the_order_asked_for() -> None:
    assert said().of(np.array([1, 0]))["a"].suspicion.tolist() == [1.0, 0.25]


def test_nothing_speaks_against_spared_rows_and_the_rest_stays() -> None:
    signals = said()
    spared = signals.sparing(np.array([False, True]))

    assert spared["a"].suspicion.tolist() == [0.25, 0.0]
    assert not spared["a"].alarm.any()
    assert signals["a"].alarm.tolist() == [False, True]
    assert spared["a"].suspicion.dtype == signals["a"].suspicion.dtype


def test_the_most_of_some_signals_is_told_by_row() -> None:
    suspicion, alarm = said().most(("a", "b"))
    none, never = said().most(())

    assert suspicion.tolist() == [0.5, 1.0]
    assert alarm.tolist() == [False, True]
    assert said().most(("b",))[0].tolist() == [0.5, 0.0]
    assert none.tolist() == [0.0, 0.0]
    assert never.tolist() == [False, False]


def test_the_highest_suspicion_is_told_by_signal() -> None:
    assert said().highest() == {"a": 1.0, "b": 0.5}
    assert said().only(("b",)).highest() == {"b": 0.5}
