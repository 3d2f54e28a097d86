"""MEGEX (Miura, Hasegawa and Shibahara, 2021): explanations in place of the probes of DFME."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, SerializeAsAny
from torch import Tensor, nn

from redteam.attacks.attack import Ledger
from redteam.attacks.data_free import Slopes, activated, scores_of, units
from redteam.attacks.depooling import Depooling
from redteam.attacks.dfme import Dfme
from redteam.attacks.matching import as_shown, matching
from redteam.client.oracle import Explained, Withheld
from redteam.learning import Means, Transfer, train
from serving.settings import AnyDefense


class Megex(Dfme):
    """DFME whose generator climbs the victim's own gradients, as the explanations show them.

    The disagreement rises by the sum over k of sign(v_k - s_k) (dv_k/dx - ds_k/dx), of which the clone's
    part is known. ``classes: any`` asks for the explanation of every class of a picture, which is exact
    and costs a row a class beside the prediction; ``top`` for that of the top class, which comes with the
    prediction in one row, and drops the other classes. ``explains`` is what the target explains:
    gradients of a ``probability`` are divided by it, and the mean over classes is taken off all of them.
    Where any class is refused the top one is asked for, and where that is refused too, or points up the
    disagreement no better than a random probe does, the attack goes on as DFME. This is looked at in the
    first turn and in every ``recheck``-th, for three rows a picture; a ``prior`` has as many turns to learn first.

    ``reading`` is what a thief does with maps of the top class, who knows how they were defended:
    ``gradient`` takes them as they are; ``magnitude`` weighs the random directions of DFME by them, which
    recovers signs by finite differences; ``prior`` turns them back into gradients with a network that
    learns on the thief's clone, behind the ``defenses`` that it knows; ``auto`` takes maps without a
    negative number as magnitudes. ``jitters`` copies of a picture, with noise of deviation ``jitter``, are
    explained in place of it, and the mean of their maps is read.

    With ``matching`` every picture of the clone is explained as well, and the clone's gradients learn from
    the maps (`redteam.attacks.matching`): more than the paper does, at the same price. ``classes: none`` does that
    alone, with a generator that climbs as DFME's does. Maps without a negative
    number are matched with magnitudes that are averaged over ``pool`` pixels each way, as shares of the
    largest, to the power of ``gamma``: what a thief knows of `explanation_display`. Where magnitudes weigh
    directions, that power is undone first.

    A generator that climbs the exact slope soon makes pictures of a few classes only, which those of DFME's
    noisy one do less: ``diversity`` is on here.

    The paper's abstract alone was read, and names neither classes nor quantity.
    """

    type: Literal["megex"] = "megex"  # type: ignore[assignment]  # another attack, by its own name
    classes: Literal["any", "top", "none"] = "any"
    rest: Literal["dropped", "probed"] = "dropped"
    explains: Literal["logit", "log_probability", "probability"] = "log_probability"
    reading: Literal["auto", "gradient", "magnitude", "prior"] = "auto"
    jitters: PositiveInt = 1
    jitter: NonNegativeFloat = 0.02
    defenses: tuple[SerializeAsAny[AnyDefense], ...] = ()
    matching: NonNegativeFloat = 0.0
    diversity: NonNegativeFloat = 1.0
    pool: PositiveInt = 4
    gamma: PositiveFloat = 1.0
    recheck: Annotated[int, Field(ge=0)] = 20

    def guide(self, means: Means, generator: torch.Generator) -> Slopes:
        return Guide(self, means, generator)

    def answered(self, ledger: Ledger, pictures: Tensor) -> Tensor:
        if not self.matching:
            return ledger.ask(pictures)
        try:
            return ledger.explain(pictures, keep=True).answers
        except Withheld:
            return ledger.ask(pictures)

    def learn(
        self, transfer: Transfer | None, means: Means, generator: torch.Generator
    ) -> nn.Module:
        if not self.matching or self.treatments or transfer is None or transfer.maps is None:
            return super().learn(transfer, means, generator)
        clone = means.network(generator)
        view = as_shown(self.pool, self.gamma) if bool(transfer.maps.min() >= 0) else None
        train(clone, transfer, self.training, generator, matching(self.matching, view))
        return clone.eval()


class Guide:
    """One theft's way to the gradient, which forgets what was refused or was of no use."""

    def __init__(self, attack: Megex, means: Means, generator: torch.Generator) -> None:
        self._attack = attack
        self.prior = (
            Depooling(means, attack.defenses, generator) if attack.reading == "prior" else None
        )
        ways = {"any": [self._any, self._top], "top": [self._top], "none": []}
        self._ways: list[Callable[..., Tensor]] = ways[attack.classes]
        self._turn = 0

    @property
    def left(self) -> tuple[str, ...]:
        """The ways that are still open, the next one first; without any it is DFME."""
        return tuple(way.__name__.strip("_") for way in self._ways)

    def __call__(
        self, clone: nn.Module, ledger: Ledger, raw: Tensor, generator: torch.Generator
    ) -> Tensor:
        """(B, *shape) the gradient of the mean disagreement on the generator's output."""
        while self._ways:
            try:
                slopes = self._ways[0](clone, ledger, raw, generator)
            except Withheld:
                self._ways.pop(0)
                continue
            if self._due() and not self._of_use(clone, ledger, raw, slopes, generator):
                self._ways = []
            return slopes
        return self._attack.slopes(clone, ledger, raw, generator)

    def _any(
        self, clone: nn.Module, ledger: Ledger, raw: Tensor, generator: torch.Generator
    ) -> Tensor:
        """By the explanations of all classes: the slope itself, where they are gradients."""
        pictures = activated(raw).contiguous()
        answers = ledger.ask(pictures)
        classes = range(answers.shape[1])
        maps = torch.stack([self._mean(ledger, pictures, generator, k).maps for k in classes], 1)
        if self._attack.explains == "probability":
            maps = maps / _over(answers, maps).clamp_min(self._attack.floor)
        maps = maps - maps.mean(dim=1, keepdim=True)  # (B, C, *shape), of the centred logits
        signs = self._signs(clone, pictures, answers)  # (B, C)
        own = _gradient(pictures, lambda x: (signs * clone(x)).sum())
        part = torch.einsum("bc,bc...->b...", signs, maps) - own
        return part * _steepness(raw) / signs.numel()

    def _top(
        self, clone: nn.Module, ledger: Ledger, raw: Tensor, generator: torch.Generator
    ) -> Tensor:
        """By the explanation of the top class."""
        pictures = activated(raw).contiguous()
        answers, maps = self._mean(ledger, pictures, generator)
        top = answers.argmax(dim=1, keepdim=True)  # (B, 1)
        here = self._attack.disagreement(scores_of(clone, pictures), answers)
        if self._reads_magnitudes(maps):
            drawn = torch.randn(self._attack.directions, *raw.shape, generator=generator)
            shares = maps.abs() ** (1 / self._attack.gamma)
            directions = units(drawn * shares * _steepness(raw))
            return self._attack.probed(clone, ledger, raw, directions, here)
        own = _gradient(pictures, lambda x: _centred(clone(x)).gather(1, top).sum())
        maps = self._undone(clone, pictures, answers, maps, own)
        signs = self._signs(clone, pictures, answers).gather(1, top)[:, 0]
        slopes = _over(signs, raw) * (maps - own) * _steepness(raw) / answers.numel()
        if self._attack.rest == "dropped":
            return slopes
        return self._corrected(clone, ledger, raw, slopes, here, generator)

    def _corrected(
        self,
        clone: nn.Module,
        ledger: Ledger,
        raw: Tensor,
        slopes: Tensor,
        here: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Slopes that agree with what is found along random directions, and elsewhere are what they were."""
        drawn = torch.randn(self._attack.directions, *raw.shape, generator=generator)
        for direction in units(drawn):
            rise = self._attack.rise(clone, ledger, raw, direction, here) / len(raw)
            missing = rise - (slopes * direction).flatten(1).sum(dim=1)  # (B,)
            slopes = slopes + _over(missing, raw) * direction
        return slopes

    def _undone(
        self, clone: nn.Module, pictures: Tensor, answers: Tensor, maps: Tensor, own: Tensor
    ) -> Tensor:
        """(B, *shape) what maps of the top class say of the gradient of its centred logit.

        Probability and log-probability go over into the log-odds, whose gradient stays where they are sure:
        logit p = log p - log(1 - p). A logit lacks the mean over classes, for which the clone's is taken.
        """
        top = answers.argmax(dim=1, keepdim=True)
        if self.prior is not None:
            odds = _gradient(pictures, lambda x: _log_odds(clone(x), top).sum())
            self.prior.learn(pictures, odds)
            return self.prior.back(pictures, maps) * _lengths(own)
        if self._attack.explains == "logit":
            return maps - _gradient(pictures, lambda x: clone(x).mean(dim=1).sum())
        others = answers.scatter(1, top, 0).sum(dim=1)  # (B,), 1 - p without its rounding
        scale = (
            others if self._attack.explains == "log_probability" else others * answers.amax(dim=1)
        )
        share = 1 - 1 / answers.shape[1]
        return share * maps / _over(scale.clamp_min(self._attack.floor), maps)

    def _mean(
        self,
        ledger: Ledger,
        pictures: Tensor,
        generator: torch.Generator,
        of: int | None = None,
    ) -> Explained:
        """What pictures are explained by, or the mean over copies of them with noise."""
        if self._attack.jitters == 1:
            return ledger.explain(pictures, of, keep=of is None)
        told = []
        for _ in range(self._attack.jitters):
            noise = torch.randn(pictures.shape, generator=generator)
            told.append(ledger.explain((pictures + self._attack.jitter * noise).clamp(0, 1), of))
        answers, maps = (torch.stack(part).mean(dim=0) for part in zip(*told, strict=True))
        return Explained(answers, maps)

    def _reads_magnitudes(self, maps: Tensor) -> bool:
        reading = self._attack.reading
        return reading == "magnitude" or (reading == "auto" and bool(maps.min() >= 0))

    def _signs(self, clone: nn.Module, pictures: Tensor, answers: Tensor) -> Tensor:
        """(B, C) of v - s."""
        return (self._attack.recovered(answers) - scores_of(clone, pictures)).sign()

    def _due(self) -> bool:
        self._turn += 1
        every = self._attack.recheck
        learned = self.prior is None or self._turn > every
        return every > 0 and learned and self._turn % every == 1 % every

    def _of_use(
        self,
        clone: nn.Module,
        ledger: Ledger,
        raw: Tensor,
        slopes: Tensor,
        generator: torch.Generator,
    ) -> bool:
        """Whether the disagreement rises further along the slopes than along random directions."""
        pictures = activated(raw).contiguous()
        answers = ledger.ask(pictures, keep=False)
        here = self._attack.disagreement(scores_of(clone, pictures), answers)
        random = torch.randn(raw.shape, generator=generator)
        along, beside = (
            self._attack.rise(clone, ledger, raw, units(way[None])[0], here)
            for way in (slopes, random)
        )
        return bool(along.mean() > beside.abs().mean())


def _gradient(pictures: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, *shape) of a sum over rows."""
    variable = pictures.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of(variable), variable)
    return gradient


def _centred(scores: Tensor) -> Tensor:
    """(B, C) with a mean of zero."""
    return scores - scores.mean(dim=1, keepdim=True)


def _log_odds(scores: Tensor, of: Tensor) -> Tensor:
    """(B, 1) of the classes ``of`` (B, 1)."""
    others = scores.scatter(1, of, -torch.inf).logsumexp(dim=1, keepdim=True)
    return scores.gather(1, of) - others


def _steepness(raw: Tensor) -> Tensor:
    """The derivative of `activated`."""
    return (1 - torch.tanh(raw) ** 2) / 2


def _over(numbers: Tensor, maps: Tensor) -> Tensor:
    """Numbers of rows, or of rows and classes, in the shape that maps are multiplied in."""
    return numbers.view(*numbers.shape, *[1] * (maps.dim() - numbers.dim()))


def _lengths(maps: Tensor) -> Tensor:
    return _over(maps.flatten(1).norm(dim=1), maps)
