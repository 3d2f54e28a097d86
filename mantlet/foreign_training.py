"""Trains the classifier of foreign inputs from a recipe; nothing that serves imports this."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image, ImageFilter
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from mantlet import architectures, weights
from mantlet.data import Images
from mantlet.errors import ConfigError
from mantlet.foreignness import LIMIT, Foreignness, described
from mantlet.training import Progress, RecipeFile, batches
from mantlet.types import Kind, Prediction

FALSE_ALARMS = 0.05
"""Share of benign rows at whose threshold the report counts what is caught."""


class Weights(BaseModel):
    """The network whose features and logits the classifier sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Path
    architecture: str
    settings: dict[str, int | float | str | bool] = Field(default_factory=dict)


class ForeignRecipe(RecipeFile):
    """How to train the classifier of foreign inputs (Atli et al., 2019, with a far smaller network).

    Both classes have as many ``rows``. Half of each is sent as other devices would have sent it: turned,
    resized, blurred, encoded as JPEG, of other contrast; so the classifier cannot go by such traces.
    ``made`` of the foreign rows are made from the pictures themselves: shuffled, inverted, laid over each
    other, and smooth noise; they keep it from knowing one foreign family only.
    The last ``holdout`` rows of the data are never trained on: they are what the report is about.
    """

    kind: Literal["foreign"]
    victim: Weights | None = None
    rows: Annotated[int, Field(ge=200)] = 12_000
    made: Annotated[float, Field(ge=0, le=1)] = 0.5
    components: PositiveInt = 50
    hidden: PositiveInt = 32
    epochs: PositiveInt = 5
    batch: PositiveInt = 256
    lr: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    holdout: Annotated[int, Field(ge=100)] = 5000
    seed: Annotated[int, Field(ge=0)] = 0
    output: Path


@dataclass(frozen=True, slots=True)
class Trained:
    """The classifier and how well it tells held-out rows: ``caught`` by family, at `FALSE_ALARMS`.

    ``accuracy`` is balanced: the mean over benign and foreign rows of the families it was trained on.
    """

    classifier: Foreignness
    accuracy: float
    caught: Mapping[str, float]

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the arrays as safetensors; the components, most of it, at half precision."""
        state = {name: torch.from_numpy(array) for name, array in self.classifier.arrays.items()}
        state["components"] = state["components"].half()
        weights.save_tensors(state, path, metadata)


def fit(
    recipe: ForeignRecipe,
    own: Images,
    foreign: Mapping[str, Images],
    *,
    unseen: Mapping[str, Images],
    progress: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Train on all but the held-out rows of ``own`` against ``foreign`` pictures, by family.

    Of each foreign family every tenth row is held out. ``unseen`` families are reported and never trained on.
    """
    _check(recipe, own, foreign, unseen)
    rng = np.random.default_rng(recipe.seed)
    ours = _as_bytes(_drawn(own.x[: -recipe.holdout], recipe.rows, rng))
    share = (1 - recipe.made) / len(foreign)
    theirs = np.concatenate(
        [
            _as_bytes(_drawn(_trained_on(pictures.x), int(share * recipe.rows) + 1, rng))
            for pictures in foreign.values()
        ]
    )
    if recipe.made > 0:
        theirs = np.concatenate([theirs, made(ours, theirs, int(recipe.made * recipe.rows), rng)])
    look = _Looker(recipe, _components(ours, recipe.components))
    seen, seen_of_theirs = (look(half_resent(pictures, rng)) for pictures in (ours, theirs))
    classifier = Foreignness(look.arrays | _train(recipe, seen, seen_of_theirs, progress))
    held_out = {family: pictures.x[::10] for family, pictures in foreign.items()}
    held_out |= {family: pictures.x for family, pictures in unseen.items()}
    judged = {family: look.judge(classifier, x) for family, x in held_out.items()}
    benign = look.judge(classifier, own.x[-recipe.holdout :])
    threshold = np.quantile(benign, 1 - FALSE_ALARMS)
    known = np.concatenate([judged[family] for family in foreign])
    return Trained(
        classifier,
        accuracy=float(((benign <= 0).mean() + (known > 0).mean()) / 2),
        caught={family: float((odds > threshold).mean()) for family, odds in judged.items()},
    )


