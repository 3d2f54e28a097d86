"""Shipped models behind an interface that explains them, as the bench of explanations meets them."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from mantlet import architectures, weights
from mantlet.attribution import Of
from mantlet.plugin import Defense, Setup
from mantlet.types import Kind, Prediction, Query
from redteam.detection.streams import as_inputs
from redteam.pools import SHAPE, Pools
from serving.explaining import Explain, Explaining
from serving.pipeline import Pipeline
from serving.victims.torch import TorchVictim

MODELS = Path(__file__).parents[2] / "configs/models"
SECRET = b"the secret of the bench"


def judged(pools: Pools, name: str) -> tuple[Tensor, Tensor]:
    """The test pictures (n, 1, 28, 28) of a victim, and their labels (n,)."""
    return as_inputs(pools.pictures(name, "test")), torch.from_numpy(pools.labels(name, "test"))


@cache
def victim(name: str) -> TorchVictim:
    """A shipped model."""
    loaded = TorchVictim(weights=MODELS / f"{name}-lenet.safetensors", architecture="lenet")
    loaded.load(Setup(torch.device("cpu"), SECRET))
    return loaded


def served(name: str, of: Of = "log_probability", defenses: Sequence[Defense] = ()) -> Pipeline:
    """The model behind an interface that explains any class by its gradient, and no more than ``defenses``."""
    model = victim(name)
    settings = Explain(methods=("gradient",), of=of, classes="any", max_rows_per_request=256)
    explaining = Explaining(model.explainer(settings, SECRET), model.classes, settings)
    return Pipeline(model, defenses=loaded(defenses), explaining=explaining)


def loaded(defenses: Sequence[Defense]) -> tuple[Defense, ...]:
    """Copies of defenses that are ready, with the gateway's key."""
    ready = tuple(defense.model_copy() for defense in defenses)
    for defense in ready:
        defense.load(Setup(torch.device("cpu"), SECRET, shape=SHAPE, classes=10))
    return ready


@cache
def network(name: str) -> nn.Module:
    """The model itself, which only a judge may look into."""
    inside = architectures.build("lenet", {})
    weights.load_into(inside, MODELS / f"{name}-lenet.safetensors", "lenet")
    return inside.eval()


def gradients(inside: nn.Module, pictures: Tensor) -> Tensor:
    """(n, *shape) of the log-probability of each top class."""
    rows = pictures.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(torch.log_softmax(inside(rows), dim=1).amax(dim=1).sum(), rows)
    return found


def shown(defenses: Sequence[Defense], pictures: Tensor, maps: Tensor) -> Tensor:
    """(n, *shape) maps of pictures as a gateway with these loaded defenses serves them."""
    query = Query(["judge"] * len(maps), pictures, 0.0)
    told = Prediction(maps, Kind.ATTRIBUTIONS)
    for defense in defenses:
        told = defense(told, query, {})
    return told.values
