"""Settings of the display, side by side."""

from redteam.explanations.search import DISPLAY, FLAT, GAMMA, SETTINGS, ten


def test_a_thief_gains_by_a_display_and_more_where_its_exponent_is_undone() -> None:
    alone = ten((FLAT,))

    assert alone < ten((DISPLAY,)) < ten((DISPLAY,), DISPLAY.gamma)


def test_a_flatter_map_hides_nothing_from_those_who_know_it() -> None:
    flatter = SETTINGS[f"gamma {GAMMA}"]

    assert ten(flatter) < ten((DISPLAY,))
    assert abs(ten(flatter, GAMMA) - ten((DISPLAY,), DISPLAY.gamma)) < 0.01
