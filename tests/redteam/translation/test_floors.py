"""Each floor is missed where its records miss it, and nowhere else."""

from typing import Any

import pytest

from redteam.translation.floors import best_thief, family, floors


def attack(domain: str, budget: int, variant: str, seed: int, **found: float) -> dict[str, Any]:
    told = {"domain": domain, "budget": budget, "variant": variant, "seed": seed}
    near = 30.0 + (budget > 100) + (budget > 2000)
    near += {"wavelet": 0.3 if domain == "cifar" else 0.1}.get(variant, 0.0)
    near += {"sam": 0.2 if domain == "cifar" else 0.1}.get(variant, 0.0)
    numbers = {"high_band": 0.9 if variant == "wavelet" else 1.0}
    numbers["rise_1"] = 0.1 if variant == "sam" else 0.2
    return {**told, "clone_victim": near, **numbers, **found}


def defended(name: str, domain: str, lost: float, **found: float) -> dict[str, Any]:
    near = 32.3 if domain == "cifar" else 32.1
    told = {"defense": name, "domain": domain, "seed": 0, "clone_victim": near - lost}
    return {**told, "p_dither": 1e-9, "p_watermark": 1e-9, **found}


def fine() -> dict[str, Any]:
    """Records that reach everything."""
    attacks = [
        attack(domain, budget, variant, seed)
        for domain in ("cifar", "fashion")
        for budget, variants in (
            (100, ("plain",)),
            (2000, ("plain", "wavelet")),
            (8000, ("plain", "wavelet", "sam")),
        )
        for variant in variants
        for seed in range(5)
    ]
    names = ("high_band_dither", "watermark", "band_limit", "band_limit, stops then")
    served = [
        {"defense": name, "truth": truth, "victim_least": 39.0}
        for name, truth in (("none", 22.0), *((name, 21.8) for name in names))
    ]
    return {
        "victim": {"truth": 22.0},
        "attacks": attacks,
        "served": served,
        "defenses": [defended(n, d, 2.0) for n in names for d in ("cifar", "fashion")],
        "independent": [{"p_dither": 0.4, "p_watermark": 0.5}],
    }


def missed(found: dict[str, Any]) -> list[str]:
    return [one["wanted"] for one in floors(found) if one["missed"]]


def test_nothing_is_missed_where_all_is_reached() -> None:
    assert missed(fine()) == []


@pytest.mark.parametrize(
    ("which", "change", "telling"),
    [
        ({"budget": 8000, "variant": "plain"}, {"clone_victim": 31.0}, "with every budget"),
        ({"budget": 2000, "variant": "wavelet", "seed": 3}, {"clone_victim": 20.0}, "sign test"),
        ({"budget": 2000, "variant": "wavelet"}, {"high_band": 0.96}, "error in high bands"),
        ({"variant": "wavelet", "domain": "fashion"}, {"clone_victim": 33.0}, "shrinks"),
        ({"variant": "sam"}, {"rise_1": 0.2}, "flatter"),
        ({"variant": "sam", "domain": "cifar"}, {"clone_victim": 31.9}, "no further"),
    ],
)
def test_each_floor_of_the_attack_is_told_where_it_is_missed(
    which: dict[str, Any], change: dict[str, float], telling: str
) -> None:
    found = fine()
    for line in found["attacks"]:
        if which.items() <= line.items():
            line.update(change)

    assert any(telling in wanted for wanted in missed(found))


@pytest.mark.parametrize(
    ("part", "change", "telling"),
    [
        ("defenses", {"p_dither": 2e-6}, "`high_band_dither` is in every copy"),
        ("defenses", {"p_watermark": 2e-6}, "`watermark` is in every copy"),
        ("served", {"victim_least": 37.9}, "no picture under 38 dB"),
        ("independent", {"p_dither": 0.01}, "know nothing"),
        ("served", {"truth": 19.0}, "`watermark` takes more"),
    ],
)
def test_each_floor_of_marks_and_clients_is_told_where_it_is_missed(
    part: str, change: dict[str, float], telling: str
) -> None:
    found = fine()
    for line in found[part]:
        if line.get("defense") != "none":
            line.update(change)
    if change.get("truth"):  # one defense must stay cheap
        found["served"][1]["truth"] = 21.8

    assert any(telling in wanted for wanted in missed(found))


def test_a_defense_is_judged_by_the_thief_whom_it_costs_least() -> None:
    found = fine()
    for line in found["defenses"]:
        lost = 1.4 if line["defense"] == "band_limit, stops then" else 6.0
        line["clone_victim"] += 2.0 - lost if line["defense"].startswith("band") else 1.5

    assert best_thief(found, "band_limit")["fashion"][1] == "band_limit, stops then"
    assert missed(found)[-1].startswith("some defense takes 1.5 dB")


def test_thieves_that_adapt_meet_the_same_shield() -> None:
    assert family("band_limit 2.5, suspected, stops then") == "band_limit 2.5, suspected"
    assert family("blur 0.4") == "blur 0.4"
