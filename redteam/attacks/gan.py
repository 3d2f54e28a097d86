"""Theft of a generator by the pictures that it sells (Hu and Pang, 2021)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from mantlet import architectures
from mantlet.errors import ConfigError
from mantlet.finite import all_finite
from mantlet.gan_training import Gan, GanSettings, fit_gan, untrained
from redteam.attacks.metropolis import calibrated, selected
from redteam.attacks.washing import Wash
from redteam.client.oracle import Came, Oracle, Refused
from redteam.learning import seeded

Progress = Callable[[int, int], None]
"""Told how many pictures came, of how many."""


class Source(Protocol):
    """Sells pictures: ``draw`` gives (n, C, H, W) in [0, 1], each for ``times`` rows; ``rows`` counts what was asked.

    Raises `Refused`, with the pictures of this draw that came nonetheless.
    """

    @property
    def rows(self) -> int: ...
    @property
    def times(self) -> int: ...
    def draw(self, count: int) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class ByLatents:
    """Pictures of an oracle for normal latents of ``size`` numbers that the thief draws.

    Each latent is asked ``times`` times, and the mean is the picture: a thief's answer to noise that is
    drawn anew.
    """

    oracle: Oracle
    size: int
    generator: torch.Generator
    times: int = 1

    @property
    def rows(self) -> int:
        return self.oracle.rows

    def draw(self, count: int) -> Tensor:
        latents = torch.randn(count, self.size, generator=self.generator)
        return _mean(lambda: self.oracle.query(latents), self.times)


class Generating(Protocol):
    """Gives the (rows, C, H, W) pictures of a seed, and counts rows."""

    @property
    def rows(self) -> int: ...
    def generate(self, seed: int, rows: int) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class BySeeds:
    """Pictures for seeds that the thief draws, a seed a request, as clients without latents ask for them."""

    oracle: Generating
    generator: torch.Generator
    times: int = 1

    @property
    def rows(self) -> int:
        return self.oracle.rows

    def draw(self, count: int) -> Tensor:
        seed = int(torch.randint(2**31, (), generator=self.generator))
        return _mean(lambda: self.oracle.generate(seed, count), self.times)


def _mean(ask: Callable[[], Tensor], times: int) -> Tensor:
    """The mean of (n, ...) answers to one question; where one is refused, that of the others goes with it."""
    told: list[Tensor] = []
    for _ in range(times):
        try:
            told.append(ask())
        except Refused as refusal:
            came = refusal.came
            if told:
                came = Came(torch.arange(len(told[0])), torch.stack(told).mean(dim=0))
            raise Refused(str(refusal), came) from refusal
    return torch.stack(told).mean(dim=0)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a thief has beside the API: ``real`` (n, C, H, W) pictures of the kind that the victim learned from,
    and the victim's ``discriminator``, should it have leaked.
    """

    real: Tensor | None = None
    discriminator: nn.Module | None = None


@dataclass(frozen=True, slots=True)
class Haul:
    """What the theft of a generator brings home: the clone, the pictures it learned from, the rows sent, why it ended.

    ``bought`` are the pictures as they came, ``pictures`` what became of them.
    """

    clone: Gan
    pictures: Tensor
    rows: int
    ended: str
    bought: Tensor


