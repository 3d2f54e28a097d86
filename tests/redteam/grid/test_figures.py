"""Pictures show every defense and attacker that was measured."""

from matplotlib import pyplot

from redteam.grid import summary
from redteam.grid.figures import figures
from tests.redteam.grid.test_report import RECORDS
from tests.redteam.grid.test_summary import record


def test_every_victim_has_four_pictures_with_what_was_measured() -> None:
    found = summary.lines([*RECORDS, record(victim="fashion")])
    names, texts = [], {}
    for name, _, figure in figures(found):
        names.append(name)
        drawn = [text.get_text() for axes in figure.axes for text in axes.texts]
        labels = [t.get_text() for axes in figure.axes for t in axes.get_yticklabels()]
        texts[name] = " ".join([*drawn, *labels])
        pyplot.close(figure)

    assert len(names) == 8
    assert "default" in texts["mnist-grid"]
    assert "52" in texts["mnist-grid"]  # the strongest of those who adapt, in percent
    assert "16 accounts" in texts["mnist-detection"]
    assert "denied: 640" in texts["mnist-detection"]
    assert "denied: never" in texts["fashion-detection"]
