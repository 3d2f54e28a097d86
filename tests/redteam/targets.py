"""A gateway to attack, and the thief's pictures, as the tests of the attack command use them."""

from pathlib import Path
from typing import Any

import numpy as np

from mantlet.data import Images
from tests.e2e.harness import PLAIN, TIERS

GENERATOR = {
    "victim": {
        "type": "onnx",
        "weights": str(Path(__file__).parents[1] / "data/models/mnist_gan_mlp_csinva.onnx"),
        "task": "generate",
        "output_range": [-1, 1],
    }
}
DENYING = [{"name": "all"}, {"name": "out", "rows": 100, "deny_s": 3600}]
CONFIG: dict[str, Any] = {
    "identity": {"open": False},
    "tiers": TIERS | {"hasty": {"requests": "2/second"}, "frugal": {"rows": "40/day"}},
    "models": {
        "mnist": PLAIN,
        "labels": PLAIN | {"answer": "labels"},
        "denying": PLAIN | {"policy": DENYING},
        "digits": GENERATOR,
    },
}
QUICK = ("--set", "training.steps=40", "--set", "request=32", "--clone-set", "width=4")


def write_pictures(folder: Path, digits: Images) -> None:
    """``own.npz`` of the thief and ``eval.npz``, which judges its clone; ``bare.npz`` has no labels."""
    assert digits.y is not None
    x = (digits.x * 255).round().astype(np.uint8)
    np.savez(folder / "own.npz", x=x[:2000])
    np.savez(folder / "bare.npz", x_test=x[9000:])
    np.savez(folder / "eval.npz", x_test=x[9000:], y_test=digits.y[9000:])
    np.savez(folder / "colour.npz", x=np.zeros((10, 3, 32, 32), np.uint8))
