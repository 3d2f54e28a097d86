"""A gateway to attack, and the thief's pictures, as the tests of the attack command use them."""

from pathlib import Path
from typing import Any

import numpy as np

from mantlet.data import Images
from tests.e2e.harness import GENERATOR, PLAIN, TIERS

TRANSLATOR = {
    "victim": {
        "type": "torch",
        "weights": str(Path(__file__).parents[2] / "configs/models/superres-x2.safetensors"),
        "architecture": "superres",
        "settings": {"scale": 2, "channels": 3, "width": 32, "depth": 2},
    }
}
DRAWN = {
    "victim": {
        "type": "torch",
        "weights": str(Path(__file__).parents[2] / "configs/models/mnist-dcgan.safetensors"),
        "architecture": "dcgan",
    }
}
DENYING = [{"name": "all"}, {"name": "out", "rows": 100, "deny_s": 3600}]
CONFIG: dict[str, Any] = {
    "identity": {"open": False},
    "tiers": TIERS | {"hasty": {"requests": "2/second"}, "frugal": {"rows": "40/day"}},
    "models": {
        "mnist": PLAIN,
        "labels": PLAIN | {"answer": "labels"},
        "explained": PLAIN | {"explain": {"methods": ["gradient"]}},
        "denying": PLAIN | {"policy": DENYING},
        "digits": GENERATOR,
        "enlarged": TRANSLATOR,
        "drawn": DRAWN,
        "drawn-denying": DRAWN | {"policy": DENYING},
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
