from pathlib import Path

import pytest
from PIL import Image

from defenses.ini import curves

HISTORY = [{"benign": 2.0, "induction": 1.0}, {"benign": 0.5, "induction": 0.2}]


def test_the_picture_has_a_panel_for_every_term(tmp_path: Path) -> None:
    assert curves.draw(HISTORY, tmp_path / "two.png")
    assert curves.draw([{"benign": 1.0}], tmp_path / "one.png")
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.width == 2 * one.width


def test_without_matplotlib_nothing_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)

    assert not curves.draw(HISTORY, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()
