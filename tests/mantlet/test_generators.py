from pathlib import Path

import pytest
import torch

from mantlet import architectures, weights
from mantlet.generators import DcganDiscriminator, DcganGenerator

GENERATORS = ("dcgan", "gan_mlp", "wgan")


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("latent", [64, 10])
def test_a_generator_draws_pictures_in_the_range_that_it_names(name: str, latent: int) -> None:
    network = architectures.build(name, {"latent": latent}).eval()
    low, high = network.output_range  # type: ignore[misc]
    pictures = network(1e4 * torch.randn(5, latent))

    assert network.task == "generate"
    assert network.input_shape == (latent,)
    assert pictures.shape == (5, 1, 28, 28)
    assert low <= pictures.min() < -0.5 < 0.5 < pictures.max() <= high


@pytest.mark.parametrize("name", GENERATORS)
def test_a_picture_does_not_depend_on_the_others_of_its_batch(name: str) -> None:
    network = architectures.build(name, {}).eval()
    latents = torch.randn(4, 64)

    assert torch.allclose(network(latents)[2:3], network(latents[2:3]), atol=1e-5)


@pytest.mark.parametrize("name", ["dcgan", "wgan"])
def test_generators_draw_in_colour_too(name: str) -> None:
    assert architectures.build(name, {"channels": 3})(torch.randn(2, 64)).shape == (2, 3, 28, 28)


def test_the_default_is_small_and_its_file_too(tmp_path: Path) -> None:
    network = DcganGenerator()
    weights.save(network, tmp_path / "g.safetensors", {})

    assert sum(parameter.numel() for parameter in network.parameters()) == 169_489
    assert (tmp_path / "g.safetensors").stat().st_size < 1_500_000


def test_a_discriminator_that_learned_scores_each_picture_by_itself() -> None:
    judge = DcganDiscriminator(channels=3)
    pictures = torch.randn(6, 3, 28, 28)
    judge(pictures)  # the statistics of its batch norms
    judge.eval()
    scores = judge(pictures)

    assert judge.input_shape == (3, 28, 28)
    assert scores.shape == (6,)
    assert torch.allclose(scores[3:4], judge(pictures[3:4]), atol=1e-5)


def test_weights_of_others_fit_by_their_own_names() -> None:
    """The names in public checkpoints of these two networks."""
    wgan = {f"gen.{n}.0.weight" for n in range(4)} | {"gen.0.1.running_mean", "gen.3.0.bias"}
    mlp = {f"{n}.{kind}" for n in (0, 2, 4) for kind in ("weight", "bias")}

    assert wgan < architectures.build("wgan", {}).state_dict().keys()
    assert mlp == architectures.build("gan_mlp", {}).state_dict().keys()
