"""Theft of a generator: what is bought, what becomes of it, and what a clone has learned."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from mantlet.errors import ConfigError
from mantlet.gan_training import GanSettings, drawn
from redteam.attacks.gan import ByLatents, BySeeds, GanTheft, Knowledge
from redteam.attacks.washing import Wash
from redteam.client.oracle import InProcess
from redteam.client.over_http import OverHttp
from serving.pipeline import Pipeline
from tests.e2e.harness import Running
from tests.helpers import TinyGenerator
from tests.redteam.oracles import Patient

TINY = GanSettings(latent=4, width=2, discriminator_width=2, steps=3, batch=8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def theft(**settings: Any) -> GanTheft:
    return GanTheft(training=TINY, request=16, **settings)


def painted(latents: Tensor) -> Tensor:
    """(B, 1, 28, 28) flat pictures, as bright as the first number of a latent says."""
    return torch.sigmoid(latents[:, :1, None, None]).expand(-1, 1, 28, 28)


def shop(**settings: Any) -> Patient:
    return Patient(answer=painted, **settings)


def test_a_budget_is_rows_whatever_a_picture_costs() -> None:
    for times, pictures in ((1, 50), (4, 12)):
        oracle = shop()
        source = ByLatents(oracle, 4, seeded(), times=times)
        bought, ended = theft().buy(source, 50)

        assert len(bought) == pictures
        assert source.rows == oracle.rows == pictures * times
        assert ended == "budget spent"


def test_a_refusal_ends_the_buying_and_the_clone_learns_from_what_came() -> None:
    haul = theft().run(ByLatents(shop(most=40), 4, seeded()), budget=100, generator=seeded())

    assert len(haul.pictures) == 32
    assert haul.ended == "denied after 48 rows"
    assert drawn(haul.clone.generator, torch.randn(5, 4)).shape == (5, 1, 28, 28)


def test_the_same_theft_gives_the_same_clone() -> None:
    latents = torch.randn(3, 4, generator=seeded(9))
    made = []
    for seed in (0, 0, 1):
        source = ByLatents(shop(), 4, seeded(seed))
        haul = theft().run(source, budget=40, generator=seeded(seed))
        made.append(drawn(haul.clone.generator, latents))

    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_noise_that_is_drawn_anew_is_averaged_away() -> None:
    noise = seeded(3)
    oracle = Patient(
        answer=lambda x: painted(x) + 0.1 * torch.randn(len(x), 1, 28, 28, generator=noise)
    )
    latents = torch.randn(16, 4, generator=seeded())
    errors = [
        float((ByLatents(oracle, 4, seeded(), times=times).draw(16) - painted(latents)).std())
        for times in (1, 25)
    ]

    assert errors[1] < 0.3 * errors[0]


def test_real_pictures_are_mixed_in_by_their_share() -> None:
    real = torch.full((7, 1, 28, 28), 2.0)
    attack = theft(real_share=0.25)
    mixed = attack.prepared(torch.zeros(30, 1, 28, 28), Knowledge(real=real), seeded())

    assert len(mixed) == 40
    assert int((mixed[:, 0, 0, 0] == 2).sum()) == 10
    with pytest.raises(ConfigError, match="real_share and no real pictures"):
        attack.prepared(mixed, Knowledge(), seeded())


def test_washing_is_done_in_order_to_what_was_bought_alone() -> None:
    washing = (Wash(how="blur", strength=1), Wash(how="jpeg", strength=50))
    bought = torch.rand(9, 1, 28, 28, generator=seeded())
    real = torch.rand(4, 1, 28, 28, generator=seeded(1))
    prepared = theft(washing=washing, real_share=0.1).prepared(
        bought, Knowledge(real=real), seeded()
    )
    wanted = washing[1].apply(washing[0].apply(bought, seeded()), seeded())

    assert torch.equal(prepared[:9], wanted)
    assert (prepared[9] == real).all(dim=(1, 2, 3)).any()


class Brightness(nn.Module):
    """A discriminator that takes bright pictures for real."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.mean(dim=(1, 2, 3))


def test_a_leaked_discriminator_picks_what_looks_real() -> None:
    bought = painted(torch.randn(2000, 4, generator=seeded()))
    real = (bought[:100] * 0.5 + 0.45).clamp(0, 1)
    attack = theft(chains=20, every=5)
    picked = attack.prepared(bought, Knowledge(real, Brightness()), seeded())

    assert len(picked) == 400
    assert abs(picked.mean() - real.mean()) < 0.5 * abs(bought.mean() - real.mean())
    with pytest.raises(ConfigError, match="on real pictures; give some"):
        attack.prepared(bought, Knowledge(None, Brightness()), seeded())


@pytest.mark.parametrize(
    ("answer", "telling"),
    [
        (lambda x: torch.zeros(len(x), 10), "name a model that generates"),
        (lambda x: torch.full((len(x), 1, 28, 28), torch.nan), "not finite"),
        (lambda x: painted(x)[:, :, :8, :8], r"\(n, C, 28, 28\)"),
    ],
)
def test_what_is_no_picture_to_learn_from_is_named(
    answer: Callable[[Tensor], Tensor], telling: str
) -> None:
    source = ByLatents(Patient(answer=answer), 4, seeded())

    with pytest.raises(ConfigError, match=telling):
        theft().run(source, budget=20, generator=seeded())


def test_too_few_pictures_for_a_batch_are_named_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="0 pictures, and a batch is 8: denied after 16 rows"):
        theft().run(ByLatents(shop(most=3), 4, seeded()), budget=40, generator=seeded())


def test_a_pipeline_is_bought_from_in_process() -> None:
    victim = TinyGenerator()
    source = ByLatents(InProcess(Pipeline(victim)), 8, seeded())

    assert theft().buy(source, 40)[0].shape == (40, 1, 8, 8)
    assert source.rows == 40


def test_a_gateway_is_bought_from_over_http_by_latents_and_by_seeds(running: Running) -> None:
    with OverHttp(running.url, "digits", key=running.new_key()) as oracle:
        for source in (ByLatents(oracle, 64, seeded()), BySeeds(oracle, seeded())):
            before = source.rows
            haul = theft().run(source, budget=40, generator=seeded())

            assert len(haul.pictures) == source.rows - before == 40


@pytest.mark.parametrize("settings", [{"real_share": 1.0}, {"chains": 0}, {"washing": ["soap"]}])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GanTheft.model_validate(settings)
