"""Sheets of pictures of the bench of generators: the victim's, and those of clones of its answers."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import torch
from matplotlib import pyplot
from torch import Tensor

from mantlet.sheets import contact_sheet
from redteam.gan.cases import FEW, MARKED, UNDEFENDED, Case

PANELS: Mapping[str, str] = {
    UNDEFENDED: "a clone, no defense",
    **{name: f"a clone, {name.replace('_', ' ')}" for name in FEW},
    MARKED: "a clone of marked pictures",
}
"""Defenses that are shown, and what stands over them."""


def keep(folder: Path, case: Case, clean: Tensor, made: Tensor) -> None:
    """Keep what the plain thief's clone draws at a budget, beside the victim's."""
    folder.mkdir(parents=True, exist_ok=True)
    if case.thief == "plain" and case.defense in PANELS:
        name = f"{case.family}+{case.seed}+{case.defense}+{case.budget}.npz"
        np.savez(folder / name, clean=clean.numpy(), made=made.numpy())


def draw(folder: Path, target: Path) -> None:
    """A row a family, of its first seed and largest budget; nothing where nothing was kept."""
    families = sorted({path.stem.split("+")[0] for path in folder.glob("*.npz")}, reverse=True)
    rows = [_sheets(folder, family) for family in families]
    if not rows:
        return
    across = max(map(len, rows))
    figure, panels = pyplot.subplots(
        len(rows), across, figsize=(2.1 * across, 2.4 * len(rows)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes in panels.flat:
        axes.set_axis_off()
    for line, found in zip(panels, rows, strict=True):
        for axes, (title, pictures) in zip(line, found.items(), strict=False):
            axes.imshow(np.asarray(contact_sheet(torch.from_numpy(pictures))), cmap="gray")
            axes.set_title(title, fontsize=8)
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def _sheets(folder: Path, family: str) -> Mapping[str, np.ndarray]:
    """Pictures by title."""
    found: dict[str, np.ndarray] = {}
    for name, title in PANELS.items():
        kept = [path.stem.split("+") for path in folder.glob(f"{family}+*+{name}+*.npz")]
        if kept:  # of the first seed the largest budget
            best = max(kept, key=lambda parts: (-int(parts[1]), int(parts[3])))
            with np.load(folder / f"{'+'.join(best)}.npz", allow_pickle=False) as file:
                found.setdefault("the victim", file["clean"])
                found[title] = file["made"]
    return found
