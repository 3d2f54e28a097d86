import numpy as np
import pytest
import torch

from defenses.semantic_interpolation import (
    SemanticInterpolation,
    principal_directions,
    turned,
)
from mantlet.errors import ConfigError
from mantlet.plugin import Setup
from tests.helpers import SETUP, TinyGenerator, query


def loaded(latent: int = 8, **settings: int) -> SemanticInterpolation:
    defense = SemanticInterpolation.model_validate({"anchors": 5, "steps": 2} | settings)
    defense.load(Setup(SETUP.device, SETUP.secret, victim=TinyGenerator(latent=latent)))
    return defense


def test_turning_keeps_the_norm_and_turns_by_the_angle() -> None:
    rng = np.random.default_rng(0)
    latents, axes = rng.standard_normal((2, 50, 16))
    after = turned(latents, axes, np.full(50, 0.4))
    norm, was = np.linalg.norm(after, axis=1), np.linalg.norm(latents, axis=1)

    assert np.allclose(norm, was)
    assert np.allclose((after * latents).sum(axis=1) / was**2, np.cos(0.4))
    assert ((after - latents * np.cos(0.4)) * axes).sum(axis=1).min() > 0


def test_a_latent_along_the_axis_stays() -> None:
    latent = np.array([[0.0, 3.0]])

    assert np.allclose(turned(latent, latent / 3, np.array([0.5])), latent)


@pytest.mark.parametrize("latent", [8, 48])
def test_directions_are_those_along_which_pictures_change_most(latent: int) -> None:
    """The generator's numbers weigh 1, 0.6, 0.36, ...; with 48 it is probed in 32 directions at a time."""
    found = principal_directions(TinyGenerator(latent=latent), probed=60, seed=0)

    assert np.allclose(found @ found.T, np.eye(latent), atol=1e-9)
    assert (np.abs(found).argmax(axis=1)[:3] == [0, 1, 2]).all()
    assert np.abs(np.diagonal(found))[:3].min() > 0.9


def test_what_an_identity_gets_are_edits_of_its_anchors() -> None:
    defense = loaded(directions=3)
    rows = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    found = torch.unique(defense(query(rows)).inputs, dim=0).double().numpy()
    anchors = defense.drawn(["client"] * 5, np.arange(5), 8)
    cosines = (found @ anchors.T) / np.outer(
        np.linalg.norm(found, axis=1), np.linalg.norm(anchors, axis=1)
    )

    assert len(found) == 5 * 3 * 2 * 2
    assert np.abs(cosines[..., None] - np.cos([0.3, 0.6])).min(axis=(1, 2)).max() < 1e-5


def test_without_a_generator_it_says_so() -> None:
    with pytest.raises(ConfigError, match="no generator"):
        SemanticInterpolation().load(SETUP)
