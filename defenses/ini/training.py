"""Trains a victim with Isolation and Induction; nothing that serves imports this."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from defenses.ini import losses, pool
from defenses.ini.checkpoint import Checkpoint
from defenses.ini.recipe import IniRecipe, Settings
from defenses.ini.surgery import averaged
from mantlet import architectures, weights
from mantlet.data import Images
from mantlet.errors import ConfigError
from mantlet.training import Progress, batches, one_cycle, shifted

History = list[dict[str, float]]
"""The mean of every term, unweighted, epoch by epoch."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The victim, in evaluation mode, and how its terms went."""

    network: nn.Module
    history: History


def fit(
    recipe: IniRecipe,
    own: Images,
    foreign: Mapping[str, Images],
    *,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Train on all but the held-out rows of ``own``, against ``foreign`` pictures by family.

    With a ``checkpoint`` each epoch is kept, and a run that was stopped goes on after its last one.
    Raises `ConfigError` for data that do not do, and for a checkpoint of other settings.
    """
    kept = _checked(recipe, own, foreign)
    x, y = torch.from_numpy(_as_bytes(own.x[:kept])), torch.from_numpy(own.y[:kept])  # type: ignore[index]  # checked
    loop = _Loop(recipe, x, y, _pool(recipe, x.numpy(), y.numpy(), foreign))
    history = checkpoint.restore(loop.parts(), loop.generator) if checkpoint else []
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        history.append(loop.epoch(epoch, progress))
        if checkpoint:
            checkpoint.keep(loop.parts(), loop.generator, history)
    return Trained(loop.victim.eval(), history)


def without_overlap(own: Images, foreign: Images) -> tuple[Images, int]:
    """The foreign pictures that are no picture of ``own``, and how many were: the same to 1/255."""
    known = {picture.tobytes() for picture in _as_bytes(own.x)}
    fresh = np.array([picture.tobytes() not in known for picture in _as_bytes(foreign.x)], bool)
    return Images(foreign.x[fresh], None), int((~fresh).sum())


class _Loop:
    """The networks, their optimisers and the rows, between epochs."""

    def __init__(self, recipe: IniRecipe, x: Tensor, y: Tensor, foreign: Tensor) -> None:
        self.recipe = recipe
        self._x, self._y, self._foreign = x, y, foreign
        self.victim = _network(recipe, recipe.settings, recipe.seed)
        settings = recipe.settings | recipe.student_settings
        self._student = _network(recipe, settings, recipe.seed + 1).eval()
        if recipe.warm_start is not None:
            weights.load_into(self.victim, recipe.warm_start, recipe.architecture)
        self._optimizer = torch.optim.SGD(
            self.victim.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
        )
        self._thief = torch.optim.SGD(self._student.parameters(), lr=recipe.student_lr)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self._parameters = list(self.victim.parameters())

    def parts(self) -> dict[str, nn.Module | torch.optim.SGD]:
        """What a checkpoint keeps."""
        return {"victim": self.victim, "student": self._student, "optimizer": self._optimizer}

    def epoch(self, number: int, progress: Callable[[Progress], None]) -> dict[str, float]:
        """One pass over the own rows; the mean of every term."""
        recipe = self.recipe
        self.victim.train(recipe.warm_start is None)
        per_epoch = len(self._x) // recipe.batch
        sums: dict[str, float] = {}
        for index, rows in enumerate(batches(len(self._x), recipe.batch, 1, self.generator)):
            step = (number - 1) * per_epoch + index
            for group in self._optimizer.param_groups:
                group["lr"] = recipe.lr * _rate(recipe, step / (recipe.epochs * per_epoch))
            terms = self._step(rows)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value / per_epoch
            total = recipe.epochs * per_epoch
            progress(Progress(step + 1, total, number, terms["benign"]))
        return sums

    def _step(self, rows: Tensor) -> dict[str, float]:
        recipe = self.recipe
        x, y = self._drawn(self._x, rows), self._y[rows]
        if not recipe.defended:
            benign = nn.functional.cross_entropy(self.victim(x), y)
            self._descend([benign])
            return {"benign": benign.item()}
        chosen = torch.randint(
            len(self._foreign), (recipe.foreign_batch,), generator=self.generator
        )
        u = self._drawn(self._foreign, chosen)
        own, answered = self.victim(x), self.victim(u)
        terms = self._terms(x, y, u, own, answered)
        weight = {"benign": 1.0, "own_distance": recipe.beta, "induction": recipe.gamma}
        weight |= {"isolation": recipe.delta, "size": recipe.epsilon}
        self._descend([weight[name] * term for name, term in terms.items()])
        if recipe.student == "trained":
            self._steal(u, answered.detach())
        return {name: term.item() for name, term in terms.items()}

    def _drawn(self, pictures: Tensor, rows: Tensor) -> Tensor:
        """Rows of bytes as moved floats, normalised."""
        moved = shifted(pictures[rows], self.recipe.shift, self.generator).float() / 255
        return self.recipe.normalised_inputs(moved)

    def _terms(
        self, x: Tensor, y: Tensor, u: Tensor, own: Tensor, answered: Tensor
    ) -> dict[str, Tensor]:
        """Every term that has a weight; ``own`` and ``answered`` are the victim's logits of x and u."""
        recipe, student = self.recipe, self._student
        terms = {"benign": nn.functional.cross_entropy(own, y)}
        if recipe.beta:
            terms["own_distance"] = -losses.distance(student(x), own)
        if recipe.gamma:
            terms["induction"] = self._induction(u, answered)
        if recipe.delta or recipe.epsilon:
            useful = losses.useful_gradient(student, x, y)
        if recipe.delta:
            learned = losses.thief_gradient(student, x, own, recipe.direction)
            terms["isolation"] = losses.cosine(learned, useful)
        if recipe.epsilon:
            learned = losses.thief_gradient(student, u, answered, recipe.direction)
            relative = recipe.normalised
            terms["size"] = (
                losses.relative_size(learned, useful) if relative else losses.size(learned)
            )
        return terms

    def _induction(self, u: Tensor, answered: Tensor) -> Tensor:
        recipe = self.recipe
        if recipe.induced == "useless":
            return losses.useless(answered, recipe.favourite, recipe.share)
        if recipe.induced == "entropy":
            return losses.negative_entropy(answered)
        return losses.distance(self._student(u), answered)

    def _descend(self, terms: Iterable[Tensor]) -> None:
        """One step down the weighted terms."""
        tasks = list(terms)
        self._optimizer.zero_grad()
        if self.recipe.combine == "sum" or len(tasks) == 1:
            torch.stack(tasks).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        else:
            gradients = [self._gradient(task) for task in tasks]
            self._assign(averaged(gradients, self.generator))
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self._parameters, self.recipe.clip)
        self._optimizer.step()

    def _gradient(self, task: Tensor) -> Tensor:
        """(p,) over the victim's parameters."""
        parts = torch.autograd.grad(task, self._parameters, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    def _assign(self, gradient: Tensor) -> None:
        """Give the parameters their parts of (p,)."""
        parts = torch.split(gradient, [parameter.numel() for parameter in self._parameters])
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def _steal(self, u: Tensor, answered: Tensor) -> None:
        """The student learns what a thief would."""
        loss = nn.functional.cross_entropy(self._student(u), answered.softmax(dim=1))
        self._thief.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._thief.step()


def _network(recipe: IniRecipe, settings: Settings, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)  # layers draw their first weights from the global generator
        return architectures.build(recipe.architecture, settings)


def _rate(recipe: IniRecipe, share: float) -> float:
    """Factor of the learning rate after a share of the training."""
    if recipe.schedule == "one_cycle":
        return one_cycle(share)
    return 1.0 if share < 0.4 else 0.1 if share < 0.8 else 0.01


def _pool(recipe: IniRecipe, x: np.ndarray, y: np.ndarray, foreign: Mapping[str, Images]) -> Tensor:
    """Foreign pictures (n, C, H, W) uint8 in which ``drawn_share`` are drawn and families have equal parts."""
    if not recipe.defended:
        return torch.empty(0)
    rng = np.random.default_rng(recipe.seed)
    given = [_as_bytes(images.x) for images in foreign.values()]
    share = recipe.drawn_share if recipe.drawn else 0.0
    total = recipe.drawn_rows / share if share else float(sum(map(len, given)))
    each = max(1, round((1 - share) * total / len(given)))
    parts = [pictures[rng.integers(0, len(pictures), each)] for pictures in given]
    if share:
        every = np.concatenate(parts)
        parts.append(
            pool.drawn(
                recipe.drawn,
                x,
                y,
                every,
                count=recipe.drawn_rows,
                symmetric=recipe.symmetric,
                rng=rng,
            )
        )
    return torch.from_numpy(np.concatenate(parts))


def _checked(recipe: IniRecipe, own: Images, foreign: Mapping[str, Images]) -> int:
    """How many rows to train on; raises `ConfigError` for pictures that do not do."""
    if own.y is None:
        raise ConfigError("the training data has no labels; give a .npz with y_train")
    if recipe.defended and not foreign:
        raise ConfigError("foreign pictures are missing; give --foreign FILE, once for each family")
    for family, pictures in foreign.items():
        if pictures.x.shape[1:] != own.x.shape[1:]:
            raise ConfigError(
                f"'{family}' has pictures of {pictures.x.shape[1:]}, the data of {own.x.shape[1:]}"
            )
        if not len(pictures.x):
            raise ConfigError(f"every picture of '{family}' is in the training data; give others")
    kept = len(own.x) - recipe.holdout
    if kept < recipe.batch:
        raise ConfigError(
            f"{len(own.x)} rows less {recipe.holdout} held out are under one batch of"
            f" {recipe.batch}; give more data or lower holdout"
        )
    return kept


def _as_bytes(pictures: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = (pictures * 255).round().astype(np.uint8)
    return rounded
