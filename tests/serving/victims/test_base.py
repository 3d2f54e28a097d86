"""What all victims share: bounds of the inputs and their normalisation."""

from math import inf, nan

import pytest
import torch
from pydantic import ValidationError

from mantlet.errors import ConfigError
from serving.victims.base import first_line
from serving.victims.torch import TorchVictim


def victim(**settings: object) -> TorchVictim:
    return TorchVictim.model_validate({"weights": "w", "architecture": "lenet"} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": [0.5]}, "mean has 1 numbers, std 0; give both"),
        ({"std": [0.5]}, "mean has 0 numbers, std 1; give both"),
        ({"mean": [0.5, 0.5], "std": [0.5, 0.0]}, "must be above 0"),
        ({"low": 1.0, "high": 1.0}, "low 1.0 is not below high 1.0"),
        ({"low": 255.0}, "low 255.0 is not below high 1.0"),
        ({"low": -inf}, "finite number"),
        ({"high": nan}, "finite number"),
        ({"mean": [nan], "std": [1.0]}, "finite number"),
        ({"mean": [0.5], "std": [inf]}, "finite number"),
        ({"output_range": [-inf, 1.0]}, "finite number"),
        ({"output_range": [1.0, 1.0]}, "one value for black and white"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        victim(**settings)


def test_misspelled_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        victim(means=[0.5])


def test_every_channel_is_normalised_with_its_own_mean_and_std() -> None:
    inputs = torch.full((2, 3, 4, 5), 0.5)
    normalized = victim(mean=[0.0, 0.5, 1.0], std=[1.0, 2.0, 0.25]).normalized(inputs)

    assert normalized[:, 0].eq(0.5).all()
    assert normalized[:, 1].eq(0.0).all()
    assert normalized[:, 2].eq(-2.0).all()
    assert inputs.eq(0.5).all()


def test_flat_rows_are_normalised_too() -> None:
    normalized = victim(mean=[1.0], std=[2.0]).normalized(torch.full((3, 7), 5.0))

    assert normalized.shape == (3, 7)
    assert normalized.eq(2.0).all()


def test_without_mean_inputs_stay_as_they_are() -> None:
    inputs = torch.rand(2, 3)

    assert victim().normalized(inputs) is inputs


def test_mean_of_another_number_of_channels_is_named() -> None:
    with pytest.raises(ConfigError, match=r"mean has 3 numbers, but rows .* have 1 channels"):
        victim(mean=[0.1, 0.2, 0.3], std=[1, 1, 1]).input_spec((1, 28, 28))


def test_one_mean_serves_all_channels() -> None:
    spec = victim(mean=[0.1], std=[1.0], low=None, high=2.0).input_spec((3, 8, 8), "x", "FP64")

    assert (spec.shape, spec.name, spec.datatype) == ((3, 8, 8), "x", "FP64")
    assert (spec.low, spec.high) == (None, 2.0)


def test_errors_of_other_libraries_become_one_short_line() -> None:
    assert first_line(ValueError("first\nsecond")) == "ValueError: first"
    assert first_line(AssertionError()) == "AssertionError: "
    assert len(first_line(ValueError("x" * 10_000))) < 250