class GanTheft(BaseModel):
    """Buys pictures, and trains a GAN of its own on them as if they were a data set.

    Source: Hu and Pang, "Stealing machine learning models: attacks and countermeasures for generative adversarial
    networks", ACSAC 2021: nothing is learned of the victim but its pictures. ``training`` is the same whatever the
    budget; the clone's ``architecture``, with its ``settings``, is the thief's choice, a DCGAN where none is named.
    Two things make it the paper's second attack, which aims at the real distribution in place of the API's: ``real_share``
    of the set are real pictures of the thief; a leaked discriminator, calibrated on real pictures, picks every
    ``every``-th state of ``chains`` Metropolis-Hastings chains. ``washing`` is done, in order, to what was bought.

    The same settings, knowledge, pictures and generator give the same clone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["gan"] = "gan"
    request: PositiveInt = 256
    training: GanSettings = GanSettings()
    architecture: str = ""
    settings: dict[str, int | float | str | bool] = {}
    real_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    washing: tuple[Wash, ...] = ()
    chains: PositiveInt = 200
    every: PositiveInt = 5

    def run(
        self,
        source: Source,
        *,
        budget: int,
        generator: torch.Generator,
        knowledge: Knowledge = Knowledge(),
        progress: Progress = lambda done, total: None,
        learning: Progress = lambda done, total: None,
    ) -> Haul:
        """Buy pictures for ``budget`` rows and train; a refusal ends the buying alone.

        ``progress`` is told of pictures as they come, ``learning`` of the updates of the training.
        Raises `ConfigError` where too few pictures came for one batch, or where answers are no pictures.
        """
        bought, ended = self.buy(source, budget, progress)
        pictures = self.prepared(bought, knowledge, generator)
        if len(pictures) < self.training.batch:
            raise ConfigError(
                f"attack 'gan' has {len(pictures)} pictures, and a batch is {self.training.batch}: {ended}"
            )
        start = self._untrained(pictures.shape[1], generator) if self.architecture else None
        clone = fit_gan(
            pictures,
            self.training,
            generator,
            start=start,
            progress=lambda now: learning(now.step, now.steps),
        )
        return Haul(clone, pictures, source.rows, ended, bought)

    def _untrained(self, channels: int, generator: torch.Generator) -> Gan:
        settings = {"latent": self.training.latent} | self.settings
        with seeded(generator):
            network = architectures.build(self.architecture, settings)
        return replace(untrained(self.training, channels, generator), generator=network)

    def buy(
        self, source: Source, budget: int, progress: Progress = lambda done, total: None
    ) -> tuple[Tensor, str]:
        """(n, C, H, W) pictures for ``budget`` rows, and why no more came."""
        parts: list[Tensor] = []
        wanted, came = budget // source.times, 0
        while came < wanted:
            try:
                parts.append(_pictures(source.draw(min(self.request, wanted - came))))
            except Refused as refusal:
                parts += [] if refusal.came is None else [_pictures(refusal.came.answers)]
                return _joined(parts), str(refusal)
            came += len(parts[-1])
            progress(came, wanted)
        return _joined(parts), "budget spent"

    def prepared(self, bought: Tensor, knowledge: Knowledge, generator: torch.Generator) -> Tensor:
        """What the clone learns from: the pictures selected, washed, and mixed with real ones."""
        pictures = bought
        if knowledge.discriminator is not None:
            pictures = self._selected(bought, knowledge, generator)
        for wash in self.washing:
            pictures = wash.apply(pictures, generator)
        if not self.real_share:
            return pictures
        if knowledge.real is None:
            raise ConfigError("attack 'gan' has a real_share and no real pictures; give some")
        wanted = round(len(pictures) * self.real_share / (1 - self.real_share))
        real = knowledge.real[torch.randint(len(knowledge.real), (wanted,), generator=generator)]
        return torch.cat([pictures, real])

    def _selected(self, bought: Tensor, knowledge: Knowledge, generator: torch.Generator) -> Tensor:
        real, discriminator = knowledge.real, knowledge.discriminator
        if real is None or discriminator is None:
            raise ConfigError(
                "attack 'gan' calibrates a leaked discriminator on real pictures; give some"
            )
        odds = calibrated(discriminator, real, bought[: len(real)])
        picked = selected(odds(bought), chains=self.chains, every=self.every, generator=generator)
        return bought[picked]


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, 1, 28, 28)


def _pictures(answers: Tensor) -> Tensor:
    if answers.ndim != 4 or not answers.is_floating_point():
        raise ConfigError(
            f"the target answers {tuple(answers.shape)}; attack 'gan' learns from pictures: name a model that"
            " generates"
        )
    if not all_finite(answers):
        raise ConfigError("the target answers numbers that are not finite; mend the target")
    return answers
