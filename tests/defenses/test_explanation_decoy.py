"""A decoy ranks places as the true map does, and is orthogonal to it."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import spearmanr

from defenses.explanation_decoy import ExplanationDecoy
from mantlet import regions
from mantlet.data import Images
from mantlet.errors import ConfigError
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction
from serving.explaining import Explain
from serving.victims.torch import TorchVictim
from tests.helpers import SETUP, query


def loaded(shape: tuple[int, ...], **settings: object) -> ExplanationDecoy:
    defense = ExplanationDecoy.model_validate(settings)
    defense.load(Setup(SETUP.device, SETUP.secret, shape=shape))
    return defense


@pytest.fixture(params=["noise", "shadow"])
def decoy(request: pytest.FixtureRequest, root: Path) -> ExplanationDecoy:
    if request.param == "noise":
        return loaded((1, 28, 28))
    path = root / "configs/models/mnist-lenet.safetensors"
    return loaded((1, 28, 28), weights=path, architecture="lenet")


def test_it_ranks_as_the_true_map_and_is_orthogonal(
    decoy: ExplanationDecoy, shipped_victim: TorchVictim, digits: Images
) -> None:
    inputs = torch.from_numpy(digits.x[:50])
    top = shipped_victim.predict(inputs).values.argmax(dim=1)
    true = shipped_victim.explainer(Explain(), b"key").explain(inputs, top, "gradient").values
    values = decoy(Prediction(true, Kind.ATTRIBUTIONS), query(inputs), {}).values
    cells = [regions.magnitudes(maps, decoy.cell) for maps in (true, values)]
    ranks = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(*cells, strict=True)]
    cosines = torch.nn.functional.cosine_similarity(values.flatten(1), true.flatten(1))

    assert sum(ranks) / len(ranks) >= 0.8
    assert float(cosines.abs().max()) <= 1e-4
    assert float(values.min()) < 0 < float(values.max())


def test_without_the_secret_nobody_knows_the_noise_in_a_shadows_place() -> None:
    true = torch.randn(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    first, second = (ExplanationDecoy(), ExplanationDecoy())
    first.load(Setup(SETUP.device, b"one secret", shape=(1, 28, 28)))
    second.load(Setup(SETUP.device, b"another", shape=(1, 28, 28)))
    one, other = (
        decoy(Prediction(true, Kind.ATTRIBUTIONS), query(true), {}).values.flatten(1)
        for decoy in (first, second)
    )
    cosines = torch.nn.functional.cosine_similarity(one, other)

    assert float(cosines.abs().max()) < 0.25


def test_a_shadow_needs_weights_and_architecture() -> None:
    with pytest.raises(ValidationError, match="both 'weights' and 'architecture'"):
        ExplanationDecoy(architecture="lenet")


def test_a_shadow_of_other_rows_is_refused_at_load(root: Path) -> None:
    path = root / "configs/models/mnist-lenet.safetensors"

    with pytest.raises(ConfigError, match=r"has no gradient after rows of shape \(3, 8, 8\)"):
        loaded((3, 8, 8), weights=path, architecture="lenet")
