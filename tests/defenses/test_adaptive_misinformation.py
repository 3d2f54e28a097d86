import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from defenses.adaptive_misinformation import AdaptiveMisinformation
from mantlet import architectures, weights
from mantlet.errors import WeightsError
from mantlet.types import Prediction, Signal
from tests.helpers import SETUP, probabilities, query, rows

SURE, UNSURE = [0.97, 0.02, 0.01], [0.6, 0.3, 0.1]


def answered(
    values: list[list[float]], signals: dict[str, Signal] | None = None, **settings: Any
) -> list[list[float]]:
    defense = AdaptiveMisinformation(**settings)
    defense.load(SETUP)
    answer: Prediction = defense(probabilities(values), query(rows(len(values))), signals or {})
    return answer.values.tolist()


def suspected(*suspicion: float) -> dict[str, Signal]:
    values = torch.tensor(suspicion)
    return {"quiet": Signal(0 * values, values > 1, ""), "loud": Signal(values, values >= 1, "")}


def test_what_the_model_is_sure_of_is_answered_clean_and_the_rest_is_not() -> None:
    sure, unsure = answered([SURE, UNSURE], keep_label=False)

    assert sure == pytest.approx(SURE, abs=1e-6)
    assert unsure[0] < 1e-6
    assert max(unsure) > 1 - 1e-6


def test_the_share_of_misinformation_is_the_papers_sigmoid() -> None:
    (answer,) = answered([UNSURE], keep_label=False, threshold=0.7, sharpness=5.0)
    share = 1 / (1 + math.exp(-5.0 * (0.7 - 0.6)))

    assert answer[0] == pytest.approx((1 - share) * 0.6, abs=1e-6)


def test_a_label_that_is_kept_is_kept_for_every_row() -> None:
    values = torch.softmax(2 * torch.randn(500, 10, generator=torch.Generator().manual_seed(0)), 1)
    answers = torch.tensor(answered(values.tolist()))

    assert torch.equal(answers.argmax(dim=1), values.argmax(dim=1))
    assert (answers - values).abs().sum(dim=1).mean() > 0.5


def test_which_class_is_wrong_is_known_with_the_secret_alone() -> None:
    values, asked = probabilities([[0.4, 0.3, 0.2, 0.1]] * 200), query(rows(200))
    named = []
    for secret in (b"one secret", b"another"):
        defense = AdaptiveMisinformation(keep_label=False)
        defense.load(replace(SETUP, secret=secret))
        named.append(defense(values, asked, {}).values.argmax(dim=1))

    assert 0.2 < float((named[0] == named[1]).double().mean()) < 0.47, "a third by chance"


def test_wrong_classes_are_drawn_evenly_and_never_the_right_one() -> None:
    answers = torch.tensor(answered([[0.4, 0.3, 0.2, 0.1]] * 900, keep_label=False))
    drawn = answers.argmax(dim=1).bincount(minlength=4)

    assert drawn[0] == 0
    assert drawn[1:].min() > 240


def test_with_suspicion_as_driver_a_suspected_client_is_misled_on_sure_rows_too() -> None:
    signals = suspected(0.0, 0.95)
    free, misled = answered([SURE, SURE], signals, driver="suspicion", keep_label=False)

    assert free == pytest.approx(SURE, abs=1e-6)
    assert misled[0] < 1e-6


def test_with_suspicion_as_driver_and_no_detector_everybody_is_answered_clean() -> None:
    assert answered([UNSURE], driver="suspicion") == [pytest.approx(UNSURE, abs=1e-6)]


def saved(folder: Path) -> tuple[nn.Module, Path]:
    """A network of three classes and its file."""
    recipe = {"architecture": "lenet", "settings": {"width": 2, "classes": 3}}
    network, path = (
        architectures.build("lenet", {"width": 2, "classes": 3}),
        folder / "w.safetensors",
    )
    weights.save(network, path, {"recipe": json.dumps(recipe)})
    return network, path


@pytest.mark.parametrize(
    ("shape", "classes", "words"),
    [
        ((1, 28, 28), 10, "knows 3 classes, the victim 10"),
        ((3, 32, 32), 3, r"does not take rows of shape \(3, 32, 32\)"),
    ],
)
def test_a_network_that_does_not_fit_the_victim_is_refused_at_load(
    shape: tuple[int, ...], classes: int, words: str, tmp_path: Path
) -> None:
    _, path = saved(tmp_path)
    setup = replace(SETUP, shape=shape, classes=classes)

    with pytest.raises(WeightsError, match=words):
        AdaptiveMisinformation(weights=path).load(setup)


def test_a_network_gives_the_misinformation(tmp_path: Path) -> None:
    network, path = saved(tmp_path)
    defense = AdaptiveMisinformation(weights=path, keep_label=False)
    defense.load(SETUP)
    inputs = rows(4, shape=(1, 28, 28))
    answer = defense(probabilities([UNSURE] * 4), query(inputs), {})

    assert torch.allclose(answer.values, torch.softmax(network(inputs), dim=1), atol=1e-5)


@pytest.mark.parametrize("metadata", [{}, {"recipe": "{}"}, {"recipe": "no JSON"}])
def test_a_network_of_no_known_architecture_is_refused(
    metadata: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata)

    with pytest.raises(WeightsError, match=r"names no architecture.*mantlet train"):
        AdaptiveMisinformation(weights=path).load(SETUP)
