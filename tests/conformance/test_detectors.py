"""What every detector promises, built in or installed, for every setting its schema allows."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import detectors
from mantlet.plugin import Calibration, Detector, EvidenceDetector, Setup, ThresholdDetector
from mantlet.types import Query, State, Task
from serving import calibration
from serving.folding import Fold
from serving.stores.base import pack, unpack
from tests.conformance.strategies import settings_of
from tests.helpers import SETUP, TinyVictim, query, rows

every_detector = pytest.mark.parametrize(
    "plugin", detectors.known().values(), ids=detectors.known()
)
VICTIM = TinyVictim()
CLOSE: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "rate": {"rows": st.integers(1, 3000)},
    "shift": {"window": st.integers(5, 60)},
    "prada": {
        "capacity": st.integers(10, 500),
        "window": st.integers(101, 1000),
        "persistence": st.integers(1, 5),
        "every": st.integers(1, 20),
        "dimensions": st.integers(0, 64),
    },
}
"""Settings drawn more narrowly than the schema allows, so that alarms and full memories come within a test."""


@cache
def learned(plugin: type[Detector], settings: str) -> Mapping[str, Calibration]:
    return calibration.learn(
        VICTIM, [plugin.model_validate_json(settings)], rows(600, seed=9).numpy()
    )


def drawn(plugin: type[Detector], data: st.DataObject) -> Detector:
    """A detector with drawn settings, calibrated where it needs that, loaded."""
    detector = data.draw(settings_of(plugin, **CLOSE.get(plugin.model_fields["type"].default, {})))
    own = learned(plugin, detector.model_dump_json()).get(detector.name)
    detector.load(Setup(SETUP.device, SETUP.secret, own))
    return detector


def stream(data: st.DataObject, longest: int = 60) -> Query:
    """Rows of one client: noise as in the calibration, flat grey, or black and white."""
    kinds = data.draw(st.lists(st.sampled_from("nnnfw"), min_size=1, max_size=longest))
    noise = rows(len(kinds), seed=data.draw(st.integers(0, 1000)))
    flat, hard = torch.full_like(noise, 0.9), noise.round()
    choice = torch.tensor(["nfw".index(kind) for kind in kinds]).view(-1, 1, 1, 1)
    inputs = torch.where(choice == 0, noise, torch.where(choice == 1, flat, hard))
    return query(inputs, at=data.draw(st.floats(0, 2e9)))


def scored(detector: Detector, asked: Query) -> np.ndarray:
    scores: np.ndarray = detector.score(asked, VICTIM.predict(asked.inputs)).double().numpy()
    return scores


def fold(
    detector: Detector, state: State, scores: np.ndarray, at: float
) -> tuple[State, np.ndarray]:
    """The state after, and (n, .) what is said of every row, of both kinds of detectors."""
    if isinstance(detector, EvidenceDetector):
        return detector.watch(state, scores, at)
    assert isinstance(detector, ThresholdDetector)
    state, suspicion, alarm = detector.update(state, scores, at)
    return state, np.stack([suspicion, alarm], axis=1)


def fold_each(
    detector: Detector, states: Sequence[State], rows: np.ndarray, at: float
) -> tuple[Sequence[State], np.ndarray]:
    """As `fold`, of one row of each of several clients."""
    if isinstance(detector, EvidenceDetector):
        return detector.watch_each(states, rows, at)
    assert isinstance(detector, ThresholdDetector)
    after, suspicion, alarm = detector.update_each(states, rows, at)
    return after, np.stack([suspicion, alarm], axis=1)


def same(first: State, second: State) -> bool:
    assert first.keys() == second.keys()
    return all(
        first[k].dtype == second[k].dtype and np.allclose(first[k], second[k], rtol=1e-9, atol=1e-9)
        for k in first
    )


@every_detector
def test_it_is_of_one_of_the_two_kinds(plugin: type[Detector]) -> None:
    assert issubclass(plugin, EvidenceDetector) != issubclass(plugin, ThresholdDetector)


@every_detector
@given(data=st.data())
def test_signals_stay_in_zero_to_one_and_an_alarm_is_latched(
    plugin: type[Detector], data: st.DataObject
) -> None:
    detector = drawn(plugin, data)
    asked = stream(data)
    folded = Fold([detector], 0.01).run(asked, {detector.name: scored(detector, asked)}, {})

    for signal in folded.signals.values():
        suspicion, alarm = signal.suspicion.numpy(), signal.alarm.numpy()
        assert suspicion.shape == alarm.shape == (len(asked.clients),)
        assert ((suspicion >= 0) & (suspicion <= 1)).all()
        assert (np.diff(alarm.astype(int)) >= 0).all()
        assert (suspicion[alarm] == 1.0).all()


@every_detector
@given(data=st.data())
def test_what_is_said_does_not_depend_on_how_the_stream_is_cut(
    plugin: type[Detector], data: st.DataObject
) -> None:
    detector = drawn(plugin, data)
    asked = stream(data)
    scores = scored(detector, asked)
    cuts = data.draw(st.lists(st.integers(0, len(scores)), max_size=8))
    state, whole = fold(detector, detector.initial(), scores, asked.at)
    piecewise, parts = detector.initial(), []
    for part in np.split(scores, sorted(cuts)):
        if len(part):
            piecewise, said = fold(detector, piecewise, part, asked.at)
            parts.append(said)

    assert same(state, piecewise)
    assert np.allclose(whole, np.concatenate(parts), atol=1e-9, equal_nan=True)


@every_detector
@given(data=st.data())
def test_clients_that_are_folded_together_are_folded_as_each_alone(
    plugin: type[Detector], data: st.DataObject
) -> None:
    """To the bit, and however different what is remembered of them."""
    detector = drawn(plugin, data)
    at = data.draw(st.floats(0, 2e9))
    histories = [scored(detector, stream(data)) for _ in range(data.draw(st.integers(2, 5)))]
    states = [
        fold(detector, detector.initial(), one[:-1], at)[0] for one in histories if len(one) > 1
    ]
    states += [detector.initial()] * (len(histories) - len(states))
    rows = np.concatenate([one[-1:] for one in histories])
    alone = [fold(detector, state, rows[[i]], at) for i, state in enumerate(states)]
    together, said = fold_each(detector, states, rows, at)

    assert np.array_equal(said, np.concatenate([given for _, given in alone]), equal_nan=True)
    for (first, _), second in zip(alone, together, strict=True):
        assert first.keys() == second.keys()
        assert all(first[name].dtype == second[name].dtype for name in first)
        assert all(np.array_equal(first[name], second[name]) for name in first)


@every_detector
@given(data=st.data())
def test_whether_a_row_abstains_is_decided_before_it_is_seen(
    plugin: type[Detector], data: st.DataObject
) -> None:
    detector = drawn(plugin, data)
    asked = stream(data)
    scores = scored(detector, asked)
    before, _ = fold(detector, detector.initial(), scores, asked.at)
    if isinstance(detector, EvidenceDetector) and detector.skips_copies:
        before = detector.initial()  # nothing came before that a row could be a copy of
    others = scored(detector, query(torch.cat([rows(6, seed=77), torch.zeros(2, 1, 4, 4)])))
    silent = [np.isnan(fold(detector, before, own[None], asked.at)[1]) for own in others]

    assert all(np.array_equal(one, silent[0]) for one in silent)


@every_detector
@given(data=st.data())
def test_a_row_is_scored_alike_alone_and_in_a_batch(
    plugin: type[Detector], data: st.DataObject
) -> None:
    detector = drawn(plugin, data)
    asked = stream(data, 12)
    together = scored(detector, asked)
    alone = [scored(detector, query(row[None], at=asked.at)) for row in asked.inputs]

    assert together.shape[0] == len(asked.clients)
    assert np.allclose(together, np.concatenate(alone), atol=1e-5)


@every_detector
@given(data=st.data())
def test_the_state_is_arrays_and_comes_back_from_the_store(
    plugin: type[Detector], data: st.DataObject
) -> None:
    detector = drawn(plugin, data)
    asked = stream(data)
    scores = scored(detector, asked)
    state, _ = fold(detector, detector.initial(), scores, asked.at)
    returned = unpack(pack({"some/name": state})).get("some/name", {})
    first = fold(detector, state, scores, asked.at)
    second = fold(detector, returned, scores, asked.at)

    assert all(isinstance(array, np.ndarray) for array in state.values())
    assert detector.fits(returned)
    assert same(state, returned)
    assert same(first[0], second[0])
    assert np.array_equal(first[1], second[1], equal_nan=True)


def packed(detector: Detector, batches: int) -> list[int]:
    """Bytes of what is remembered of a client after each of so many batches of 1,500 rows."""
    state, sizes = detector.initial(), []
    for number in range(batches):
        asked = query(rows(1500, seed=number), at=number * 1e6)
        state, _ = fold(detector, state, scored(detector, asked), asked.at)
        sizes.append(len(pack({detector.name: state})))
    return sizes


@every_detector
@given(data=st.data())
@settings(max_examples=10)
def test_the_state_is_bounded(plugin: type[Detector], data: st.DataObject) -> None:
    sizes = packed(drawn(plugin, data), 4)

    assert max(sizes) <= 256 * 1024
    assert sizes[-1] == sizes[-2]


@pytest.mark.parametrize("task", Task)
def test_all_detectors_of_a_task_together_remember_64_kilobytes_of_a_client_at_most(
    task: Task,
) -> None:
    own = [plugin() for plugin in detectors.BUILTIN if task in plugin.tasks]
    known = calibration.learn(VICTIM, own, rows(600, seed=9).numpy())
    for detector in own:
        detector.load(Setup(SETUP.device, SETUP.secret, known.get(detector.name)))

    assert sum(packed(detector, 2)[-1] for detector in own) <= 64 * 1024


@every_detector
@given(data=st.data())
def test_arguments_are_not_written_into(plugin: type[Detector], data: st.DataObject) -> None:
    detector = drawn(plugin, data)
    asked = stream(data)
    prediction = VICTIM.predict(asked.inputs)
    inputs, values = asked.inputs.clone(), prediction.values.clone()
    scores = detector.score(asked, prediction).double().numpy()
    state = detector.initial()
    for _ in range(2):
        arrays = {name: array.copy() for name, array in state.items()}
        before = scores.copy()
        after, _ = fold(detector, state, scores, asked.at)

        assert np.array_equal(scores, before)
        assert all(np.array_equal(state[name], arrays[name]) for name in arrays)
        state = after
    assert torch.equal(asked.inputs, inputs)
    assert torch.equal(prediction.values, values)


@every_detector
def test_an_uncalibrated_detector_only_observes_and_never_suspects(plugin: type[Detector]) -> None:
    detector = plugin()
    detector.load(SETUP)
    asked = query(rows(50))
    folding = Fold([detector], 0.01)
    signals = folding.run(asked, {detector.name: scored(detector, asked)}, {}).signals

    assert detector.enforces is not plugin.needs_calibration
    if plugin.needs_calibration:
        assert folding.enforcing == ()
        assert not any(s.suspicion.any() or s.alarm.any() for s in signals.values())


@every_detector
@pytest.mark.parametrize(("setting", "value"), [("name", "x"), ("type", "y")])
def test_settings_are_frozen(plugin: type[Detector], setting: str, value: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(plugin(), setting, value)


@every_detector
def test_unknown_settings_are_refused(plugin: type[Detector]) -> None:
    unknown: dict[str, Any] = {"a_setting_that_is_not_there": 1}

    with pytest.raises(ValidationError, match="a_setting_that_is_not_there"):
        plugin(**unknown)


@every_detector
def test_a_detector_says_what_undoes_it(plugin: type[Detector]) -> None:
    assert "What undoes it:" in (plugin.__doc__ or "")