def _check(
    recipe: ForeignRecipe, own: Images, foreign: Mapping[str, Images], unseen: Mapping[str, Images]
) -> None:
    """Raise `ConfigError` for pictures that are missing, too few or of another shape."""
    if not foreign:
        raise ConfigError("foreign pictures are missing; give --foreign FILE, once for each family")
    if len(own.x) <= recipe.holdout + recipe.rows // 100:
        raise ConfigError(
            f"{len(own.x)} rows less {recipe.holdout} held out are too few; lower holdout"
        )
    for family, pictures in [*foreign.items(), *unseen.items()]:
        if pictures.x.shape[1:] != own.x.shape[1:]:
            raise ConfigError(
                f"'{family}' has pictures of {pictures.x.shape[1:]}, the data of {own.x.shape[1:]}"
            )


class _Looker:
    """What the classifier sees of pictures: itself and, where there is one, the victim's answer."""

    def __init__(self, recipe: ForeignRecipe, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self._network: nn.Module | None = None
        if recipe.victim is not None:
            victim = recipe.victim
            self._network = architectures.build(victim.architecture, victim.settings).eval()
            weights.load_into(self._network, victim.weights, victim.architecture)
            if not hasattr(self._network, "embed"):
                raise ConfigError(f"architecture '{victim.architecture}' shows no features")

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """(n, F) of uint8 or float pictures."""
        parts = [self._seen(part) for part in np.array_split(pictures, len(pictures) // 500 + 1)]
        return np.concatenate([described(self.arrays, *part) for part in parts])

    def judge(self, classifier: Foreignness, pictures: np.ndarray) -> np.ndarray:
        """(n,) log-odds of pictures as they are."""
        parts = np.array_split(pictures, len(pictures) // 500 + 1)
        judged = []
        for inputs, answer in map(self._seen, parts):
            nothing = Prediction(torch.zeros(len(inputs), 2), Kind.PROBABILITIES)
            judged.append(classifier.judge(inputs, answer or nothing))
        return np.concatenate(judged)

    @torch.inference_mode()
    def _seen(self, pictures: np.ndarray) -> tuple[np.ndarray, Prediction | None]:
        scaled = pictures / np.float32(255) if pictures.dtype == np.uint8 else pictures
        inputs = scaled.astype(np.float32)
        if self._network is None:
            return inputs, None
        features: Tensor = self._network.embed(torch.from_numpy(inputs))  # type: ignore[operator]  # asked above
        logits: Tensor = self._network.classify(features)  # type: ignore[operator]  # as above
        values = torch.softmax(logits, dim=1)
        return inputs, Prediction(values, Kind.PROBABILITIES, logits, features.flatten(1))


def _train(
    recipe: ForeignRecipe,
    ours: np.ndarray,
    theirs: np.ndarray,
    progress: Callable[[Progress], None],
) -> dict[str, np.ndarray]:
    centre = ours.mean(axis=0)
    # numbers that hardly vary in benign rows must not decide alone
    scale = np.maximum(ours.std(axis=0), 0.05 * ours.std())
    both = np.clip((np.concatenate([ours, theirs]) - centre) / scale, -LIMIT, LIMIT)
    x, label = torch.from_numpy(both), torch.zeros(len(both))
    label[len(ours) :] = 1.0
    weight = torch.where(label > 0, len(both) / len(theirs) / 2, len(both) / len(ours) / 2)
    with torch.random.fork_rng():
        torch.random.manual_seed(recipe.seed)  # layers draw their weights from it
        hidden, output = nn.Linear(x.shape[1], recipe.hidden), nn.Linear(recipe.hidden, 1)
    network = nn.Sequential(hidden, nn.ReLU(), output)
    optimizer = torch.optim.Adam(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    generator = torch.Generator().manual_seed(recipe.seed)
    size = min(recipe.batch, len(x))
    steps = recipe.epochs * (len(x) // size)
    for step, rows in enumerate(batches(len(x), size, recipe.epochs, generator), start=1):
        odds = network(x[rows])[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(odds, label[rows], weight[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        progress(Progress(step, steps, (step - 1) * size // len(x) + 1, loss.item()))
    trained = (hidden.weight.T, hidden.bias, output.weight[0], output.bias)
    layers = [np.ascontiguousarray(tensor.detach().numpy()) for tensor in trained]
    names = ("hidden.weight", "hidden.bias", "output.weight", "output.bias")
    return {"centre": centre, "scale": scale} | dict(zip(names, layers, strict=True))


def half_resent(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, C, H, W) uint8, of which every second picture is as another device would have sent it."""
    mixed = pictures.copy()
    mixed[1::2] = np.stack([resent(picture, rng) for picture in pictures[1::2]])
    return mixed


def resent(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One picture (C, H, W) uint8 turned, resized, moved, blurred, through JPEG, and of other contrast."""
    height, width = picture.shape[1:]
    scale, angle = rng.uniform(0.87, 1.15), rng.uniform(-0.26, 0.26)
    right, down = rng.uniform(-0.07, 0.07, 2) * (width, height)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    x, y = (width - 1) / 2, (height - 1) / 2
    matrix = (cos, sin, x - cos * x - sin * y + right, -sin, cos, y + sin * x - cos * y + down)
    image = Image.fromarray(picture[0] if len(picture) == 1 else np.moveaxis(picture, 0, -1))
    image = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=int(rng.integers(60, 96)))
    level = np.asarray(Image.open(encoded), np.float32).reshape(height, width, -1) / 255
    bent = 255 * rng.uniform(0.75, 1) * level ** rng.uniform(0.7, 1.4)
    return np.moveaxis(bent, -1, 0).round().astype(np.uint8)


def made(ours: np.ndarray, theirs: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """About ``count`` foreign pictures (n, C, H, W) uint8, made from benign and foreign ones."""
    each = max(count // 9, 1)

    def some(pictures: np.ndarray) -> np.ndarray:
        return pictures[rng.integers(0, len(pictures), each)]

    one, other = some(ours).astype(np.uint16), some(ours).astype(np.uint16)
    kinds = [_shuffled(some(ours), grid, rng) for grid in (2, 4, 7)]
    kinds += [_shuffled(some(theirs), 4, rng), 255 - some(ours), 255 - some(theirs)]
    kinds += [((one + other) // 2).astype(np.uint8), np.maximum(some(ours), some(ours))]
    return np.concatenate([*kinds, _smooth_noise((each, *ours.shape[1:]), rng)])


def _shuffled(pictures: np.ndarray, grid: int, rng: np.random.Generator) -> np.ndarray:
    """Each picture's tiles of a grid in another order; what the grid leaves over stays where it is."""
    count, _, height, width = pictures.shape
    high, wide = height // grid, width // grid
    if not high or not wide:
        return pictures
    mixed = pictures.copy()
    order = np.argsort(rng.random((count, grid * grid)), axis=1)
    rows = np.arange(count)
    tiles = [
        (slice(None), slice(r * high, (r + 1) * high), slice(c * wide, (c + 1) * wide))
        for r in range(grid)
        for c in range(grid)
    ]
    cut = np.stack([pictures[(slice(None), *tile)] for tile in tiles], axis=1)
    for place, tile in enumerate(tiles):
        mixed[(slice(None), *tile)] = cut[rows, order[:, place]]
    return mixed


def _smooth_noise(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Noise of several scales, over the whole range of values."""
    noise = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
    total = torch.zeros_like(noise)
    for size in (1, 3, 5, 9):
        share = torch.from_numpy(rng.random((shape[0], 1, 1, 1)).astype(np.float32))
        total += share * size * nn.functional.avg_pool2d(noise, size, 1, size // 2)
    low, high = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
    return _as_bytes(((total - low) / (high - low)).numpy())


def _components(pictures: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Mean (d,) and principal components (d, k) of benign pictures."""
    flat = pictures.reshape(len(pictures), -1) / 255.0
    mean = flat.mean(axis=0)
    centred = flat - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    kept = np.ascontiguousarray(vectors[:, -min(count, flat.shape[1] // 2) :], np.float32)
    # as it is kept in the file
    return {
        "mean": mean.astype(np.float32),
        "components": kept.astype(np.float16).astype(np.float32),
    }


def _drawn(pictures: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` of the pictures, or all of them."""
    return pictures[rng.permutation(len(pictures))[:count]]


def _trained_on(pictures: np.ndarray) -> np.ndarray:
    """All but every tenth."""
    return pictures[np.arange(len(pictures)) % 10 > 0]


def _as_bytes(pictures: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = (pictures * 255).round().astype(np.uint8)
    return rounded
