"""What is shown ranks places as the true map does, and points nowhere."""

import torch
from scipy.stats import spearmanr

from defenses.explanation_display import ExplanationDisplay
from mantlet import regions
from mantlet.data import Images
from mantlet.types import Kind, Prediction
from serving.explaining import Explain
from serving.victims.torch import TorchVictim
from tests.helpers import query, rows


def shown(maps: torch.Tensor, **settings: float) -> torch.Tensor:
    defense = ExplanationDisplay.model_validate(settings)
    return defense(Prediction(maps, Kind.ATTRIBUTIONS), query(maps), {}).values


def test_steps_are_as_many_as_the_bits_give_and_reach_from_0_to_1() -> None:
    values = shown(torch.randn(20, 1, 28, 28), bits=3, cell=2)
    steps = (values * 7).unique()

    assert torch.allclose(steps, steps.round(), atol=1e-5)
    assert len(steps) <= 8
    assert float(values.max()) == 1.0
    assert float(values.min()) >= 0.0


def test_sign_and_scale_are_gone() -> None:
    maps = torch.randn(3, 1, 8, 8)

    assert torch.equal(shown(maps), shown(-1000 * maps))


def test_all_of_a_cell_and_all_channels_show_the_same() -> None:
    values = shown(torch.randn(2, 3, 8, 8))

    assert torch.equal(values[:, 0], values[:, 2])
    assert len(values[0, 0, :4, :4].unique()) == 1


def test_gamma_shows_weak_cells() -> None:
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 0, 0], maps[0, 0, 7, 7] = 1.0, 0.01

    assert float(shown(maps, gamma=1.0)[0, 0, 7, 7]) == 0.0
    assert float(shown(maps, gamma=0.5)[0, 0, 7, 7]) > 0.0


def test_ranks_stay_and_the_direction_of_the_gradient_goes(
    plain_victim: TorchVictim, digits: Images
) -> None:
    """Pooled ranks at 0.8 or more, and a cosine of 0.05 or less, on real digits and on noise."""
    explainer = plain_victim.explainer(Explain(), b"key")
    for inputs in (torch.from_numpy(digits.x[:100]), rows(100, shape=(1, 28, 28))):
        top = plain_victim.predict(inputs).values.argmax(dim=1)
        true = explainer.explain(inputs, top, "gradient").values
        values = shown(true)
        cells = regions.magnitudes(true, 4)
        there = regions.magnitudes(values, 4)
        ranks = [
            spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(cells, there, strict=True)
        ]
        cosines = torch.nn.functional.cosine_similarity(values.flatten(1), true.flatten(1))

        assert sum(ranks) / len(ranks) >= 0.95
        assert abs(float(cosines.mean())) <= 0.05
