"""Tables of the bench of translators say what its records say."""

from collections.abc import Mapping
from typing import Any

import pytest

from docs import translating
from redteam.translation import floors
from redteam.translation.bench import DOMAINS, SHIELDS, VARIANTS


def attacked(domain: str, variant: str, seed: int, score: float) -> dict[str, Any]:
    told = {"domain": domain, "budget": 8000, "variant": variant, "seed": seed}
    numbers = {"clone_victim": score, "clone_truth": 20.0, "high_band": 0.05, "rise_1": 0.01}
    return {**told, **numbers}


def defended(name: str, domain: str, seed: int) -> dict[str, Any]:
    told = {"defense": name, "domain": domain, "seed": seed}
    return {**told, "clone_victim": 28.0, "clone_truth": 19.5, "p_dither": 1e-9, "p_watermark": 1.0}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """Records in place of those in the results: the term helps in one of two seeds; one shield is measured twice."""
    served = {
        "truth": 21.9,
        "victim": 38.2,
        "similarity": 0.991,
        "p_dither": 1e-12,
        "p_watermark": 1.0,
    }
    made: dict[str, Any] = {
        "victim": {"truth": 22.0},
        "served": [{"defense": name, **served} for name in SHIELDS],
        "independent": [
            {
                "data": "own",
                "seed": 3,
                "clone_victim": 30.11,
                "clone_truth": 22.85,
                "p_dither": 0.3,
                "p_watermark": 1.0,
            }
        ],
        "floors": [
            {"wanted": "a", "measured": "1", "missed": True},
            {"wanted": "b", "measured": "2", "missed": False},
        ],
        "attacks": [attacked(d, v, s, 30.0) for d in DOMAINS for v in VARIANTS for s in (0, 1)],
        "defenses": [defended(name, d, 0) for name in SHIELDS for d in DOMAINS],
    }
    made["attacks"][2]["clone_victim"] = 31.0  # the first domain, wavelet, seed 0
    made["attacks"].append(
        attacked(DOMAINS[0], "plain", 2, 33.0)
    )  # a seed that met no other attack
    monkeypatch.setattr(translating, "found", lambda: made)
    return made


def test_copies_are_shown_by_domain_and_attack(told: Mapping[str, Any]) -> None:
    first = translating.attacks()[1]

    assert first[:4] == (translating.TITLES[DOMAINS[0]], "8,000", "31.00 ± 1.73", "30.50 ± 0.71")


def test_what_is_added_is_compared_seed_by_seed(told: Mapping[str, Any]) -> None:
    first = translating.gains()[1]

    assert first[2:] == ("wavelet to plain", "+0.50", "1 of 2", "+0.0 %", "1.00 % to 1.00 %")


def test_a_defense_is_told_by_what_clients_and_copies_lose(told: Mapping[str, Any]) -> None:
    row = translating.shields()[2]

    assert row == ("`high_band_dither`", "-0.10", "38.2", "0.991", "-3.00", "-2.00", "-0.50")


def test_marks_are_shown_with_their_largest_p_value(told: Mapping[str, Any]) -> None:
    rows = {row[0]: row[1:] for row in translating.marks()}

    assert rows["served by `high_band_dither`"] == ("1", "1e-12", "1")
    assert rows["networks trained on the truth"] == ("1", "0.3", "1")


def test_networks_that_know_nothing_are_shown_beside_the_victim(told: Mapping[str, Any]) -> None:
    assert translating.alone()[1:] == [("the victim's own half", "3", "30.11", "22.85")]


def test_a_floor_that_is_missed_stands_out(told: Mapping[str, Any]) -> None:
    assert translating.floors()[1:] == [("a", "1", "**missed**"), ("b", "2", "reached")]


def test_the_results_have_the_floors_that_their_records_give() -> None:
    found = translating.found.__wrapped__()

    assert found["floors"] == floors.floors(found)


def test_what_the_page_claims_is_in_the_results() -> None:
    """Marks in every copy and in no other network, and no protection from a thief who adapts."""
    found = translating.found.__wrapped__()
    missed = [one["wanted"] for one in found["floors"] if one["missed"]]
    others = [d for d in found["defenses"] if d["defense"] in ("none", "watermark")]

    assert not any("high_band_dither` is in" in wanted for wanted in missed)
    assert min(line["p_dither"] for line in [*found["independent"], *others]) > 0.01
    assert missed[-1].startswith("some defense takes 1.5 dB")
    assert floors.best_thief(found, "band_limit 1.45")["fashion"][0] < 0.3
