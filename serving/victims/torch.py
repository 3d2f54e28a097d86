"""A victim from a safetensors file and a registered architecture."""

import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import structlog
import torch
from pydantic import Field, PositiveInt, PrivateAttr
from torch import Tensor, nn

from mantlet import architectures, weights
from mantlet.attribution import Explainer
from mantlet.errors import ConfigError
from mantlet.finite import all_finite
from mantlet.plugin import Setup
from mantlet.types import OPEN, InputSpec, Kind, Prediction, Task
from serving.explaining import Explain
from serving.victims import gradients, session
from serving.victims.base import VictimPlugin, first_line
from serving.victims.pictures import Tiling

if TYPE_CHECKING:
    import onnxruntime

log = structlog.get_logger(__name__)
OUTPUTS = {Kind.PROBABILITIES: ["values", "logits", "features"], Kind.IMAGES: ["pictures"]}
SAME_ANSWER = 1e-4
"""Largest difference in any probability or pixel at which ONNX Runtime counts as giving the same answers."""


class TorchVictim(VictimPlugin):
    """Runs a registered network; on a CPU through ONNX Runtime where that gives the same answers.

    ``engine_choice``: ``auto`` compares both at load on random inputs and takes ONNX Runtime when no
    probability or pixel differs by more than 1e-4; ``torch`` always runs eagerly; ``onnx`` insists.
    """

    type: Literal["torch"] = "torch"
    weights: Path
    """A safetensors file."""
    architecture: str
    """A registered architecture."""
    settings: dict[str, int | float | str | bool] = Field(default_factory=dict)
    """Settings of the architecture, such as ``classes``."""
    input_shape: tuple[PositiveInt, ...] = ()
    """Shape of one row, where the architecture does not say it."""
    engine_choice: Literal["auto", "torch", "onnx"] = Field("auto", alias="engine")
    """``auto``, ``torch`` or ``onnx``; see above."""

    _network: nn.Module = PrivateAttr()
    _session: "onnxruntime.InferenceSession | None" = PrivateAttr(None)
    _input: InputSpec = PrivateAttr()
    _task: Task = PrivateAttr(Task.CLASSIFY)
    _range: tuple[float, float] = PrivateAttr((0.0, 1.0))
    _tiling: Tiling | None = PrivateAttr(None)
    _output_shape: tuple[int, ...] = PrivateAttr()
    _device: torch.device = PrivateAttr()
    _fingerprint: str = PrivateAttr()
    _trained_with: str = PrivateAttr()

    def load(self, setup: Setup) -> None:
        weights.refuse_unsafe(self.weights)
        network = architectures.build(self.architecture, self.settings)
        weights.load_into(network, self.weights, self.architecture)
        shape = self.input_shape or getattr(network, "input_shape", ())
        if not shape:
            raise ConfigError(
                f"victim '{self.name}': architecture '{self.architecture}' does not say its input"
                " shape; set input_shape, such as [3, 32, 32]"
            )
        self._device = setup.device
        self._task = self._task_of(network)
        shown = _Shown(network) if self.kind is Kind.PROBABILITIES else _Painting(network)
        self._network = shown.eval().to(setup.device)
        own: tuple[float, float] = getattr(network, "output_range", self._range)
        self._range = self.output_range or own
        self._input = self.input_spec(self.shape_of_rows(tuple(shape)))
        self._fingerprint = weights.fingerprint(self.weights)
        self._trained_with = weights.metadata(self.weights).get("trained_with", "")
        answer = self._probe_answer()
        if self.task is Task.TRANSLATE:
            scale = self.scale_of(self.probe(1), answer)
            margin = getattr(network, "radius", None)
            tiling = self.tiling_of(self._input, scale, margin)
            self._tiling, self._input = self.settled(
                tiling, self._input, lambda rows: self._eager(rows)[0], self._range
            )
        sides = [OPEN if self._input.is_open else n for n in answer.shape[2:]]
        self._output_shape = (3 if self.luma else int(answer.shape[1]), *sides)
        self._choose_engine()

    def _task_of(self, network: nn.Module) -> Task:
        """What its architecture says; the config may say it where the architecture does not."""
        told = getattr(network, "task", "")
        if told and self.task_choice not in ("auto", told):
            raise ConfigError(
                f"victim '{self.name}': task '{self.task_choice}', but architecture"
                f" '{self.architecture}' is there to {told}; remove 'task'"
            )
        return Task(told) if told else super().task

    def _probe_answer(self) -> Tensor:
        """What the network answers to one row, checked."""
        try:
            answer = self._eager(self._probe_input())[0]
        except Exception as error:  # a network fails in its own way on rows it was not made for
            raise ConfigError(
                f"victim '{self.name}': architecture '{self.architecture}' does not take rows of"
                f" shape {self._input.shape}: {first_line(error)}; set input_shape"
            ) from error
        shape = tuple(answer.shape)
        if self.task is Task.CLASSIFY and (len(shape) != 2 or shape[0] != 1 or shape[1] < 2):
            raise ConfigError(
                f"victim '{self.name}': architecture '{self.architecture}' answers shape {shape} to"
                " one row; wanted (1, classes), two classes or more"
            )
        if self.task is not Task.CLASSIFY and (len(shape) != 4 or shape[1] not in (1, 3)):
            raise ConfigError(
                f"victim '{self.name}': architecture '{self.architecture}' answers shape {shape} to"
                " one row; wanted (1, 1 or 3, H, W)"
            )
        if not all_finite(answer):
            raise ConfigError(
                f"victim '{self.name}': '{self.weights}' answers values that are not finite; is it"
                " damaged?"
            )
        return answer

    def _probe_input(self) -> Tensor:
        """One row as the network takes it: of brightness alone where ``luma`` says so."""
        return self.probe(1)[:, :1] if self.luma else self.probe(1)

    def _choose_engine(self) -> None:
        reason = self._reason_for_eager()
        if reason and self.engine_choice == "onnx":
            raise ConfigError(f"victim '{self.name}': engine 'onnx' cannot be used: {reason}")
        if reason:
            self._session = None
        log.info(
            "victim_engine",
            victim=self.name,
            engine=self.engine,
            reason=reason or "same answers as eager torch on random inputs",
        )

    def _reason_for_eager(self) -> str | None:
        if self.engine_choice == "torch":
            return "the config says so"
        if self._device.type != "cpu":
            return f"the device is {self._device}"
        if not session.installed():
            return "ONNX Runtime is not installed (pip install 'mantlet[onnx]')"
        try:
            self._session = session.open_session(self._exported())
            difference = max(self._difference(self.probe(rows)) for rows in (8, 1))
        except Exception as error:  # what cannot be exported still runs eagerly; the log says why
            return f"it cannot be exported: {first_line(error)}"
        if difference > SAME_ANSWER:
            return f"ONNX Runtime answers differently: {difference:.1e}"
        return None

    def _difference(self, inputs: Tensor) -> float:
        """The largest difference in any value between the engines; infinite for another shape."""
        exported = self._answer(inputs, self._onnx).values
        eager = self._answer(inputs, self._eager).values
        if exported.shape != eager.shape:
            return math.inf
        return float((exported - eager).abs().nan_to_num(math.inf).max())

    @property
    def task(self) -> Task:
        return self._task

    @property
    def input(self) -> InputSpec:
        return self._input

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self._output_shape

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def trained_with(self) -> str:
        return self._trained_with

    @property
    def engine(self) -> str:
        return "onnxruntime" if self._session is not None else "torch"

    def predict(self, inputs: Tensor) -> Prediction:
        return self._answer(inputs, self._onnx if self._session is not None else self._eager)

    def explainer(self, settings: Explain, secret: bytes) -> Explainer:
        """Explains by the gradients of the network, whatever runs its predictions."""
        if self._task is not Task.CLASSIFY:
            raise ConfigError(
                f"victim '{self.name}' is there to {self._task}, and classifiers alone are explained;"
                " remove 'explain'"
            )
        return gradients.explainer(
            self._network.network,  # type: ignore[arg-type]  # of `_Shown`
            self,
            settings,
            secret=secret,
            device=self._device,
        )

    def _answer(self, inputs: Tensor, engine: "_Engine") -> Prediction:
        if self._task is Task.CLASSIFY:
            return _prediction(*engine(inputs))
        return self.pictured(inputs, lambda rows: engine(rows)[0], self._tiling, self._range)

    @torch.inference_mode()
    def _eager(self, inputs: Tensor) -> Sequence[Tensor]:
        answers = self._network(self.normalized(inputs).to(self._device))
        return [answer.cpu() for answer in answers]

    def _onnx(self, inputs: Tensor) -> Sequence[Tensor]:
        assert self._session is not None
        rows = self.normalized(inputs).contiguous().numpy()
        answers = session.run(self._session, OUTPUTS[self.kind], "inputs", rows)
        return [torch.from_numpy(answer) for answer in answers]

    def _exported(self) -> bytes:
        """ONNX bytes of the network, with a free batch axis, and free sides where they are open."""
        names = OUTPUTS[self.kind]
        sides = {2: "height", 3: "width"} if self._input.is_open else {}
        free = {name: {0: "rows", **sides} for name in ("inputs", *names)}
        shown = self._probe_input()
        return _export(self._network, torch.zeros(2, *shown.shape[1:]), names, free)


