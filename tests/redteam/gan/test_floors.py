"""A floor that is missed is told in words, and one that is reached is not."""

from typing import Any

import pytest

from redteam.gan.floors import looked, missed

FIDS = {
    "fid_clone_victim": 2.0,
    "fid_clone_real": 30.0,
    "fid_served_real": 15.0,
    "fid_served_real_many": 15.0,
    "coverage": 0.9,
}
GOOD = {"64": 0.2, "2000": 1e-9}
NONE = {"64": 0.2, "2000": 0.5}


def clone(
    defense: str = "none", thief: str = "plain", budget: int = 20_000, **found: Any
) -> dict[str, Any]:
    about = {"victim": "mnist", "seed": 0, "defense": defense, "thief": thief, "budget": budget}
    p = GOOD if defense == "watermark" else NONE
    return about | {"model": "clone", "p": p} | FIDS | found


def fine() -> list[dict[str, Any]]:
    """Records that reach everything."""
    strong = {"fid_clone_victim": 4.0, "coverage": 0.7, "fid_clone_real": 45.0}
    return [
        clone(budget=1_000, fid_clone_victim=5.0),
        clone(budget=5_000, fid_clone_victim=3.0),
        clone(),
        clone("linear_interpolation", **strong),
        clone("semantic_interpolation", **strong),
        clone("blur", fid_clone_victim=2.3),
        clone("watermark"),
        clone("watermark", "jpeg 70"),
        clone(thief="leaked discriminator", fid_clone_real=25.0),
        {"victim": "mnist", "seed": 0, "defense": "none", "model": "real pictures", "p": NONE},
        {"victim": "mnist", "seed": 0, "defense": "none", "model": "the API, marked", "p": GOOD},
    ]


def changed(which: int, **found: Any) -> list[str]:
    records = fine()
    records[which] = records[which] | found
    return missed(records, {}, 20_000)


def test_nothing_is_missed_where_all_is_reached() -> None:
    assert missed(fine(), {"ratio": {"watermark": 1.1, "jpeg": 9.0}}, 20_000) == []
    assert missed([], {}, 20_000) == []


def test_each_floor_is_told_where_it_is_missed() -> None:
    for which, found, telling in (
        (0, {"fid_clone_victim": 2.5}, "does not fall over budgets (1,000: 2.50, 5,000: 3.00"),
        (2, {"fid_clone_real": 1.0}, "not nearer to the API"),
        (3, {"fid_clone_victim": 2.9}, "linear_interpolation raises fid_clone_victim 1.45x"),
        (4, {"coverage": 0.85}, "semantic_interpolation takes 5.0 points"),
        (3, {"fid_served_real_many": 30.0}, "costs more (2.00x fid_served_real_many)"),
        (5, {"fid_clone_victim": 2.5}, "blur raises fid_clone_victim 1.25x"),
        (6, {"fid_served_real": 16.0}, "watermark raises fid_served_real 1.067x"),
        (7, {"p": NONE}, "seed 0, jpeg 70: no proof that a clone of marked pictures is one"),
        (8, {"fid_clone_real": 31.0}, "brings fid_clone_real to 31.00, and not under 30.00"),
        (9, {"p": GOOD}, "of what never saw a mark (real pictures, none, no thief)"),
    ):
        lines = changed(which, **found)

        assert any(telling in line for line in lines), (telling, lines)


@pytest.mark.parametrize(("which", "defense"), [(6, "watermark"), (2, "none")])
def test_only_the_look_that_was_chosen_before_counts(which: int, defense: str) -> None:
    """No luckier one proves a clone, or accuses an innocent."""
    lucky = {"64": 1e-9, "1000": 1e-9, "2000": 0.5, "5000": 1e-9}
    lines = changed(which, p=lucky)

    assert looked({"p": lucky}) == 0.5
    assert looked({"p": {"32": 0.2, "64": 0.3}}) == 0.3
    assert bool(lines) is (defense == "watermark")


def test_a_chain_that_is_slow_is_told() -> None:
    (line,) = missed(fine(), {"ratio": {"watermark": 1.3}}, 20_000)

    assert "watermark takes 1.30x of a batch's time" in line


def test_means_over_seeds_are_judged() -> None:
    second = [record | {"seed": 1} for record in fine()]
    second[3] |= {"fid_clone_victim": 2.5}

    assert missed([*fine(), *second], {}, 20_000) == []


def test_a_defense_is_compared_on_the_seeds_that_it_was_measured_on() -> None:
    poor = clone(seed=1, fid_clone_victim=0.5)

    assert missed([*fine(), poor], {}, 20_000) == []
