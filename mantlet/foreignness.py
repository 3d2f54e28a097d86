"""A small trained classifier of foreign inputs, as arrays: what its training writes and a detector reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mantlet import weights
from mantlet.errors import WeightsError
from mantlet.types import Prediction

LAYERS = ("centre", "scale", "hidden.weight", "hidden.bias", "output.weight", "output.bias")
LIMIT = 8.0
"""Standard deviations beyond which a number says no more."""


@dataclass(frozen=True)
class Foreignness:
    """Judges inputs by their principal components, what those leave unexplained, and the victim's answer.

    ``arrays``: ``mean`` (d,) and ``components`` (d, k) of benign inputs, and of a network with one hidden
    layer over F numbers: ``centre`` and ``scale`` (F,), ``hidden.*`` and ``output.*``. Where F is k + 2,
    it needs the input alone; else also the victim's features and logits.
    """

    arrays: Mapping[str, np.ndarray]

    @classmethod
    def load(cls, path: Path) -> "Foreignness":
        """Read a safetensors file; raises `WeightsError` where it is not such a classifier."""
        state = {name: tensor.float().numpy() for name, tensor in weights.load_state(path).items()}
        missing = [name for name in ("mean", "components", *LAYERS) if name not in state]
        if missing:
            raise WeightsError(
                f"classifier '{path}' lacks {', '.join(missing)}; make it with: mantlet train RECIPE"
            )
        return cls(state)

    @property
    def needs_victim(self) -> bool:
        """Whether it looks at features and logits."""
        return bool(len(self.arrays["centre"]) > self.arrays["components"].shape[1] + 2)

    def fits(self, inputs: np.ndarray, prediction: Prediction) -> bool:
        """Whether these inputs and answers are of the kind it was trained on."""
        width = self.arrays["components"].shape[1] + 2
        if self.needs_victim:
            if prediction.features is None or prediction.logits is None:
                return False
            width += prediction.features.shape[1] + prediction.logits.shape[1]
        known = len(self.arrays["mean"]), len(self.arrays["centre"])
        return bool((inputs[0].size, width) == known)

    def judge(
        self, inputs: np.ndarray, prediction: Prediction, explained: np.ndarray | None = None
    ) -> np.ndarray:
        """(B,) log-odds that the rows are foreign; ``explained`` as in `described`."""
        a = self.arrays
        seen = described(a, inputs, prediction if self.needs_victim else None, explained)
        near = np.clip((seen - a["centre"]) / a["scale"], -LIMIT, LIMIT)
        hidden = np.maximum(near @ a["hidden.weight"] + a["hidden.bias"], 0.0)
        odds: np.ndarray = hidden @ a["output.weight"] + a["output.bias"]
        return odds


def described(
    arrays: Mapping[str, np.ndarray],
    inputs: np.ndarray,
    prediction: Prediction | None,
    explained: np.ndarray | None = None,
) -> np.ndarray:
    """(B, F) numbers of each row that the classifier looks at.

    ``explained`` (B, k) are the centred inputs along the components, where they are known already.
    """
    centred = inputs.reshape(len(inputs), -1) - arrays["mean"]
    if explained is None:
        explained = centred @ arrays["components"]
    square = np.einsum("bd,bd->b", centred, centred) - np.einsum("bk,bk->b", explained, explained)
    rest = np.sqrt(np.maximum(square, 0.0))[:, None]
    parts = [explained, rest, np.log(rest + 0.1)]
    if prediction is not None:
        assert prediction.features is not None  # `fits` has asked
        assert prediction.logits is not None
        # sorted: how sure the victim is, whatever the class
        parts += [prediction.features.numpy(), np.sort(prediction.logits.numpy(), axis=1)]
    return np.concatenate(parts, axis=1)