_Engine = Callable[[Tensor], Sequence[Tensor]]


class _Shown(nn.Module):
    """Wraps an architecture: probabilities, logits and, where it has them, features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.shows = hasattr(network, "embed") and hasattr(network, "classify")

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.shows:
            logits = self.network(inputs).float()
            return torch.softmax(logits, dim=-1), logits, logits.new_zeros(1, 0)
        features = self.network.embed(inputs)  # type: ignore[operator]  # found by hasattr above
        logits = self.network.classify(features).float()  # type: ignore[operator]  # as above
        return torch.softmax(logits, dim=-1), logits, features.flatten(1).float()


class _Painting(nn.Module):
    """Wraps an architecture that makes pictures."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        return (self.network(inputs).float(),)


def _prediction(values: Tensor, logits: Tensor, features: Tensor) -> Prediction:
    shown = features if features.shape[1] else None
    return Prediction(values, Kind.PROBABILITIES, logits=logits, features=shown)


def _export(
    network: nn.Module, rows: Tensor, names: list[str], free: dict[str, dict[int, str]]
) -> bytes:
    """ONNX bytes of a network as it runs on ``rows``, with the axes that are ``free``.

    The TorchScript exporter: a fifth of a second and 35 MB, where the newer one takes 2.6 s and
    150 MB of a serving process (decision 006).
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that this exporter will go one day
        torch.onnx.export(
            network,
            (rows,),
            buffer,  # type: ignore[arg-type]  # takes a buffer, types say a path
            dynamo=False,
            input_names=["inputs"],
            output_names=names,
            dynamic_axes=free,
        )
    return buffer.getvalue()
