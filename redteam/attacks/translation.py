"""Theft of a model from pictures to pictures by its answers (Mi et al., 2024; Szyller et al., 2021)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from defenses.band_limit import BandLimit
from mantlet import architectures
from mantlet.errors import ConfigError
from mantlet.finite import all_finite
from redteam.attacks.wavelets import Basis, high_band_error
from redteam.client.oracle import Oracle, Refused
from redteam.learning import seeded

Progress = Callable[[int, int], None]
OUTSIDE = 0.02
"""Weight of what lies outside [0, 1] of a copy with a filter behind it, where clipping leaves no gradient."""
LATE = 0.75
"""Share of the updates after which late sharpness-aware minimisation begins."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What a theft brings home: the clone, the pairs it learned from, the rows sent, and why it ended."""

    clone: nn.Module
    given: Tensor
    answers: Tensor
    rows: int
    ended: str


@dataclass(frozen=True, slots=True)
class PictureMeans:
    """What the thief has: ``pool`` (n, C, H, W) of its own pictures, and the network it trains."""

    pool: Tensor
    architecture: str = "superres"
    settings: Mapping[str, int | float | str | bool] = field(default_factory=dict)

    def fitted(self, given: Tensor, wanted: Tensor) -> Mapping[str, int | float | str | bool]:
        """The settings; a `superres` without a scale gets that of the answers."""
        if self.architecture != "superres" or "scale" in self.settings:
            return self.settings
        return {"scale": max(1, wanted.shape[2] // given.shape[2]), **self.settings}


class I2i(BaseModel):
    """Sends pictures of its own, once each, and trains a network on the answers.

    The loss is ``mean |S(a) - b|`` of a picture a and its answer b; plain, that is Szyller et al., "Good artists
    copy, great artists steal", 2021. Mi et al., AAAI 2024, add against a shift of domains

    - ``wavelet`` times ``r sum_j mean |H_j(b) - H_j(S(a))|``, H_j the details of level j. ``r`` rises evenly
      from 0 at the first update to 1 at the last; in their code it hangs on the learning rate;
    - sharpness-aware minimisation (Foret et al., 2021): the gradient is taken at the weights plus ``rho`` along
      itself. ``sam`` says where: for ``all`` updates, ``late`` for the last quarter, or ``none``. Their code
      has it in the discriminators alone; here there are none, so it is in the clone.

    ``behind`` is a filter that the thief knows the service to put behind its model, and puts behind the clone while
    it trains: ``mean |f(S(a)) - b|``. The clone is then what lies before the filter.

    The same settings, pictures, answers and generator give the same clone. ``steps`` updates of Adam under a
    cosine schedule, whatever the budget; with ``sam`` each costs twice as much.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["i2i"] = "i2i"
    request: PositiveInt = 64
    steps: PositiveInt = 3000
    batch: PositiveInt = 32
    lr: PositiveFloat = 4e-3
    wavelet: NonNegativeFloat = 0.15
    basis: Basis = "db3"
    levels: Annotated[int, Field(ge=1, le=4)] = 2
    sam: Literal["none", "all", "late"] = "none"
    rho: PositiveFloat = 0.05
    behind: BandLimit | None = None

    def run(
        self,
        oracle: Oracle,
        means: PictureMeans,
        *,
        budget: int,
        generator: torch.Generator,
        progress: Progress = lambda done, total: None,
    ) -> Learned:
        """Ask about at most ``budget`` pictures of the pool and train; a refusal ends the queries alone.

        Raises `ConfigError` where nothing was answered, or where answers are no pictures.
        """
        order = torch.randperm(len(means.pool), generator=generator)[:budget]
        asked, answers, ended = [], [], "done" if len(order) < budget else "budget spent"
        for part in torch.split(means.pool[order], self.request):
            try:
                answers.append(_pictures(oracle.query(part), part))
            except Refused as refusal:
                ended = str(refusal)
                if refusal.came is not None:
                    asked.append(part[refusal.came.places])
                    answers.append(_pictures(refusal.came.answers, asked[-1]))
                break
            asked.append(part)
            progress(sum(map(len, asked)), len(order))
        if not asked:
            raise ConfigError(f"attack 'i2i' got no picture to learn from: {ended}")
        given, wanted = torch.cat(asked), torch.cat(answers)
        return Learned(
            self.learn(given, wanted, means, generator), given, wanted, oracle.rows, ended
        )

    def learn(
        self, given: Tensor, wanted: Tensor, means: PictureMeans, generator: torch.Generator
    ) -> nn.Module:
        """A new clone, trained on pairs (n, C, H, W) and (n, C, s H, s W)."""
        with seeded(generator):
            clone = architectures.build(means.architecture, means.fitted(given, wanted)).train()
        clone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the types lack it
        optimizer = torch.optim.Adam(clone.parameters(), self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for step in range(self.steps):
            rows = torch.randint(len(given), (self.batch,), generator=generator)
            share = step / max(1, self.steps - 1)
            optimizer.zero_grad()
            self._loss(clone, given[rows], wanted[rows], share).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            if self.sam == "all" or (self.sam == "late" and share >= LATE):
                with uphill(clone, self.rho):
                    optimizer.zero_grad()
                    self._loss(clone, given[rows], wanted[rows], share).backward()  # type: ignore[no-untyped-call]  # as above
            optimizer.step()
            schedule.step()
        clone.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as above
        return clone.eval()

    def _loss(self, clone: nn.Module, given: Tensor, wanted: Tensor, share: float) -> Tensor:
        made: Tensor = clone(given)
        if made.shape != wanted.shape:
            raise ConfigError(
                f"the clone makes {tuple(made.shape[1:])} of what the target makes"
                f" {tuple(wanted.shape[1:])}; give it the target's scale and channels"
            )
        outside = torch.zeros(())
        if self.behind is not None:
            outside = OUTSIDE * (made - made.clamp(0, 1)).abs().mean()
            made = self.behind.changed(made)
        loss: Tensor = (made - wanted).abs().mean() + outside
        if not self.wavelet:
            return loss
        bands: Tensor = high_band_error(made, wanted, basis=self.basis, levels=self.levels)
        return loss + self.wavelet * share * bands


@contextmanager
def uphill(network: nn.Module, rho: float) -> Iterator[None]:
    """Within it the weights lie ``rho`` further along their gradient; the gradients stay what is made there."""
    weights = [weight for weight in network.parameters() if weight.grad is not None]
    slopes = [weight.grad.clone() for weight in weights if weight.grad is not None]
    length = torch.stack([slope.square().sum() for slope in slopes]).sum().sqrt()
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, slope in zip(weights, slopes, strict=True):
            weight.add_(slope * (rho / (length + 1e-12)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)


def _pictures(answers: Tensor, asked: Tensor) -> Tensor:
    if answers.ndim != 4 or len(answers) != len(asked) or not answers.is_floating_point():
        raise ConfigError(
            f"the target answers {tuple(answers.shape)} to {tuple(asked.shape)}; attack 'i2i' learns from"
            " pictures: name a model that translates"
        )
    if not all_finite(answers):
        raise ConfigError("the target answers numbers that are not finite; mend the target")
    return answers
