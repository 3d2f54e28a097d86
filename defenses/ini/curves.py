"""Draws how the terms of a training went; matplotlib is the extra ``pictures``."""

from pathlib import Path

from defenses.ini.training import History

TITLES = {
    "benign": "benign (cross-entropy)",
    "own_distance": "distance on own rows",
    "induction": "induction",
    "isolation": "isolation (cosine)",
    "size": "size of what a thief learns",
}


def draw(history: History, path: Path) -> bool:
    """Write a PNG with one panel a term; whether it could be drawn."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in TITLES if name in history[0]]
    figure, panels = pyplot.subplots(
        1, len(names), figsize=(2.8 * len(names), 2.4), squeeze=False, layout="constrained"
    )
    epochs = range(1, len(history) + 1)
    for panel, name in zip(panels[0], names, strict=True):
        panel.plot(epochs, [epoch[name] for epoch in history], marker=".")
        panel.set_title(TITLES[name], fontsize=9)
        panel.set_xlabel("epoch", fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return True
