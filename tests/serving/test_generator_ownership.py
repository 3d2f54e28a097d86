"""A suspect's pictures are read with the owner's key alone, and what is said is no more than they show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from defenses.watermark.mark import Mark
from mantlet.data import Images
from mantlet.errors import ConfigError
from serving.generator_ownership import (
    Reading,
    Report,
    graded,
    key_of,
    marks,
    read,
    verdict,
    verify,
)
from serving.settings import Settings
from tests.e2e.harness import GENERATOR
from tests.helpers import config

SECRET = "the secret of the owner"


def settings(root: Path, folder: Path, **changes: Any) -> Settings:
    """Of a generator whose pictures are marked, beside a classifier."""
    raw = config(root, folder, **({"secret": SECRET} | changes))
    digits = GENERATOR | {"defenses": [{"type": "watermark"}], "policy": [
        {"name": "all", "defenses": ["watermark"]}
    ]}  # fmt: skip
    raw["models"]["digits"] = digits
    return Settings.model_validate(raw)


@pytest.fixture(scope="module")
def clean(digits: Images) -> torch.Tensor:
    """(300, 1, 28, 28)"""
    return torch.from_numpy(digits.x[:300])


def marked(clean: torch.Tensor, name: str = "digits") -> torch.Tensor:
    return Mark(SECRET.encode(), name).embed(clean, ["ann"] * len(clean))


def saved(path: Path, pictures: torch.Tensor) -> str:
    np.savez(path, x=(pictures * 255).round().byte().numpy())
    return str(path)


def test_marked_pictures_are_found_and_independent_ones_are_not(
    root: Path, tmp_path: Path, clean: torch.Tensor
) -> None:
    suspect = saved(tmp_path / "suspect.npz", marked(clean))
    other = saved(tmp_path / "other.npz", clean)
    own = settings(root, tmp_path)
    report = verify(own, suspect, independent=[other], model="digits", count=200)

    assert report.found
    assert report.suspect.pictures == 200
    assert report.suspect.needed is not None
    assert report.suspect.needed <= 64
    assert report.independent[0].p > 0.01
    assert report.independent[0].needed is None
    assert list(report.suspect.along) == [16, 32, 64, 128, 200]


def test_another_secret_or_name_finds_nothing(
    root: Path, tmp_path: Path, clean: torch.Tensor
) -> None:
    suspect = saved(tmp_path / "suspect.npz", marked(clean))
    other = saved(tmp_path / "other.npz", marked(clean, "another model"))
    wrong = settings(root, tmp_path, secret="quite another secret")

    assert verify(wrong, suspect, model="digits").suspect.p > 1e-3
    assert verify(settings(root, tmp_path), other, model="digits").suspect.p > 1e-3


def test_an_independent_generator_that_shows_the_mark_makes_the_proof_void(
    root: Path, tmp_path: Path, clean: torch.Tensor
) -> None:
    suspect = saved(tmp_path / "suspect.npz", marked(clean))
    report = verify(settings(root, tmp_path), suspect, independent=[suspect], model="digits")

    assert not report.sound
    assert not report.found
    assert "this proves nothing" in verdict(report)[0]


def test_the_more_generators_are_compared_the_lower_each_may_be() -> None:
    """Of a hundred innocent ones one is at 0.01 by chance."""
    readings = [Reading("m", 20, p, {20: p}) for p in (1e-9, 0.006, 0.5)]

    assert not Report(readings[0], readings[1:2]).sound
    assert Report(readings[0], readings[1:]).sound
    assert not Report(readings[0], [*readings[1:], readings[0]]).sound


def test_where_nothing_could_be_said_it_is_told(root: Path, tmp_path: Path) -> None:
    own = settings(root, tmp_path)

    assert marks(own, "digits")
    assert not marks(own, "mnist")
    with pytest.raises(ConfigError, match="name one with --model"):
        verify(own, "a.npz")
    with pytest.raises(ConfigError, match="model 'mnist' has no defense 'watermark'"):
        verify(own, "a.npz", model="mnist")
    with pytest.raises(ConfigError, match="no such file; without the secret"):
        key_of(settings(root, tmp_path, secret=None), "digits")


def test_pictures_of_several_sizes_are_read_together(clean: torch.Tensor) -> None:
    key = Mark(SECRET.encode(), "digits").key
    both = [marked(clean[:40]), marked(clean[:40])[:, :, :24, :24]]
    reading = read("suspect", both, key)

    assert reading.pictures == 80
    assert reading.p < 1e-6


def test_the_number_needed_is_that_from_which_on_every_reading_proves() -> None:
    along = {16: 1e-7, 32: 0.1, 64: 1e-8, 100: 1e-9}

    assert Reading("m", 100, 1e-9, along).needed == 64
    assert Reading("m", 100, 0.5, {100: 0.5}).needed is None


@pytest.mark.parametrize(
    ("p", "grade"),
    [(1.0, "none"), (1e-3, "weak"), (1e-6, "strong"), (1e-12, "overwhelming"), (2e-3, "none")],
)
def test_evidence_has_four_grades(p: float, grade: str) -> None:
    assert graded(p) == grade


@pytest.mark.parametrize(
    ("p", "telling"), [(1e-9, "one key in 1e"), (0.5, "The mark is not shown")]
)
def test_verdicts_say_what_they_do_not_show(p: float, telling: str) -> None:
    said = verdict(Report(Reading("m", 20, p, {20: p}), []))

    assert telling in said[0]
    assert "add --independent" in said[0]
    assert "never sole proof" in said[1]
