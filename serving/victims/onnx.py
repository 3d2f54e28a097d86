"""A victim from an ONNX file, run by ONNX Runtime."""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import structlog
import torch
from pydantic import PositiveInt, PrivateAttr
from torch import Tensor

from mantlet import simplex, weights
from mantlet.errors import ConfigError, VictimError
from mantlet.finite import all_finite
from mantlet.plugin import Setup
from mantlet.types import OPEN, InputSpec, Kind, Prediction, Task
from serving.victims import session
from serving.victims.base import VictimPlugin
from serving.victims.pictures import Tiling

if TYPE_CHECKING:
    import onnxruntime

log = structlog.get_logger(__name__)
FLOATS = frozenset({"tensor(float)", "tensor(double)"})
LOCATION = re.compile(rb"\x0a\x08location\x12([\x80-\xff]?[\x01-\x7f])")
"""In an ONNX file, what stands before the name of a file with tensors, with the name's length."""


class OnnxVictim(VictimPlugin):
    """Runs an ONNX model with one float32 input (rows first): scores (rows, classes), or pictures.

    ``output_name`` names the output, the first one where it is not given. ``task`` says whether it makes
    pictures. ``scores`` says what the output of a classifier holds:
    ``logits`` (also log-probabilities), ``probabilities``, or ``auto``, which looks at the answers to
    random inputs. ``features`` names an output (rows, D) for the detectors. ``input_shape`` is needed
    where the file leaves axes open. A file with a fixed batch size is run in pieces of that size.
    """

    type: Literal["onnx"] = "onnx"
    weights: Path
    """An ONNX file."""
    output_name: str = ""
    """The output with the scores; the first one by default."""
    features: str = ""
    """An output with features, for the detectors."""
    scores: Literal["auto", "logits", "probabilities"] = "auto"
    """What the output holds; ``auto`` tries it."""
    input_shape: tuple[PositiveInt, ...] = ()
    """Shape of one row, where the file leaves axes open; a model that translates may leave its sides open."""

    _session: "onnxruntime.InferenceSession" = PrivateAttr()
    _outputs: list[str] = PrivateAttr()
    _batch: int | None = PrivateAttr(None)
    _logits: bool = PrivateAttr(True)
    _input: InputSpec = PrivateAttr()
    _tiling: Tiling | None = PrivateAttr(None)
    _output_shape: tuple[int, ...] = PrivateAttr()
    _fingerprint: str = PrivateAttr()

    def load(self, setup: Setup) -> None:
        weights.refuse_unsafe(self.weights)
        self._fingerprint = _fingerprint(self.weights)
        self._session = session.open_session(self.weights)
        self._outputs = self._wanted_outputs()
        self._input = self._read_input()
        answers = self._try_it()
        if self.task is Task.CLASSIFY:
            self._logits = self._has_logits(answers)
            self._output_shape = (int(answers.shape[1]),)
        else:
            self._learn_pictures(answers)
        scores = "logits" if self._logits else "probabilities"
        log.info(
            "victim_engine",
            victim=self.name,
            engine="onnxruntime",
            reason="an ONNX file",
            answers=scores if self.task is Task.CLASSIFY else "pictures",
        )

    def _learn_pictures(self, answers: Tensor) -> None:
        """What it makes of the rows it was tried on: shape, scale, and how large pictures go through."""
        if answers.ndim != 4 or answers.shape[1] not in (1, 3):
            raise ConfigError(
                f"victim '{self.name}': output '{self._outputs[0]}' has shape {tuple(answers.shape)};"
                " wanted pictures (rows, 1 or 3, H, W): name another with 'output_name'"
            )
        if self.task is Task.TRANSLATE:
            scale = self.scale_of(self._probe_input(), answers)
            tiling = self.tiling_of(self._input, scale)
            self._tiling, self._input = self.settled(
                tiling,
                self._input,
                lambda rows: self._forward(rows)[0],
                self.output_range or (0.0, 1.0),
            )
        sides = [OPEN if self._input.is_open else n for n in answers.shape[2:]]
        self._output_shape = (3 if self.luma else int(answers.shape[1]), *sides)
        self.predict(self.probe(1))  # pictures are finite, and tiles of the right size

    def _probe_input(self) -> Tensor:
        """Rows as the model takes them: of brightness alone where ``luma`` says so."""
        return self.probe(4)[:, :1] if self.luma else self.probe(4)

    def _wanted_outputs(self) -> list[str]:
        found = {output.name: output.type for output in self._session.get_outputs()}
        first = next(iter(found))
        wanted = [self.output_name or first] + ([self.features] if self.features else [])
        for name in wanted:
            if name not in found:
                raise ConfigError(
                    f"victim '{self.name}': '{self.weights}' has no output '{name}';"
                    f" it has {', '.join(found)}"
                )
            if found[name] not in FLOATS:
                others = ", ".join(n for n, kind in found.items() if kind in FLOATS) or "none"
                raise ConfigError(
                    f"victim '{self.name}': output '{name}' of '{self.weights}' is {found[name]};"
                    f" name one of floats with 'output_name': {others}"
                )
        return wanted

    def _read_input(self) -> InputSpec:
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{i.name} {i.type}" for i in inputs)
            raise ConfigError(
                f"victim '{self.name}': '{self.weights}' takes {found}; one float32 input is served"
            )
        batch, *shape = inputs[0].shape or [None]
        self._batch = batch if isinstance(batch, int) else None
        if self.task is Task.TRANSLATE and len(shape) == 3 and isinstance(shape[0], int):
            shape = [shape[0], *(axis if isinstance(axis, int) else OPEN for axis in shape[1:])]
        known = all(isinstance(axis, int) for axis in shape)
        if not (known and shape) and not self.input_shape:
            raise ConfigError(
                f"victim '{self.name}': '{self.weights}' leaves axes open: {shape};"
                " set input_shape, such as [1, 28, 28]"
            )
        if known and self.input_shape and tuple(shape) != self.input_shape:
            raise ConfigError(
                f"victim '{self.name}': input_shape {self.input_shape}, but '{self.weights}'"
                f" takes {tuple(shape)}"
            )
        taken = self.shape_of_rows(self.input_shape or tuple(shape))
        return self.input_spec(taken, inputs[0].name)

    def _try_it(self) -> Tensor:
        """The answers to random rows, which must be finite."""
        try:
            answers, _ = self._forward(self._probe_input())
        except VictimError as error:
            raise ConfigError(
                f"victim '{self.name}': '{self.weights}': {error}; does input_shape fit?"
            ) from error
        if not all_finite(answers):
            raise ConfigError(
                f"victim '{self.name}': '{self.weights}' answers values that are not finite; is it"
                " damaged?"
            )
        return answers

    def _has_logits(self, answers: Tensor) -> bool:
        """Whether the scores of random rows are logits."""
        rows = len(self.probe(4))
        if answers.ndim != 2 or len(answers) != rows or answers.shape[1] < 2:
            raise ConfigError(
                f"victim '{self.name}': output '{self._outputs[0]}' has shape {tuple(answers.shape)}"
                f" for {rows} rows; wanted ({rows}, classes), two classes or more: name another with"
                " 'output_name'"
            )
        already = simplex.on_simplex(answers)
        if self.scores == "probabilities" and not already:
            raise ConfigError(
                f"victim '{self.name}': output '{self._outputs[0]}' holds no probabilities: a row"
                f" sums to {float(answers[0].sum()):.3g}; set scores: logits"
            )
        return self.scores == "logits" or not already

    @property
    def input(self) -> InputSpec:
        return self._input

    @property
    def output(self) -> str:
        return self._outputs[0]

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self._output_shape

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def predict(self, inputs: Tensor) -> Prediction:
        if self.task is not Task.CLASSIFY:
            black_white = self.output_range or (0.0, 1.0)
            return self.pictured(
                inputs, lambda rows: self._forward(rows)[0], self._tiling, black_white
            )
        scores, features = self._forward(inputs)
        if not self._logits:
            return Prediction(scores, Kind.PROBABILITIES, features=features)
        values = torch.softmax(scores, dim=1)
        return Prediction(values, Kind.PROBABILITIES, logits=scores, features=features)

    def _forward(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        rows = self.normalized(inputs).contiguous().numpy()
        answers = [np.concatenate(parts) for parts in zip(*self._pieces(rows), strict=True)]
        tensors = [torch.from_numpy(answer.astype(np.float32, copy=False)) for answer in answers]
        return tensors[0], tensors[1].flatten(1) if len(tensors) > 1 else None

    def _pieces(self, rows: np.ndarray) -> list[list[np.ndarray]]:
        name = self._input.name
        if self._batch is None:
            return [session.run(self._session, self._outputs, name, rows)]
        pieces = []
        for start in range(0, len(rows), self._batch):
            piece = rows[start : start + self._batch]
            padded = np.resize(piece, (self._batch, *piece.shape[1:]))  # repeats rows to fill up
            answers = session.run(self._session, self._outputs, name, padded, at_once=self._batch)
            pieces.append([answer[: len(piece)] for answer in answers])
        return pieces


def _fingerprint(path: Path) -> str:
    """SHA-256 of the file or, where its tensors are in files beside it, of the hashes of all."""
    own = weights.fingerprint(path)
    data = path.read_bytes()
    names = set()
    for found in LOCATION.finditer(data):
        *low, high = found[1]  # a number of one or two bytes, seven bits each
        length = (low[0] & 0x7F) + (high << 7) if low else high
        names.add(data[found.end() : found.end() + length].decode("utf-8", "replace"))
    others = [weights.fingerprint(path.parent / name) for name in sorted(names)]
    return hashlib.sha256("".join([own, *others]).encode()).hexdigest() if others else own
