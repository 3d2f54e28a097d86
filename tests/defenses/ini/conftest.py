"""A small world: bars that stand are class 0, bars that lie class 1; dots are foreign."""

from pathlib import Path

import numpy as np
import pytest

from defenses.ini.recipe import IniRecipe
from mantlet.data import Images


@pytest.fixture(scope="session")
def bars() -> Images:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 500)
    near = np.abs(np.arange(28) - rng.uniform(6, 22, (500, 1)))
    line = np.clip(2.5 - near / 2, 0, 1)[:, None, None, :]
    x = np.broadcast_to(line, (500, 1, 28, 28)).copy()
    x[y == 1] = x[y == 1].swapaxes(2, 3)
    return Images(x.astype(np.float32), y)


@pytest.fixture(scope="session")
def dots() -> Images:
    rng = np.random.default_rng(1)
    return Images((rng.random((400, 1, 28, 28)) > 0.7).astype(np.float32), None)


@pytest.fixture
def recipe(tmp_path: Path) -> IniRecipe:
    return IniRecipe(
        kind="ini",
        architecture="lenet",
        settings={"width": 2, "classes": 2},
        favourite=1,
        share=0.6,
        drawn=("strokes",),
        drawn_rows=200,
        shift=0,
        epochs=4,
        batch=20,
        foreign_batch=20,
        holdout=100,
        output=tmp_path / "m.safetensors",
    )
