"""The loop on small pictures and few steps; what it learns in minutes is in the card of the models."""

import pytest
import torch
from torch import Tensor

from mantlet.errors import ConfigError
from mantlet.gan_training import Gan, GanSettings, drawn, fit_gan
from mantlet.training import Progress

SETTINGS = GanSettings(latent=4, width=4, discriminator_width=4, steps=12, batch=8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def halves(count: int, *, channels: int = 1) -> Tensor:
    """Pictures that are white on one side, the left or the right."""
    pictures = torch.zeros(count, channels, 28, 28)
    pictures[::2, :, :, :14] = 1.0
    pictures[1::2, :, :, 14:] = 1.0
    return pictures


def same(first: Gan, second: Gan) -> bool:
    pairs = [(first.generator, second.generator), (first.discriminator, second.discriminator)]
    return all(
        torch.equal(a, b)
        for one, other in pairs
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.fixture(scope="module")
def trained() -> Gan:
    settings = GanSettings(
        latent=4, width=8, discriminator_width=8, steps=250, batch=32, average=0.95
    )
    return fit_gan(halves(512), settings, seeded(0))


def test_it_learns_to_draw_both_kinds_of_pictures(trained: Gan) -> None:
    pictures = drawn(trained.generator, torch.randn(200, 4, generator=seeded(1)))
    apart = (pictures[..., :14] - pictures[..., 14:]).mean(dim=(1, 2, 3))  # 1 or -1 of real ones

    assert apart.abs().median() > 0.5
    assert 0.1 < (apart > 0).float().mean() < 0.9


def test_the_discriminator_tells_noise_from_pictures(trained: Gan) -> None:
    real = 2 * halves(100) - 1
    noise = 2 * torch.rand(100, 1, 28, 28, generator=seeded(2)) - 1
    with torch.inference_mode():
        scores = [trained.discriminator(pictures).mean() for pictures in (real, noise)]

    assert scores[0] > scores[1]


def test_what_is_returned_is_ready_to_draw(trained: Gan) -> None:
    latents = torch.randn(40, 4, generator=seeded(3))
    together = drawn(trained.generator, latents)
    alone = drawn(trained.generator, latents[7:8])

    assert not trained.generator.training
    assert not trained.discriminator.training
    assert torch.allclose(together[7:8], alone, atol=1e-5)
    assert 0 <= together.min() < together.max() <= 1


def test_one_seed_gives_one_network_and_another_seed_another() -> None:
    before = torch.get_rng_state()
    first, again, other = (fit_gan(halves(40), SETTINGS, seeded(n)) for n in (0, 0, 1))

    assert same(first, again)
    assert not same(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_looking_on_changes_nothing_and_sees_what_is_returned_at_the_end() -> None:
    seen: dict[int, Gan] = {}
    watched = fit_gan(halves(40), SETTINGS, seeded(0), watch=seen.__setitem__, watch_every=5)

    assert list(seen) == [5, 10, 12]
    assert same(seen[12], watched)
    assert not same(seen[5], seen[10])
    assert same(watched, fit_gan(halves(40), SETTINGS, seeded(0)))


def test_training_goes_on_from_given_networks_and_leaves_them_as_they_are() -> None:
    first = fit_gan(halves(40), SETTINGS, seeded(0))
    kept = fit_gan(halves(40), SETTINGS, seeded(0))
    barely = SETTINGS.model_copy(update={"lr": 1e-9, "discriminator_lr": 1e-9, "steps": 1})
    second = fit_gan(halves(40), barely, seeded(1), start=first)
    learned = zip(first.generator.parameters(), second.generator.parameters(), strict=True)

    assert same(first, kept)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in learned)


def test_progress_counts_steps_and_epochs() -> None:
    seen: list[Progress] = []
    fit_gan(halves(40), SETTINGS, seeded(0), progress=seen.append)

    assert [p.step for p in seen] == list(range(1, 13))
    assert {p.steps for p in seen} == {12}
    assert [p.epoch for p in seen] == [1] * 5 + [2] * 5 + [3] * 2


def test_a_copy_learns_from_what_a_generator_drew() -> None:
    original = fit_gan(halves(40), SETTINGS, seeded(0))
    pictures = drawn(original.generator, torch.randn(40, 4, generator=seeded(1)))

    assert not same(original, fit_gan(pictures, SETTINGS, seeded(0)))
    assert not torch.nn.Conv2d(1, 1, 3)(pictures).isnan().any()  # and so may any other network


def test_pictures_in_colour_are_learned_too() -> None:
    gan = fit_gan(halves(16, channels=3), SETTINGS, seeded(0))

    assert drawn(gan.generator, torch.randn(2, 4)).shape == (2, 3, 28, 28)


@pytest.mark.parametrize("shape", [(7, 1, 28, 28), (40, 1, 32, 32), (40, 28, 28)])
def test_pictures_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"wanted \(n, C, 28, 28\), at least a batch of 8"):
        fit_gan(torch.zeros(shape), SETTINGS, seeded(0))
