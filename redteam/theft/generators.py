"""Theft of a generator from a running gateway: what is checked before, and told after."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from mantlet import architectures
from mantlet.errors import ConfigError
from mantlet.fidelity import embedded, frechet
from mantlet.gan_training import drawn
from mantlet.sheets import contact_sheet
from redteam.attacks.attack import Progress, silent
from redteam.attacks.gan import ByLatents, BySeeds, GanTheft, Haul, Knowledge, Source
from redteam.attacks.translation import PictureMeans
from redteam.client.oracle import Capped, Oracle, Wrapper
from redteam.client.over_http import OverHttp
from redteam.client.tape import records_of
from redteam.client.wire import Model
from redteam.theft.attacking import TAPE, Target, Thief, keep, stolen
from redteam.theft.order import By, Order, look, parsed, require_own, rows_of, validated

SHEET = "clone.png"
"""Of an output folder: rows of pictures that were bought, and below them as many that the clone draws."""
MEASURED = ("pictures", "seconds", "fid_clone_victim")
SIDES = (28, 28)
"""Of the pictures that GANs are trained on here."""
COMPARED = 5_000
"""Pictures a side of which the distance is taken, at most."""
SHOWN = 50
"""Pictures a side on the sheet."""


class Seeds(Wrapper):
    """An account that rows (B, 2) are put to: a seed, the same in all of a query, and the number of one of its pictures."""

    def __init__(self, account: OverHttp) -> None:
        super().__init__(account)
        self._account = account

    def query(self, inputs: Tensor) -> Tensor:
        (seed,), numbers = set(inputs[:, 0].tolist()), inputs[:, 1]
        return self._account.generate(seed, int(numbers.max()) + 1)[numbers]


class Generates(Wrapper):
    """An oracle of `Seeds` as `redteam.attacks.gan.BySeeds` asks it."""

    def generate(self, seed: int, rows: int) -> Tensor:
        """(rows, C, H, W) pictures of a seed."""
        return self._oracle.query(
            torch.stack([torch.full((rows,), seed), torch.arange(rows)], dim=1)
        )


@dataclass(frozen=True, slots=True)
class Buyer(Thief):
    """A thief of generators, who names pictures ``by`` latents of ``size`` numbers or by seeds.

    The pool of its means are real pictures, ``features`` is the classifier whose eyes compare, and ``learning``
    is told how far the training is.
    """

    by: By = "latents"
    size: int = 0
    features: nn.Module | None = None
    learning: Progress = field(default=silent, compare=False)

    def header(self, target: Target) -> dict[str, Any]:
        return {**Thief.header(self, target), "by": self.by}

    def tricks(self, oracle: Oracle, generator: torch.Generator) -> Oracle:
        return Capped(oracle, self.budget)

    def asking(self, account: OverHttp) -> Oracle:
        return Seeds(account) if self.by == "seeds" else account

    def sized(self, target: Target) -> GanTheft:
        """The attack with requests that go out at once; a seed is one request."""
        assert isinstance(self.attack, GanTheft)
        room = target.batch if self.by == "seeds" else target.at_once
        return self.attack.model_copy(update={"request": min(self.attack.request, room)})

    def steal(
        self, oracle: Oracle, target: Target, generator: torch.Generator, progress: Progress
    ) -> Haul:
        source: Source = ByLatents(oracle, self.size, generator, self.times)
        if self.by == "seeds":
            source = BySeeds(Generates(oracle), generator, self.times)
        real = self.means.pool if len(self.means.pool) else None
        return self.sized(target).run(
            source,
            budget=self.budget,
            generator=generator,
            knowledge=Knowledge(real),
            progress=progress,
            learning=self.learning,
        )


def prepared(order: Order) -> tuple[Target, Buyer]:
    """Everything that a theft needs, read and checked; no row is sent."""
    named = {"architecture": order.clone} if order.clone else {}
    own = parsed(order.clone_set)
    attack = validated(
        GanTheft, {**parsed(order.set), **named, **({"settings": own} if own else {})}
    )
    if own and not attack.architecture:
        raise ConfigError(
            "--clone-set names settings of no clone; name it with --clone, such as dcgan"
        )
    require_own(order.out)
    target = order.aim
    model = look(target)
    made = _made(order, model)
    real = torch.zeros(0, *made)
    if order.surrogate is not None:
        real = rows_of(order.surrogate, "surrogate", None, **order.choice)
    if attack.real_share and (not len(real) or real.shape[1:] != made):
        raise ConfigError(
            f"real_share mixes in real pictures of shape {made}; give them with --surrogate"
        )
    thief = Buyer(
        attack,
        PictureMeans(real, *_clone(attack, made[0])),
        order.budget,
        order.seed,
        order.average,
        by=order.by,
        size=model.shape[0] if model is not None else 0,
        features=_features(order.features, made),
    )
    records_of(order.out / TAPE, thief.header(target))
    return target, thief


def _made(order: Order, model: Model | None) -> tuple[int, ...]:
    """(C, H, W) of what the target draws, as far as it tells."""
    if model is None:
        if order.by == "latents":
            raise ConfigError(
                f"target '{order.target}' does not say how many numbers a latent of '{order.model}' has;"
                " ask --by seeds"
            )
        return (1, *SIDES)
    if len(model.shape) != 1 or not model.made:
        what = "classifies" if model.classes is not None else "draws nothing of latents"
        raise ConfigError(
            f"model '{order.model}' takes {model.shape} and {what}; attack 'gan' is for one that generates"
        )
    if model.made[1:] != SIDES:
        raise ConfigError(
            f"model '{order.model}' draws pictures of {model.made}; attack 'gan' learns from (channels, 28, 28)"
        )
    return model.made


def _clone(attack: GanTheft, channels: int) -> tuple[str, Mapping[str, Any]]:
    """The clone's architecture and settings, of which one is built."""
    training = attack.training
    plain = {"latent": training.latent, "width": training.width, "channels": channels}
    if not attack.architecture:
        return "dcgan", plain
    settings = {"latent": training.latent, **attack.settings}
    with torch.random.fork_rng():
        network = architectures.build(attack.architecture, settings).eval()
    try:
        made = drawn(network, torch.zeros(1, training.latent)).shape[1:]
    except RuntimeError:
        made = torch.Size()
    if made != (channels, *SIDES):
        raise ConfigError(
            f"the clone '{attack.architecture}' draws {tuple(made) or 'nothing'} of {training.latent} numbers; the"
            f" target draws {(channels, *SIDES)}: choose its channels with --clone-set, or another with --clone"
        )
    return attack.architecture, settings


