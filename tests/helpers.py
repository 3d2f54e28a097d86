"""Small shared things: a tiny victim in memory, plug-ins that do as told, builders of queries and configs."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from pydantic import PrivateAttr
from torch import Tensor, nn

from mantlet.plugin import Defense, EvidenceDetector, Setup, ThresholdDetector
from mantlet.types import InputSpec, Kind, Prediction, Query, Signal, State, Task
from serving.victims import pictures

Fold = Callable[[State, np.ndarray, float], tuple[State, np.ndarray, np.ndarray]]
SETUP = Setup(torch.device("cpu"), b"a secret of the tests")


class TinyVictim:
    """A linear classifier of 4x4 grey pictures, without files, that counts the batches it was asked.

    It computes in float64, row by row, so that a row's answer is the same bits in every batch.
    """

    def __init__(self, *, classes: int = 5, seed: int = 0, sharpness: float = 3.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        size = 16
        self._matrix = sharpness * torch.randn(
            classes, size, generator=generator, dtype=torch.float64
        )
        self.task, self.kind = Task.CLASSIFY, Kind.PROBABILITIES
        self.input = InputSpec((1, 4, 4), 0.0, 1.0)
        self.output = "probabilities"
        self.version = "1"
        self.concurrency = 1
        self.trained_with = ""
        self.classes, self.output_shape = classes, (classes,)
        self.fingerprint = hashlib.sha256(self._matrix.numpy().tobytes()).hexdigest()
        self.batches: list[int] = []
        self.closed = False

    def predict(self, inputs: Tensor) -> Prediction:
        """Probabilities, logits, and the centred pixels as features."""
        self.batches.append(len(inputs))
        features = inputs.double().flatten(1) - 0.5  # (B, 16)
        logits = (features[:, None, :] * self._matrix[None]).sum(dim=2)  # (B, C)
        return Prediction(
            values=torch.softmax(logits, dim=1).float(),
            kind=Kind.PROBABILITIES,
            logits=logits.float(),
            features=features.float(),
        )

    def slopes(self, classes: Tensor) -> Tensor:
        """(n, 1, 4, 4) the gradients of the logits of (n,) classes."""
        return self._matrix[classes].float().view(-1, 1, 4, 4)

    def close(self) -> None:
        self.closed = True


class TinyGenerator(TinyVictim):
    """Draws 8x8 grey pictures of eight numbers, each of which weighs less than the one before."""

    def __init__(self, *, latent: int = 8, seed: int = 0) -> None:
        super().__init__(seed=seed)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(64, latent, generator=generator, dtype=torch.float64)
        self._matrix = torch.linalg.qr(drawn)[0] * 0.6 ** torch.arange(latent)
        self.task, self.kind = Task.GENERATE, Kind.IMAGES
        self.input = InputSpec((latent,), -8.0, 8.0, max_norm=2 * latent**0.5 + 4)
        self.output, self.classes, self.output_shape = "image", 0, (1, 8, 8)
        self.fingerprint = hashlib.sha256(self._matrix.numpy().tobytes()).hexdigest()

    def predict(self, inputs: Tensor) -> Prediction:
        """Pictures, with their thumbnails as features."""
        self.batches.append(len(inputs))
        raw = (inputs.double()[:, None] * self._matrix).sum(dim=2)
        return pictures.prediction(raw.view(-1, 1, 8, 8), -1.0, 1.0)


class TinyTranslator(TinyVictim):
    """Makes grey pictures of any size twice as large."""

    def __init__(self) -> None:
        super().__init__()
        self.task, self.kind = Task.TRANSLATE, Kind.IMAGES
        self.input = InputSpec((1, -1, -1), 0.0, 1.0)
        self.output, self.classes, self.output_shape = "image", 0, (1, -1, -1)

    def predict(self, inputs: Tensor) -> Prediction:
        """Pictures, with their thumbnails as features."""
        self.batches.append(len(inputs))
        return pictures.prediction(nn.functional.interpolate(inputs, scale_factor=2), 0.0, 1.0)


class Scripted(ThresholdDetector):
    """Scores with the top probability it sees, and folds as a test tells it to."""

    type: Literal["scripted"] = "scripted"

    _scores: list[Callable[[Query, Prediction], Any]] = PrivateAttr(default_factory=list)
    _folds: list[Fold] = PrivateAttr(default_factory=list)
    _seen: list[Prediction] = PrivateAttr(default_factory=list)

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        self._seen.append(prediction)
        if self._scores:
            answer: Tensor = self._scores[-1](query, prediction)
            return answer
        return prediction.values.amax(dim=1, keepdim=True)

    def initial(self) -> State:
        return {"rows": np.zeros(1, dtype=np.int64)}

    def update(
        self, state: State, rows: np.ndarray, at: float
    ) -> tuple[State, np.ndarray, np.ndarray]:
        if self._folds:
            return self._folds[-1](state, rows, at)
        count = len(rows)
        return {"rows": state["rows"] + count}, np.zeros(count), np.zeros(count, dtype=bool)


Watch = Callable[[State, np.ndarray], tuple[State, Any]]


class Bright(EvidenceDetector):
    """Scores a row in each of its columns with its mean pixel, or watches as a test tells it to."""

    type: Literal["bright"] = "bright"
    count: int = 1

    _watches: list[Watch] = PrivateAttr(default_factory=list)

    @property
    def width(self) -> int:
        return self.count

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        return query.inputs.flatten(1).mean(dim=1, keepdim=True).repeat(1, self.count)

    def watch(self, state: State, rows: np.ndarray, at: float) -> tuple[State, np.ndarray]:
        return self._watches[-1](state, rows) if self._watches else (state, rows)


def bright(
    name: str = "bright", *, columns: int = 1, bound: float = 0.1, **bounds: float
) -> Bright:
    """A calibrated one: all clients, and those of the tiers in ``bounds``, may have that mean score."""
    detector = Bright(name=name, count=columns)
    learned = {f"tolerated.{tier}": np.full(columns, value) for tier, value in bounds.items()}
    learned["tolerated"] = np.full(columns, bound)
    detector.load(Setup(SETUP.device, SETUP.secret, learned))
    return detector


def grey(*shades: float) -> Tensor:
    """Rows of one shade each."""
    return torch.tensor(shades)[:, None, None, None].expand(-1, 1, 4, 4).clone()


class Answering(Defense):
    """Answers as a test tells it to, and remembers what it was asked."""

    type: Literal["answering"] = "answering"
    keeps_top1 = False

    _answers: list[Callable[[Prediction], Any]] = PrivateAttr(default_factory=list)
    _asked: list[tuple[Prediction, Query, Mapping[str, Signal]]] = PrivateAttr(default_factory=list)

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        self._asked.append((prediction, query, signals))
        answer: Prediction = self._answers[-1](prediction) if self._answers else prediction
        return answer


class Lying(TinyVictim):
    """Answers what a test tells it to."""

    def __init__(self, answer: Callable[[Prediction], Any]) -> None:
        super().__init__()
        self._answer = answer

    def predict(self, inputs: Tensor) -> Prediction:
        answer: Prediction = self._answer(super().predict(inputs))
        return answer


class Slopes:
    """Explains a `TinyVictim`: its matrix is the gradient of its logits. Answers as a test tells it to."""

    def __init__(
        self, victim: TinyVictim, answer: Callable[[Prediction], Any] = lambda maps: maps
    ) -> None:
        self._victim, self._answer = victim, answer
        self.methods = ("gradient", "twice")
        self.asked: list[Tensor] = []

    def explain(self, inputs: Tensor, classes: Tensor, method: str) -> Prediction:
        self.asked.append(inputs)
        maps = self._victim.slopes(classes) * (2 if method == "twice" else 1)
        answer: Prediction = self._answer(Prediction(maps, Kind.ATTRIBUTIONS))
        return answer


def rows(count: int, *, seed: int = 0, shape: Sequence[int] = (1, 4, 4)) -> Tensor:
    """(count, *shape) uniform in [0, 1)."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def query(
    inputs: Tensor,
    clients: Sequence[str] | str = "client",
    at: float = 0.0,
    tiers: Sequence[str] = (),
) -> Query:
    """A query of one client, or of a client a row."""
    names = [clients] * len(inputs) if isinstance(clients, str) else list(clients)
    return Query(names, inputs, at, tiers)


