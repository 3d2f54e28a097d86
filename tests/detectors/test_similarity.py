"""The detector of similar queries, on the shipped MNIST model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detectors.similarity import Similarity
from mantlet.data import Images
from mantlet.errors import CalibrationError
from mantlet.plugin import Setup
from mantlet.types import Kind
from redteam.attacks.jbda import Jbda
from redteam.attacks.jbda_tr import JbdaTr
from redteam.client.oracle import InProcess
from redteam.learning import Means, Training
from serving.pipeline import Pipeline
from serving.victims.torch import TorchVictim
from tests.helpers import SETUP, TinyVictim, query, rows


@pytest.fixture(scope="module")
def fitted(shipped_victim: TorchVictim, digits: Images) -> Similarity:
    benign = torch.from_numpy(digits.x[:3000])
    detector = Similarity()
    learned = detector.calibrate(query(benign), shipped_victim.predict(benign))
    detector.load(Setup(SETUP.device, SETUP.secret, learned))
    return detector


def flags(detector: Similarity, victim: TorchVictim, inputs: torch.Tensor) -> np.ndarray:
    """(B, 2) of one client who sends ``inputs``."""
    scores = detector.score(query(inputs), victim.predict(inputs)).double().numpy()
    return detector.watch(detector.initial(), scores, 0.0)[1]


@pytest.fixture(scope="module")
def honest(digits: Images) -> torch.Tensor:
    return torch.from_numpy(digits.x[3000:4500])


def test_the_marks_of_retries_are_known_with_the_secret_alone() -> None:
    """Who knew them could make new rows that look like retries."""
    asked, clean = query(rows(50)), TinyVictim().predict(rows(50))
    marks = []
    for secret in (b"one secret", b"another"):
        detector = Similarity()
        detector.load(Setup(SETUP.device, secret))
        marks.append(detector.score(asked, clean)[:, 1:3])

    assert not bool((marks[0] == marks[1]).all(dim=1).any())


def test_honest_digits_are_seldom_flagged(
    fitted: Similarity, shipped_victim: TorchVictim, honest: torch.Tensor
) -> None:
    near, probe = flags(fitted, shipped_victim, honest).mean(axis=0)

    assert near < 0.03
    assert probe == 0


@pytest.mark.parametrize("kind", [Jbda, JbdaTr])
def test_rows_of_jbda_are_flagged_from_its_second_round(
    fitted: Similarity,
    shipped_victim: TorchVictim,
    honest: torch.Tensor,
    kind: type[Jbda] | type[JbdaTr],
) -> None:
    oracle = InProcess(Pipeline(shipped_victim), recording=True)
    generator = torch.Generator().manual_seed(0)
    attack = kind(seeds=100, training=Training(steps=1))
    attack.run(oracle, Means(honest[:100]), budget=400, generator=generator)
    near = flags(fitted, shipped_victim, torch.cat(oracle.sent))[:, 0]

    assert near[:100].mean() < 0.05
    assert near[100:200].mean() > 0.8
    assert near[200:].mean() > 0.6


@pytest.mark.parametrize("apart", [1, 100])
def test_probes_beside_foreign_rows_are_flagged_however_recent(
    fitted: Similarity, shipped_victim: TorchVictim, apart: int
) -> None:
    """Finite differences, each probe beside its row or after a batch of rows."""
    made = rows(200, shape=(1, 28, 28))
    probes = made + 1e-4 * torch.randn(made.shape, generator=torch.Generator().manual_seed(0))
    sent = torch.stack([made.view(-1, apart, 784), probes.view(-1, apart, 784)], dim=1)
    is_probe = (np.arange(400) // apart) % 2 == 1
    probe = flags(fitted, shipped_victim, sent.view(-1, 1, 28, 28))[:, 1]

    assert probe[is_probe].mean() > 0.95
    assert probe[~is_probe].mean() == 0


def test_the_same_rows_again_are_no_evidence(
    fitted: Similarity, shipped_victim: TorchVictim, honest: torch.Tensor
) -> None:
    once = flags(fitted, shipped_victim, honest[:200])
    again = flags(fitted, shipped_victim, torch.cat([honest[:200], honest[:200]]))

    assert again[200:, 1].sum() == 0
    assert again[200:, 0].mean() <= once[:, 0].mean() + 0.03


def test_frames_of_a_burst_are_no_evidence(
    fitted: Similarity, shipped_victim: TorchVictim, honest: torch.Tensor
) -> None:
    frames = honest[:40].repeat_interleave(20, dim=0)
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    trembling = (frames + 0.02 * noise).clamp(0, 1)

    assert flags(fitted, shipped_victim, trembling).mean() < 0.03
    without = fitted.model_copy(update={"gap": 0})
    without._learned.update(fitted._learned)
    assert flags(without, shipped_victim, trembling)[:, 0].mean() > 0.9


@pytest.mark.parametrize("lag", [100, 256])
def test_every_row_of_the_last_rings_is_found(
    fitted: Similarity, shipped_victim: TorchVictim, honest: torch.Tensor, lag: int
) -> None:
    """Whatever was sent before: 1,000 honest rows here."""
    between = honest[:1000]
    row = honest[1200:1201]
    later = torch.cat([between, row, honest[1201 : 1201 + lag - 1], row + 1e-5])

    assert flags(fitted, shipped_victim, later)[-1].tolist() == [1.0, 1.0]


def test_a_memory_of_another_size_starts_anew() -> None:
    small, large = Similarity(slots=16), Similarity(slots=32)

    assert small.fits(small.initial())
    assert not large.fits(small.initial())


def test_too_few_rows_are_refused() -> None:
    inputs = rows(199)

    with pytest.raises(CalibrationError, match=r"199 benign rows are too few .* at least 200"):
        Similarity().calibrate(query(inputs), TinyVictim().predict(inputs))


@pytest.mark.parametrize("kind", [Kind.PROBABILITIES, Kind.IMAGES])
def test_constant_inputs_accuse_nobody_whatever_the_victim_answers(kind: Kind) -> None:
    inputs = torch.full((300, 1, 4, 4), 0.25)
    answer = replace(TinyVictim().predict(inputs), kind=kind, features=None, logits=None)
    detector = Similarity()
    detector.load(Setup(SETUP.device, SETUP.secret, detector.calibrate(query(inputs), answer)))
    scores = detector.score(query(inputs), answer).double().numpy()

    assert not detector.watch(detector.initial(), scores, 0.0)[1].any()
