"""Pictures show every defense and attacker that was measured."""

from matplotlib import pyplot

from redteam.grid import summary
from redteam.grid.figures import OPEN, accuracy_against_budget, figures, utility_against_protection
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


def test_every_panel_has_the_curve_of_no_defense() -> None:
    figure = accuracy_against_budget(
        summary.lines([*RECORDS, record(attacker_data="own", attack="own soft")])
    )
    drawn = {
        axes.get_title(loc="left"): {
            line.get_color() for line in axes.lines if len(line.get_xdata())
        }  # type: ignore[arg-type]
        for axes in figure.axes
    }
    pyplot.close(figure)

    assert len(drawn) == 3
    assert [name for name, colors in drawn.items() if OPEN not in colors] == []


def test_defenses_that_do_alike_share_a_label_that_can_be_read() -> None:
    alike = [record(defense=f"number {n}", agreement=0.94 + 0.001 * n) for n in range(6)]
    figure = utility_against_protection(summary.lines([*alike, record(agreement=0.2)]))
    texts = [text.get_text() for text in figure.axes[0].texts]
    pyplot.close(figure)

    assert sorted(texts) == ["1 2 3 4\n5 6", "7"]
