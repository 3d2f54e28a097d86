"""Theft of a model that translates pictures."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from defenses.band_limit import BandLimit
from mantlet import likeness, translation_training
from mantlet.errors import ConfigError
from mantlet.translators import Superres
from redteam.attacks import translation
from redteam.attacks.translation import I2i, Learned, PictureMeans
from redteam.client.oracle import Refused
from redteam.client.over_http import OverHttp
from tests.e2e.harness import Running

SETTINGS: Mapping[str, int] = {"width": 4}
SHORT = I2i(steps=250, batch=8, request=16, wavelet=0.0)


class Sharpener:
    """Doubles pictures and their contrast; denies the client after ``until`` rows."""

    def __init__(self, until: int = 10**6) -> None:
        self.rows = self.floats = 0
        self.until = until
        self.asked: list[Tensor] = []

    def query(self, inputs: Tensor) -> Tensor:
        if self.rows + len(inputs) > self.until:
            raise Refused("denied")
        self.rows += len(inputs)
        self.asked.append(inputs)
        return self.clean(inputs)

    @staticmethod
    def clean(inputs: Tensor) -> Tensor:
        large = nn.functional.interpolate(inputs, scale_factor=2, mode="bilinear")
        return (2 * large - 0.5).clamp(0, 1)


def quality(made: Tensor, wanted: Tensor) -> float:
    return float(likeness.psnr(made, wanted).mean())


def pool(count: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, 1, 3, 3, generator=generator)
    return nn.functional.interpolate(rough, size=(10, 10), mode="bilinear").clamp(0, 1)


def stolen(attack: I2i, *, budget: int = 48, seed: int = 0, until: int = 10**6) -> Learned:
    generator = torch.Generator().manual_seed(seed)
    means = PictureMeans(pool(), settings=SETTINGS)
    return attack.run(Sharpener(until), means, budget=budget, generator=generator)


@pytest.mark.parametrize("changes", [{}, {"wavelet": 0.15}, {"sam": "all"}, {"sam": "late"}])
def test_the_clone_does_what_the_target_does(changes: Mapping[str, object]) -> None:
    learned = stolen(SHORT.model_copy(update=dict(changes)))
    fresh = pool(seed=9)
    wanted = Sharpener.clean(fresh)
    untrained = translation_training.translated(Superres(width=4), fresh)
    made = translation_training.translated(learned.clone, fresh)

    assert learned.rows == len(learned.given) == 48
    assert quality(made, wanted) > quality(untrained, wanted) + 5


def test_the_same_generator_gives_the_same_queries_and_clone() -> None:
    attack = I2i(steps=5, batch=4, wavelet=0.15, sam="all")
    one, other = stolen(attack, seed=3), stolen(attack, seed=3)
    pairs = zip(one.clone.parameters(), other.clone.parameters(), strict=True)

    assert torch.equal(one.given, other.given)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_bands_are_faded_in() -> None:
    """At the first update they count nothing, at the last all."""
    attack, plain = I2i(steps=2, wavelet=1.0), I2i(steps=2, wavelet=0.0)
    network, given = Superres(width=4), pool(4)
    wanted = Sharpener.clean(given)
    losses = [
        a._loss(network, given, wanted, s).item() for a in (attack, plain) for s in (0.0, 1.0)
    ]

    assert losses[0] == losses[2] == losses[3]
    assert losses[1] > losses[0]


def test_weights_go_uphill_by_rho_and_come_back() -> None:
    network = nn.Linear(3, 1, bias=False)
    before = network.weight.detach().clone()
    network(torch.tensor([[3.0, 0.0, 4.0]])).sum().backward()
    with translation.uphill(network, 0.5):
        moved = network.weight.detach() - before

    assert torch.allclose(moved, torch.tensor([[0.3, 0.0, 0.4]]), atol=1e-6)
    assert torch.equal(network.weight, before)


@pytest.mark.parametrize(("sam", "wanted"), [("none", 0), ("late", 2), ("all", 8)])
def test_late_means_the_last_quarter_of_the_updates(
    sam: str, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eight updates the last two."""
    climbed: list[float] = []
    real = translation.uphill

    def counted(network: nn.Module, rho: float) -> AbstractContextManager[None]:
        climbed.append(rho)
        return real(network, rho)

    monkeypatch.setattr(translation, "uphill", counted)
    attack = I2i.model_validate({"steps": 8, "batch": 2, "sam": sam, "rho": 0.03})
    attack.learn(pool(8), Sharpener.clean(pool(8)), PictureMeans(pool(8)), torch.Generator())

    assert climbed == [0.03] * wanted


def test_a_filter_that_the_thief_knows_is_behind_its_clone_and_not_in_it() -> None:
    """The clone is then nearer to what lies before the filter than one that learned filtered pictures."""
    known = BandLimit(details=2.5)
    given, fresh = pool(64), pool(seed=9)
    filtered, wanted = known.changed(Sharpener.clean(given)), Sharpener.clean(fresh)
    near = []
    for behind in (None, known):
        attack = SHORT.model_copy(update={"behind": behind})
        means = PictureMeans(given, settings=SETTINGS)
        clone = attack.learn(given, filtered, means, torch.Generator().manual_seed(0))
        near.append(quality(translation_training.translated(clone, fresh), wanted))

    assert near[1] > near[0] + 1


def test_a_refusal_ends_the_queries_and_not_the_attack() -> None:
    learned = stolen(SHORT.model_copy(update={"steps": 2}), until=32)

    assert (learned.rows, len(learned.given), learned.ended) == (32, 32, "denied")


def test_where_nothing_is_answered_there_is_no_clone() -> None:
    with pytest.raises(ConfigError, match="got no picture to learn from: denied"):
        stolen(SHORT, until=0)


def test_answers_that_are_no_pictures_are_refused() -> None:
    class Classifier(Sharpener):
        def query(self, inputs: Tensor) -> Tensor:
            return torch.full((len(inputs), 10), 0.1)

    with pytest.raises(ConfigError, match="name a model that translates"):
        SHORT.run(
            Classifier(), PictureMeans(pool()), budget=8, generator=torch.Generator().manual_seed(0)
        )


def test_a_clone_of_another_scale_is_refused() -> None:
    means = PictureMeans(pool(), settings={"scale": 4})
    with pytest.raises(ConfigError, match="give it the target's scale and channels"):
        SHORT.run(Sharpener(), means, budget=8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("protocol", ["v2", "v2-json"])
def test_a_served_translator_is_stolen_over_http(running: Running, protocol: str) -> None:
    victim = running.url, "enlarged"
    means = PictureMeans(pool().expand(-1, 3, -1, -1), settings={"channels": 3, "width": 4})
    with OverHttp(*victim, key=running.new_key(), protocol=protocol, batch=8) as oracle:  # type: ignore[arg-type]
        learned = SHORT.model_copy(update={"steps": 2}).run(
            oracle, means, budget=20, generator=torch.Generator().manual_seed(0)
        )

    assert learned.answers.shape == (20, 3, 20, 20)
    assert (learned.rows, oracle.floats) == (20, 20 * 3 * 400)


def test_settings_have_bounds() -> None:
    with pytest.raises(ValidationError):
        I2i(levels=0)
