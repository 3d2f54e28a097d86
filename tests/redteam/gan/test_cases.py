"""Which thieves meet which defenses, and that every name is one that there is."""

import defenses
from redteam.attacks.gan import GanTheft
from redteam.gan.cases import (
    FULL,
    MARKED,
    SMALL,
    THIEVES,
    UNDEFENDED,
    cases,
    classifier_of,
    defense,
)


def test_every_case_names_a_thief_and_a_defense_that_load() -> None:
    known = defenses.known() | defenses.known_inputs()
    for case in cases(["mnist", "fashion"], [0, 1], FULL):
        GanTheft.model_validate({"training": FULL.clone, **THIEVES[case.thief].attack})
        for settings in defense(case.defense, case.family, FULL):
            known[settings["type"]].model_validate(settings)

    assert defense(UNDEFENDED, "mnist", FULL) == ()


def test_no_case_comes_twice_and_the_first_seed_has_the_most() -> None:
    all_ = list(cases(["mnist", "fashion"], [3, 4], FULL))
    of_seed = {seed: [c for c in all_ if c.seed == seed] for seed in (3, 4)}

    assert len(set(all_)) == len(all_)
    assert len(of_seed[3]) > len(of_seed[4]) >= 20


def test_budgets_are_tried_without_a_defense_and_the_largest_with_each() -> None:
    found = list(cases(["mnist"], [0], FULL))
    own = [c.budget for c in found if (c.defense, c.thief) == (UNDEFENDED, "plain")]

    assert sorted(own) == sorted(FULL.budgets)
    assert {c.budget for c in found if c.defense == MARKED} == {FULL.largest}


def test_the_mark_of_clothes_is_drawn_in_dots() -> None:
    digits, clothes = (defense(MARKED, family, FULL)[0] for family in ("mnist", "fashion"))

    assert clothes["sparse"] > 0
    assert digits == {"type": MARKED}


def test_anchors_follow_the_budget() -> None:
    assert defense("linear_interpolation", "mnist", FULL)[0]["anchors"] == 2_000
    assert defense("linear_interpolation", "mnist", SMALL)[0]["anchors"] == 25


def test_classifiers_ship() -> None:
    for family in ("mnist", "fashion", "mnist-test"):
        assert classifier_of(family).is_file()
