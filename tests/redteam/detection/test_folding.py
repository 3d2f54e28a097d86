"""What the bench says of a crowd is what the pipeline says of each client by itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detectors.foreign import Foreign
from detectors.rate import Rate
from mantlet.data import Images
from mantlet.plugin import Setup
from mantlet.types import Query
from redteam.detection import streams
from redteam.detection.folding import ALL, trace
from redteam.detection.streams import Stream
from serving import calibration
from serving.folding import EVIDENCE
from serving.pipeline import Pipeline
from serving.policy import Level
from serving.victims.torch import TorchVictim

LEVELS = (Level(name="normal"), Level(name="alarmed", alarm=True))


@pytest.fixture(scope="module")
def pipeline(shipped_victim: TorchVictim, digits: Images) -> Pipeline:
    """Two calibrated tests and a count that is never reached."""
    chosen = [Foreign(name="pixels", measures=("residual",)), Foreign(name="features")]
    learned = calibration.learn(shipped_victim, chosen, digits.x[8000:])
    for detector in chosen:
        detector.load(Setup(torch.device("cpu"), b"secret", learned[detector.name]))
    return Pipeline(shipped_victim, [*chosen, Rate()], levels=LEVELS)


@pytest.fixture(scope="module")
def crowd(digits: Images) -> Stream:
    """Three clients that send noise at half of their places."""
    pictures = (digits.x[:500] * 255).astype(np.uint8)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (500, 1, 28, 28), dtype=np.uint8)
    honest = streams.benign(pictures, clients=3, rows=150, rng=rng)
    attack = streams.benign(noise, clients=3, rows=150, rng=rng)
    return streams.mixed(attack, honest, 0.5, rng=rng)


def test_a_crowd_is_folded_as_its_clients_one_by_one(pipeline: Pipeline, crowd: Stream) -> None:
    said = trace(pipeline, crowd)
    for client, order in enumerate(crowd.order):
        query = Query(["one"] * len(order), crowd.inputs(order), 0.0)
        outcome = pipeline.run(query, {})

        assert np.allclose(
            said.suspicion[client], outcome.signals[EVIDENCE].suspicion.numpy(), atol=1e-4
        )
        assert np.array_equal(said.alarms[ALL][client], outcome.decision.wanted == 1)


def test_the_alarm_comes_and_stays(pipeline: Pipeline, crowd: Stream) -> None:
    said = trace(pipeline, crowd)
    first = said.first(ALL)

    assert (first > 5).all()
    assert (first < 100).all()
    assert all(said.alarms[ALL][c, f - 1 :].all() for c, f in enumerate(first))
    assert not said.alarms["rate"].any()
    assert (said.first("rate") == 0).all()


def test_a_detector_alone_is_judged_as_in_a_pipeline_of_its_own(
    pipeline: Pipeline, crowd: Stream
) -> None:
    own = Pipeline(pipeline.victim, [pipeline.detectors[0]], levels=LEVELS)

    assert np.array_equal(trace(pipeline, crowd).first("pixels"), trace(own, crowd).first(ALL))


def test_a_larger_alpha_is_read_off_the_same_evidence(pipeline: Pipeline, crowd: Stream) -> None:
    own = Pipeline(pipeline.victim, pipeline.detectors, levels=LEVELS, alpha=1e-3)

    assert np.array_equal(
        trace(pipeline, crowd, alpha=1e-3).first(ALL), trace(own, crowd).first(ALL)
    )
    assert (trace(own, crowd).first(ALL) < trace(pipeline, crowd).first(ALL)).any()


def test_clients_with_a_tier_are_judged_by_its_bound(pipeline: Pipeline, crowd: Stream) -> None:
    """One that may be foreign at nearly half of its rows is suspected less."""
    chosen = []
    for detector in pipeline.detectors[:2]:
        other = type(detector).model_validate(detector.model_dump())
        own = {**detector._learned, "tolerated.wide": np.full(detector.width, 0.45)}
        other.load(Setup(torch.device("cpu"), b"secret", own))
        chosen.append(other)
    said = trace(
        Pipeline(pipeline.victim, chosen, levels=LEVELS),
        replace(crowd, tiers=("default", "wide", "default")),
    )

    assert said.suspicion[1].max() < 0.5
    assert said.suspicion[[0, 2]].max(axis=1).tolist() == [1.0, 1.0]
