from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from mantlet import architectures, weights
from mantlet.errors import ConfigError, WeightsError
from mantlet.plugin import Setup
from mantlet.surrogates import SurrogateDefense
from tests.helpers import SETUP, probabilities, query, rows

PICTURES = (1, 28, 28)
SMALL: dict[str, Any] = {"architecture": "lenet", "settings": {"width": 2}}


class Asking(SurrogateDefense):
    """Moves rows to what its surrogate says, where that keeps the top class."""

    type: Literal["asking"] = "asking"

    def moved(self, clean: Tensor, network: nn.Module, inputs: Tensor) -> Tensor:
        return network(inputs).softmax(dim=1).detach()


class Tying(SurrogateDefense):
    """Moves rows to where all classes are alike."""

    type: Literal["tying"] = "tying"

    def moved(self, clean: Tensor, network: nn.Module, inputs: Tensor) -> Tensor:
        return torch.full_like(clean, 1 / clean.shape[1])


def loaded(secret: bytes = SETUP.secret, **settings: Any) -> Asking:
    defense = Asking(**settings)
    defense.load(Setup(SETUP.device, secret, shape=PICTURES, classes=10))
    return defense


def weight(defense: SurrogateDefense) -> Tensor:
    first: nn.Parameter = next(defense.network(PICTURES, 10).parameters())
    return first.detach()


def test_without_an_architecture_the_surrogate_fits_whatever_is_asked() -> None:
    defense = loaded()

    assert defense.network((1, 4, 4), 3)(torch.zeros(2, 1, 4, 4).double()).shape == (2, 3)
    assert defense.network(PICTURES, 10)(torch.zeros(2, *PICTURES).double()).shape == (2, 10)


@pytest.mark.parametrize("settings", [{}, SMALL], ids=["one hidden layer", "lenet"])
def test_an_untrained_surrogate_is_drawn_from_the_secret_and_the_name(
    settings: dict[str, Any],
) -> None:
    drawn = weight(loaded(**settings))

    assert torch.equal(drawn, weight(loaded(**settings)))
    assert not torch.equal(drawn, weight(loaded(b"quite another secret", **settings)))
    assert not torch.equal(drawn, weight(loaded(name="another", **settings)))


def test_drawing_one_leaves_the_randomness_of_others_alone() -> None:
    before = torch.random.get_rng_state()
    loaded()

    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_are_read_from_a_safetensors_file(tmp_path: Path) -> None:
    network = architectures.build("lenet", SMALL["settings"])
    weights.save(network, tmp_path / "w.safetensors", {})
    defense = loaded(**SMALL, weights=tmp_path / "w.safetensors")

    assert torch.equal(weight(defense), next(network.parameters()).double())


def test_a_row_does_not_see_who_else_is_in_the_batch() -> None:
    """Batch statistics are not used, and double precision leaves nothing of the order of sums."""
    defense = Asking(architecture="resnet", settings={"blocks": 1})
    defense.load(SETUP)
    network = defense.network((3, 32, 32), 10)
    inputs = rows(5, shape=(3, 32, 32)).double()
    alone = torch.cat([network(row) for row in inputs.split(1)])

    assert torch.allclose(network(inputs), alone, atol=1e-12)


def test_the_top_class_leads_where_the_rows_would_be_tied() -> None:
    """A client whose arg-max takes the last of equals still gets the label."""
    defense = Tying()
    defense.load(SETUP)
    answer = defense(probabilities([[0.9, 0.1], [0.2, 0.8]]), query(rows(2)), {}).values

    assert (answer.amax(dim=1) - answer.amin(dim=1)).tolist() == pytest.approx(
        [8e-4, 6e-4], abs=1e-6
    )
    assert answer.argmax(dim=1).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"architecture": "lenett"}, ConfigError, "lenet"),
        ({"architecture": "resnet"}, ConfigError, "does not fit rows of shape"),
        (
            {"architecture": "lenet", "settings": {"classes": 9}},
            ConfigError,
            r"answers \(1, 9\), wanted \(1, 10\)",
        ),
        ({"weights": Path("w.safetensors")}, ConfigError, "set architecture"),
        ({**SMALL, "weights": Path("nowhere.safetensors")}, WeightsError, "no such file"),
        ({**SMALL, "weights": Path("pickle.pt")}, WeightsError, "mantlet convert"),
    ],
)
def test_a_surrogate_that_does_not_fit_is_told_when_it_is_loaded(
    settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        loaded(**settings)


def test_weights_of_another_architecture_are_told_when_they_are_loaded(tmp_path: Path) -> None:
    weights.save(architectures.build("lenet", {"width": 3}), tmp_path / "w.safetensors", {})

    with pytest.raises(WeightsError, match="do not fit architecture 'lenet'"):
        loaded(**SMALL, weights=tmp_path / "w.safetensors")