def probabilities(values: Sequence[Sequence[float]]) -> Prediction:
    """A prediction of the rows given."""
    return Prediction(torch.tensor(values, dtype=torch.float32), Kind.PROBABILITIES)


def config(root: Path, data_dir: Path, /, **changes: Any) -> dict[str, Any]:
    """The embedded default with absolute paths, open, in memory, on ports that the system chooses.

    Tiers are added to its own, which its policy names; other changes stand in place of what it has.
    """
    raw: dict[str, Any] = yaml.safe_load((root / "configs/gateway/default.yaml").read_text())
    model = raw["models"]["mnist"]
    folder = root / "configs/gateway"
    model["victim"]["weights"] = str(folder / model["victim"]["weights"])
    model["calibration"] = str(folder / model["calibration"])
    model["example"] = str(folder / model["example"])
    for detector in model["detectors"]:
        for field in detector.keys() & {"classifier", "curve"}:
            detector[field] = str(folder / detector[field])
    quiet = {"listen": {"port": 0}, "admin": {"port": 0}, "store": "memory://"}
    tiers = raw["tiers"] | changes.pop("tiers", {})
    return raw | quiet | {"data_dir": str(data_dir)} | changes | {"tiers": tiers}


def write_config(path: Path, raw: dict[str, Any]) -> Path:
    """Write a config file; returns its path."""
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return path
