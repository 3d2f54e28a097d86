"""Sheets show the first seed's largest budget of each defense, and nothing where nothing was kept."""

from pathlib import Path

import torch
from PIL import Image

from redteam.gan.cases import Case
from redteam.gan.sheets import draw, keep


def test_a_panel_a_defense_is_drawn(tmp_path: Path) -> None:
    clean, made = torch.rand(9, 1, 28, 28), torch.rand(9, 1, 28, 28)
    for name, thief, seed in (
        ("none", "plain", 0),
        ("none", "plain", 1),
        ("watermark", "plain", 0),
    ):
        keep(tmp_path / "sheets", Case("mnist", seed, name, thief, 100), clean, made)
    keep(tmp_path / "sheets", Case("mnist", 0, "none", "plain", 50), clean, made)
    draw(tmp_path / "sheets", tmp_path / "a.png")

    with Image.open(tmp_path / "a.png") as three:
        wide = three.width
    keep(tmp_path / "sheets", Case("mnist", 0, "latent_budget 100", "plain", 100), clean, made)
    draw(tmp_path / "sheets", tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as four:
        assert four.width > wide


def test_other_thieves_are_not_kept_and_no_sheet_is_drawn_of_nothing(tmp_path: Path) -> None:
    pictures = torch.rand(9, 1, 28, 28)
    keep(tmp_path / "sheets", Case("mnist", 0, "none", "jpeg 70", 100), pictures, pictures)
    draw(tmp_path / "sheets", tmp_path / "a.png")

    assert not (tmp_path / "a.png").exists()
