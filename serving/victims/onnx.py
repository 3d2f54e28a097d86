"""A victim from an ONNX file, run by ONNX Runtime."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import structlog
import torch
from pydantic import PositiveInt, PrivateAttr
from torch import Tensor

from mantlet import simplex, weights
from mantlet.errors import ConfigError
from mantlet.plugin import Setup
from mantlet.types import InputSpec, Kind, Prediction
from serving.victims import session
from serving.victims.base import VictimPlugin

if TYPE_CHECKING:
    import onnxruntime

log = structlog.get_logger(__name__)


class OnnxVictim(VictimPlugin):
    """Runs an ONNX classifier with one float32 input (rows first) and scores of shape (rows, classes).

    ``output_name`` names the output, the first one where it is not given. ``scores`` says what it holds:
    ``logits`` (also log-probabilities), ``probabilities``, or ``auto``, which looks at the answers to
    random inputs. ``features`` names an output (rows, D) for the detectors. ``input_shape`` is needed
    where the file leaves axes open. A file with a fixed batch size is run in pieces of that size.
    """

    type: Literal["onnx"] = "onnx"
    weights: Path
    output_name: str = ""
    features: str = ""
    scores: Literal["auto", "logits", "probabilities"] = "auto"
    input_shape: tuple[PositiveInt, ...] = ()

    _session: "onnxruntime.InferenceSession" = PrivateAttr()
    _outputs: list[str] = PrivateAttr()
    _batch: int | None = PrivateAttr(None)
    _logits: bool = PrivateAttr(True)
    _input: InputSpec = PrivateAttr()
    _classes: int = PrivateAttr()
    _fingerprint: str = PrivateAttr()

    def load(self, setup: Setup) -> None:
        weights.refuse_unsafe(self.weights)
        self._fingerprint = weights.fingerprint(self.weights)
        self._session = session.open_session(self.weights)
        self._outputs = self._wanted_outputs()
        self._read_input()
        generator = torch.Generator().manual_seed(0)
        low = 0.0 if self.low is None else self.low
        high = low + 1.0 if self.high is None else self.high
        rows = low + (high - low) * torch.rand(4, *self._input.shape, generator=generator)
        answers, _ = self._forward(rows)
        if answers.ndim != 2 or len(answers) != 4:
            raise ConfigError(
                f"victim '{self.name}': output '{self._outputs[0]}' has shape {tuple(answers.shape)}"
                " for 4 rows; wanted (4, classes): name another with 'output_name'"
            )
        self._classes = int(answers.shape[1])
        already = simplex.on_simplex(answers)
        self._logits = not already if self.scores == "auto" else self.scores == "logits"
        log.info(
            "victim_engine",
            victim=self.name,
            engine="onnxruntime",
            reason="an ONNX file",
            scores="logits" if self._logits else "probabilities",
        )

    def _wanted_outputs(self) -> list[str]:
        names = [output.name for output in self._session.get_outputs()]
        wanted = [self.output_name or names[0]] + ([self.features] if self.features else [])
        for name in wanted:
            if name not in names:
                raise ConfigError(
                    f"victim '{self.name}': '{self.weights}' has no output '{name}';"
                    f" it has {', '.join(names)}"
                )
        return wanted

    def _read_input(self) -> None:
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{i.name} {i.type}" for i in inputs)
            raise ConfigError(
                f"victim '{self.name}': '{self.weights}' takes {found}; one float32 input is served"
            )
        batch, *shape = inputs[0].shape or [None]
        self._batch = batch if isinstance(batch, int) else None
        known = all(isinstance(axis, int) for axis in shape)
        if not known and not self.input_shape:
            raise ConfigError(
                f"victim '{self.name}': '{self.weights}' leaves axes open: {shape};"
                " set input_shape, such as [1, 28, 28]"
            )
        if known and self.input_shape and tuple(shape) != self.input_shape:
            raise ConfigError(
                f"victim '{self.name}': input_shape {self.input_shape}, but '{self.weights}'"
                f" takes {tuple(shape)}"
            )
        name = inputs[0].name
        self._input = InputSpec(self.input_shape or tuple(shape), self.low, self.high, name)

    @property
    def kind(self) -> Kind:
        return Kind.PROBABILITIES

    @property
    def input(self) -> InputSpec:
        return self._input

    @property
    def output(self) -> str:
        return self._outputs[0]

    @property
    def classes(self) -> int:
        return self._classes

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def predict(self, inputs: Tensor) -> Prediction:
        scores, features = self._forward(inputs)
        if not self._logits:
            return Prediction(scores, Kind.PROBABILITIES, features=features)
        values = torch.softmax(scores, dim=1)
        return Prediction(values, Kind.PROBABILITIES, logits=scores, features=features)

    def _forward(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        rows = self.normalized(inputs).contiguous().numpy()
        answers = [np.concatenate(parts) for parts in zip(*self._pieces(rows), strict=True)]
        tensors = [torch.from_numpy(answer) for answer in answers]
        return tensors[0], tensors[1].flatten(1) if len(tensors) > 1 else None

    def _pieces(self, rows: np.ndarray) -> list[list[np.ndarray]]:
        name = self._input.name
        if self._batch is None:
            return [session.run(self._session, self._outputs, name, rows)]
        pieces = []
        for start in range(0, len(rows), self._batch):
            piece = rows[start : start + self._batch]
            padded = np.resize(piece, (self._batch, *piece.shape[1:]))  # repeats rows to fill up
            answers = session.run(self._session, self._outputs, name, padded)
            pieces.append([answer[: len(piece)] for answer in answers])
        return pieces
