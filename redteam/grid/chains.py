"""From a row of a plan to a pipeline that answers: its victim, its defenses or its whole gateway."""

import ast
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from mantlet.data import parse_rows
from mantlet.errors import ConfigError, MantletError
from mantlet.plugin import Plugin
from redteam import others
from redteam.composing import composed
from redteam.detection.streams import as_inputs
from redteam.grid.plan import Attacker, Plan, Target
from redteam.pools import Pools
from serving import build, settings
from serving.calibrating import calibrate_model
from serving.campaigns import Search
from serving.pipeline import Pipeline
from serving.settings import Model, Settings

KEYED = "the bench keys noise and hashes"
"""The secret of every chain, no secret at all: what is keyed by it repeats."""
MOST = 20_000
"""Pictures that a thief takes along."""
HELD_OUT, ALL = 5_000, 60_000
"""Training rows at the end, by which a gateway before another victim is calibrated; and rows of all."""
P = TypeVar("P", bound=Plugin)


@dataclass(frozen=True, slots=True)
class Place:
    """Where pictures are read and what was made is kept."""

    pools: Pools
    work: Path


@dataclass(frozen=True, slots=True)
class Chain:
    """A pipeline, and how its gateway looks for campaigns, if it does."""

    pipeline: Pipeline
    search: Search | None = None


def prepare(plan: Plan, victim: str, defense: str, place: Place) -> None:
    """Make the files of a row that are missing, before several processes want them.

    Weights are trained where the plan has a recipe (minutes), and a gateway is calibrated.
    """
    target, protection = plan.victims[victim], plan.defenses[defense]
    _train(target, victim, place)
    if protection.gateway is not None and victim != protection.shipped:
        with suppress(MantletError):  # each theft of the row tells it
            load(plan, victim, defense, place).pipeline.victim.close()


def _train(target: Target, victim: str, place: Place) -> None:
    path: Path | None = getattr(target.victim, "weights", None)
    if target.recipe is None or path is None or path.is_file():
        return  # the pictures need not be there
    others.trained(path, target.recipe, place.pools.path(target.family), victim)


def load(plan: Plan, victim: str, defense: str, place: Place) -> Chain:
    """A chain that was never loaded before."""
    target, protection = plan.victims[victim], plan.defenses[defense]
    model = fresh(protection.victims.get(victim, target.victim))
    if protection.gateway is None:
        defenses = tuple(fresh(one) for one in protection.defenses)
        alone = Model(victim=model, defenses=defenses)
        own = Settings.model_validate(
            {"secret": KEYED, "data_dir": place.work, "models": {victim: alone}}
        )
        return Chain(build.load_pipeline(victim, alone, own))
    loaded = settings.load(protection.gateway, [f"secret={KEYED}"])
    name = protection.shipped if protection.shipped in loaded.models else next(iter(loaded.models))
    served = loaded.models[name]
    if victim != protection.shipped:
        served = _general(served, model)
    own = loaded.model_copy(update={"models": {victim: served}, "data_dir": place.work})
    if victim != protection.shipped:
        own = _calibrated(own, victim, target, place)
    served = own.models[victim]
    search = served.campaigns if served.campaigns.every_s is not None else None
    watched = any(detector.type == "sketch" for detector in served.detectors)
    return Chain(build.load_pipeline(victim, served, own), search if watched else None)


def fresh(plugin: P) -> P:
    """The same settings in a plug-in that was not loaded yet."""
    return type(plugin).model_validate(plugin.model_dump(by_alias=True))


def _general(served: Model, victim: Any) -> Model:
    """A gateway's model for another victim: without what was made for its own."""
    changes = {
        "victim": victim,
        "detectors": others.general(served.detectors),
        "calibration": None,
        "example": None,
        "policy": tuple(level for level in served.policy if level.agreement is None),
    }
    return served.model_copy(update=changes)


def _calibrated(own: Settings, victim: str, target: Target, place: Place) -> Settings:
    """The same with a calibration on held-out rows, made once for these detectors and weights."""
    model = own.models[victim]
    stamp = digest([told(model.victim), *map(told, model.detectors)])[:12]
    path = place.work / f"{victim}-{stamp}.calibration.safetensors"
    model = model.model_copy(update={"calibration": path})
    own = own.model_copy(update={"models": {victim: model}})
    if not path.is_file() and any(one.needs_calibration for one in model.detectors):
        rows = place.pools.pictures(target.family, "train", _shape(victim, model, own), ALL)
        calibrate_model(own, victim, as_inputs(rows[-HELD_OUT:]).numpy())
        again = {
            "victim": fresh(model.victim),
            "detectors": tuple(fresh(one) for one in model.detectors),
        }
        own = own.model_copy(update={"models": {victim: model.model_copy(update=again)}})
    return own


