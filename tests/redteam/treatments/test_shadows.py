"""Pairs of defended and clean answers that a thief makes for itself."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from defenses.gaussian_noise import GaussianNoise
from defenses.rounding import Rounding
from redteam.learning import Means, Transfer
from redteam.treatments import AnyTreatment
from redteam.treatments.bayes import Bayes
from redteam.treatments.shadows import Shadows
from tests.redteam.thieves import SHORT, bands, pictures


def pairs(treatment: Shadows, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = pictures(120)
    generator = torch.Generator().manual_seed(seed)
    return treatment.pairs(Transfer(inputs, bands(inputs)), Means(inputs), generator)


def test_each_shadow_answers_the_half_that_it_was_not_trained_on_and_is_defended() -> None:
    defended, clean = pairs(Bayes(defense=Rounding(decimals=1), count=3, shadow=SHORT))

    assert defended.shape == clean.shape == (3 * 60, 10)
    torch.testing.assert_close(clean.sum(dim=1), torch.ones(180))
    assert not torch.equal(defended, clean)
    assert float((defended - clean).abs().max()) < 0.5


def test_the_key_is_drawn_from_the_generator_and_so_is_all_else() -> None:
    treatment = Bayes(defense=GaussianNoise(sigma=0.1), count=1, shadow=SHORT)
    first, again, other = (pairs(treatment, seed=seed) for seed in (0, 0, 1))

    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_the_defense_is_settings_as_in_a_config_and_is_written_whole() -> None:
    adapter: TypeAdapter[AnyTreatment] = TypeAdapter(AnyTreatment)
    settings = {"type": "inverse", "defense": {"type": "rounding", "decimals": 3}}
    treatment = adapter.validate_python(settings)

    assert treatment.model_dump()["defense"]["decimals"] == 3
    assert adapter.validate_python(treatment.model_dump()) == treatment
    with pytest.raises(ValidationError, match="did you mean 'rounding'"):
        adapter.validate_python({"type": "bayes", "defense": {"type": "roundin"}})
