"""Tables of the bench of translators say what its records say."""

from collections.abc import Mapping
from typing import Any

import pytest

from docs import translating
from redteam.i2i import DOMAINS, SHIELDS, VARIANTS


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
        "independent": [{"p_dither": 0.3, "p_watermark": 1.0}],
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


def test_what_the_page_claims_is_in_the_results() -> None:
    """Marks in every copy and in no other network, and a defense that costs copies more than clients."""
    found = translating.found.__wrapped__()
    marked = [d for d in found["defenses"] if d["defense"] == "high_band_dither"]
    others = [d for d in found["defenses"] if d["defense"] in ("none", "watermark")]
    served = {line["defense"]: line for line in found["served"]}
    before = {a["seed"]: a["clone_victim"] for a in found["attacks"] if _undefended(a)}
    losses = [
        before[d["seed"]] - d["clone_victim"]
        for d in found["defenses"]
        if (d["defense"], d["domain"]) == ("band_limit 1.45", "fashion")
    ]

    assert len(marked) == 6
    assert max(line["p_dither"] for line in marked) <= 1e-6
    assert min(line["p_dither"] for line in [*found["independent"], *others]) > 0.01
    assert served["high_band_dither"]["victim_least"] >= 38
    assert served["band_limit 1.45"]["truth"] > found["victim"]["truth"] - 0.3
    assert min(losses) >= 1.5


def _undefended(attack: Mapping[str, Any]) -> bool:
    wanted = {"domain": "fashion", "budget": 8000, "variant": "wavelet"}
    return wanted.items() <= attack.items()