def _shape(name: str, model: Model, own: Settings) -> tuple[int, ...]:
    """Of one row: what the victim alone says."""
    alone = build.load_pipeline(name, Model(victim=fresh(model.victim)), own).victim
    with closing(alone):
        return alone.input.shape


def told(plugin: BaseModel) -> dict[str, Any]:
    """What a plug-in's results follow from: its settings, the files that they name, and its code."""
    found = {name: _told(value) for name, value in plugin.model_dump().items()}
    return {**found, "code": _code(type(plugin))}


def _told(value: object) -> object:
    if isinstance(value, Path):
        return hashlib.sha256(value.read_bytes()).hexdigest() if value.is_file() else str(value)
    if isinstance(value, Mapping):
        return {str(key): _told(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_told(part) for part in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _code(kind: type) -> str:
    """The module that writes a class, without comments and docstrings: their words change no result."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(kind) or kind))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)] or [ast.Pass()]  # type: ignore[attr-defined]  # it has one
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def of_row(plan: Plan, victim: str, defense: str) -> dict[str, Any]:
    """What the answers of a row follow from."""
    target, protection = plan.victims[victim], plan.defenses[defense]
    found: dict[str, Any] = {
        "victim": told(protection.victims.get(victim, target.victim)),
        "defenses": [told(one) for one in protection.defenses],
        "own": [target.family, target.own, target.test],
        "request": [plan.request, plan.sent_at_once(defense)],
        "honest": plan.honest,
    }
    if protection.gateway is not None:
        loaded = settings.load(protection.gateway, [f"secret={KEYED}"])
        models = loaded.models
        served = models.get(protection.shipped) or next(iter(models.values()))
        parts = (*served.detectors, *served.defenses)
        plain = served.model_dump(mode="json", include={"alpha", "policy", "campaigns", "answer"})
        found["gateway"] = {
            **plain,
            "shipped": victim == protection.shipped,
            "calibration": _told(served.calibration),
            "victim": told(served.victim),
            "parts": [told(one) for one in parts],
        }
    return found


def digest(value: object) -> str:
    """A short name of a value."""
    return hashlib.sha256(repr(_told(value)).encode()).hexdigest()


def judged_on(target: Target, place: Place, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Rows (n, *shape) of the victim's kind on which everything is measured, and their (n,) labels."""
    return _own(target, place, target.test, shape)


def pool(
    target: Target,
    attacker: Attacker,
    place: Place,
    *,
    shape: tuple[int, ...],
    rng: np.random.Generator,
) -> Tensor:
    """(n, *shape) float32: what the thief has or makes of it, in an order of its own."""
    if attacker.data == "none":
        return torch.zeros(0, *shape)
    if attacker.data == "own":
        rows = own_rows(target, place, shape=shape, rng=rng)
    else:
        families = attacker.families or target.foreign
        every = [place.pools.pictures(name, s, shape) for name in families for s in _splits(name)]
        rows = as_inputs(_mixed(np.concatenate(every), rng))
    if not attacker.composed:
        return rows
    return composed(rows, MOST, torch.Generator().manual_seed(int(rng.integers(2**31))))


def own_rows(
    target: Target, place: Place, *, shape: tuple[int, ...], rng: np.random.Generator
) -> Tensor:
    """(n, *shape) rows of the victim's own kind that measure nothing, in a random order."""
    inputs, _ = _own(target, place, target.own, shape)
    return inputs[torch.from_numpy(rng.permutation(len(inputs))[:MOST])]


def _splits(family: str) -> Sequence[str]:
    """Of families that no fit ever sees, all there is; of others what fits do not use."""
    return ("train", "test") if family in ("notmnist", "omniglot", "tinyimagenet") else ("test",)


def _mixed(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return pictures[rng.permutation(len(pictures))[:MOST]]


def _own(
    target: Target, place: Place, where: tuple[str, str], shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Rows of the victim's family and their labels, from its file in the folder."""
    split, text = where
    rows = parse_rows(text)
    x = place.pools.pictures(target.family, split, shape)[rows]
    y = place.pools.labels(target.family, split)[rows][: len(x)]
    if not len(x):
        raise ConfigError(f"family '{target.family}': rows '{text}' of '{split}' are none")
    return as_inputs(x), torch.from_numpy(y)
