"""What every detector promises, built in or installed, for every setting its schema allows."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

import detectors
from mantlet.plugin import Calibration, Detector, Setup
from mantlet.types import Query, State
from serving.stores.base import pack, unpack
from tests.conformance.strategies import settings_of
from tests.helpers import SETUP, TinyVictim, query, rows

every_detector = pytest.mark.parametrize(
    "plugin", detectors.known().values(), ids=detectors.known()
)
VICTIM = TinyVictim()
CLOSE: dict[str, dict[str, st.SearchStrategy[Any]]] = {"rate": {"rows": st.integers(1, 3000)}}
"""Settings drawn more narrowly than the schema allows, so that alarms come within a test."""


@cache
def learned(plugin: type[Detector], settings: str) -> Calibration:
    inputs = rows(400, seed=9)
    with torch.inference_mode():
        detector = plugin.model_validate_json(settings)
        return detector.calibrate(query(inputs, "benign"), VICTIM.predict(inputs))


def drawn(plugin: type[Detector], data: st.DataObject) -> Detector:
    """A detector with drawn settings, calibrated where it needs that, loaded."""
    detector = data.draw(settings_of(plugin, **CLOSE.get(plugin.model_fields["type"].default, {})))
    calibration = None
    if plugin.needs_calibration:
        calibration = learned(plugin, detector.model_dump_json())
    detector.load(Setup(SETUP.device, SETUP.secret, calibration))
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


def folded(
    detector: Detector, state: State, scores: np.ndarray, at: float, cuts: list[int]
) -> tuple[State, np.ndarray, np.ndarray]:
    """The whole stream, in the pieces that ``cuts`` make of it."""
    parts = [part for part in np.split(scores, sorted(cuts)) if len(part)]
    suspicions, alarms = [], []
    for part in parts:
        state, suspicion, alarm = detector.update(state, part, at)
        suspicions.append(suspicion)
        alarms.append(alarm)
    return state, np.concatenate(suspicions), np.concatenate(alarms)


def same(first: State, second: State) -> bool:
    assert first.keys() == second.keys()
    return all(
        first[k].dtype == second[k].dtype and np.allclose(first[k], second[k], rtol=1e-9, atol=1e-9)
        for k in first
    )


@every_detector
@given(data=st.data())
def test_suspicion_stays_in_zero_to_one_and_an_alarm_is_latched(
    plugin: type[Detector], data: st.DataObject
) -> None:
    detector = drawn(plugin, data)
    asked = stream(data)
    _, suspicion, alarm = detector.update(detector.initial(), scored(detector, asked), asked.at)

    assert suspicion.shape == alarm.shape == (len(asked.clients),)
    assert alarm.dtype == np.bool_
    assert ((suspicion >= 0) & (suspicion <= 1)).all()
    assert (np.diff(alarm.astype(int)) >= 0).all()
    assert (suspicion[alarm] == 1.0).all()


@every_detector
@given(data=st.data())
def test_no_honest_row_and_no_time_ends_an_alarm(
    plugin: type[Detector], data: st.DataObject
) -> None:
    detector = drawn(plugin, data)
    width = scored(detector, stream(data, 1)).shape[1]
    state, _, alarm = detector.update(detector.initial(), np.ones((3000, width)), 0.0)
    assume(alarm[-1])
    later = unpack(pack({"d": state}))["d"]
    honest = np.zeros((500, width))

    for at in (1.0, 1e6, 1e10):
        later, suspicion, alarm = detector.update(later, honest, at)

        assert alarm.all()
        assert (suspicion == 1.0).all()


@every_detector
@given(data=st.data())
def test_the_state_does_not_depend_on_how_the_stream_is_cut(
    plugin: type[Detector], data: st.DataObject
) -> None:
    detector = drawn(plugin, data)
    asked = stream(data)
    scores = scored(detector, asked)
    cuts = data.draw(st.lists(st.integers(0, len(scores)), max_size=8))
    whole = folded(detector, detector.initial(), scores, asked.at, [])
    pieces = folded(detector, detector.initial(), scores, asked.at, cuts)

    assert same(whole[0], pieces[0])
    assert np.allclose(whole[1], pieces[1], atol=1e-9)
    assert (whole[2] == pieces[2]).all()


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
    state, _, _ = detector.update(detector.initial(), scores, asked.at)
    returned = unpack(pack({"some/name": state}))["some/name"]
    first = detector.update(state, scores, asked.at)
    second = detector.update(returned, scores, asked.at)

    assert all(isinstance(array, np.ndarray) for array in state.values())
    assert same(state, returned)
    assert same(first[0], second[0])
    assert np.array_equal(first[1], second[1])


@every_detector
@given(data=st.data())
def test_the_state_is_bounded(plugin: type[Detector], data: st.DataObject) -> None:
    detector = drawn(plugin, data)
    state, width = detector.initial(), scored(detector, stream(data, 1)).shape[1]
    generator = np.random.default_rng(0)
    sizes = []
    for at in range(4):
        state, _, _ = detector.update(state, generator.random((1500, width)).round(), at * 1e6)
        sizes.append(len(pack({detector.name: state})))

    assert max(sizes) <= 4096
    assert sizes[-1] == sizes[-2]


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
        after, _, _ = detector.update(state, scores, asked.at)

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
    _, suspicion, alarm = detector.update(detector.initial(), scored(detector, asked), 0.0)

    assert detector.enforces is not plugin.needs_calibration
    assert not plugin.needs_calibration or (not suspicion.any() and not alarm.any())


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