def _features(path: Path | None, made: tuple[int, ...]) -> nn.Module | None:
    if path is None:
        return None
    network = architectures.read(path)
    try:
        embedded(torch.zeros(2, *made), network)
    except RuntimeError as error:
        raise ConfigError(
            f"features '{path}' sees no pictures of shape {made}; give a classifier that does"
        ) from error
    return network


def run(
    target: Target,
    thief: Buyer,
    out: Path,
    *,
    progress: Progress,
    learning: Progress = silent,
) -> dict[str, Any]:
    """Buy pictures, train a clone, and write it, a sheet and what was measured into ``out``.

    ``fid_clone_victim`` is the distance of its pictures to those that were bought, as they were served, where the
    thief has a classifier to look with: `mantlet.fidelity`. Otherwise as `redteam.theft.attacking.run`.
    """
    began = perf_counter()
    judge = partial(_judged, target=target, thief=thief, out=out, began=began)
    thief = replace(thief, learning=learning)
    return stolen(target, thief, out, judge, measured=MEASURED, progress=progress)


def _judged(haul: Haul, *, target: Target, thief: Buyer, out: Path, began: float) -> dict[str, Any]:
    network = haul.clone.generator
    count = min(COMPARED, len(haul.bought))
    size = thief.sized(target).training.latent
    generator = torch.Generator().manual_seed(thief.seed)
    made = drawn(network, torch.randn(max(count, SHOWN), size, generator=generator))
    shown = torch.cat([haul.bought[:SHOWN], made[:SHOWN]])
    contact_sheet(shown, columns=10).save(out / SHEET)
    keep(network, target, thief, thief.means.settings, out)
    told: dict[str, Any] = {
        "ended": haul.ended,
        "rows_learned": len(haul.pictures),
        "pictures": len(haul.bought),
    }
    if thief.features is not None and count > 1:  # of one there is no distribution
        seen = [embedded(one[:count], thief.features) for one in (haul.bought, made)]
        told["fid_clone_victim"] = round(frechet(*seen), 3)
    return {**told, "seconds": round(perf_counter() - began, 1)}
