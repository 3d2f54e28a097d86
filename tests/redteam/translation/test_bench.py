"""The bench of translators, at the size of a toy."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from defenses.band_limit import BandLimit
from defenses.high_band_dither import HighBandDither
from redteam.client.oracle import Oracle
from redteam.pools import Pools
from redteam.translation import bench as i2i
from redteam.translation.bench import Bench, Clean, Shield


@pytest.fixture(scope="module")
def bench(pools: Pools, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    said: list[str] = []
    return Bench(
        pools,
        tmp_path_factory.mktemp("i2i"),
        seeds=(0,),
        budgets=(100, 200),
        steps=4,
        victim_steps=30,
        tested=60,
        say=said.append,
    )


@pytest.fixture(scope="module")
def found(bench: Bench) -> dict[str, Any]:
    return i2i.measure(bench)


def test_every_attack_and_every_shield_has_its_cell(found: dict[str, Any]) -> None:
    attacks = {(a["domain"], a["budget"], a["variant"]) for a in found["attacks"]}
    defended = {(d["defense"], d["domain"]) for d in found["defenses"]}

    assert len(attacks) == len(found["attacks"]) == 2 * (1 + len(i2i.VARIANTS))
    assert len(defended) == len(found["defenses"]) == 2 * len(i2i.SHIELDS)
    assert [s["defense"] for s in found["served"]] == list(i2i.SHIELDS)
    assert len(found["independent"]) == 4


def test_clients_get_clean_pictures_where_only_the_suspected_are_defended(
    found: dict[str, Any],
) -> None:
    served = {line["defense"]: line for line in found["served"]}

    assert served["band_limit 2.5, suspected"]["victim"] > 55  # 8 bits
    assert served["blur 0.8"]["victim"] < 45


def test_the_dither_is_in_what_is_served_and_in_nothing_that_is_independent(
    found: dict[str, Any],
) -> None:
    served = {line["defense"]: line for line in found["served"]}

    assert served["high_band_dither"]["p_dither"] <= 1e-6
    assert served["high_band_dither"]["victim_least"] >= 38
    assert all(line["p_dither"] > 0.01 for line in found["independent"])


def test_a_run_goes_on_where_it_stopped(bench: Bench, found: dict[str, Any]) -> None:
    lines = len(bench.say.__self__)  # type: ignore[attr-defined]  # the list above
    again = i2i.measure(bench)

    assert again == found
    assert len(bench.say.__self__) == lines  # type: ignore[attr-defined]  # as above


def test_who_stops_when_suspected_has_the_copy_of_the_pictures_that_came_before(
    found: dict[str, Any],
) -> None:
    early = {a["domain"]: a["clone_victim"] for a in found["attacks"] if a["budget"] == 100}
    stopped = {
        d["domain"]: d["clone_victim"]
        for d in found["defenses"]
        if d["defense"] == "band_limit 2.5, suspected, stops then"
    }

    assert stopped == early


def test_who_knows_the_filter_undoes_it() -> None:
    pictures = 0.3 + 0.4 * torch.rand(2, 1, 20, 20)
    known = BandLimit(details=1.3)
    served = i2i.serving(Shield([known]))(pictures)
    undone = i2i._undone(served, known)

    assert (undone - pictures).abs().max() < 0.1 * (served - pictures).abs().max() + 1 / 255


def test_who_has_the_truth_of_its_pictures_measures_the_dither_and_takes_it_off() -> None:
    generator = torch.Generator().manual_seed(0)
    rough = torch.rand(200, 1, 9, 9, generator=generator)
    clean = torch.nn.functional.interpolate(rough, size=(28, 28), mode="bilinear")
    alone = clean + 0.02 * torch.randn(clean.shape, generator=generator)
    served = i2i.serving(Shield([HighBandDither()]))(clean)
    taken = i2i._taken_off(served, alone)

    assert (taken - clean).square().mean() < 0.1 * (served - clean).square().mean()


def test_the_oracle_counts_what_it_is_asked(bench: Bench) -> None:
    given, answers = bench.pairs("cifar").given[:50], bench.answers("cifar")[:50]
    oracle: Oracle = Clean(given, answers, lambda pictures: pictures)

    assert torch.equal(oracle.query(given[3:9]), answers[3:9])
    assert (oracle.rows, oracle.floats) == (6, 6 * 28 * 28)


def test_the_picture_has_a_row_for_what_is_served_and_one_for_its_copy(bench: Bench) -> None:
    drawn = i2i.picture(bench, count=3)

    assert isinstance(drawn, Image.Image)
    assert drawn.size == (2 * (3 * 30 - 2), 2 * (8 * 30 - 2))


def test_the_command_writes_what_it_found(
    tmp_path: Path, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sys.argv",
        [
            "i2i",
            "--data",
            str(tmp_path),
            "--work",
            str(tmp_path / "w"),
            "--out",
            str(tmp_path / "o.json"),
        ],
    )
    with pytest.raises(SystemExit) as refused:
        i2i.main()

    assert refused.value.code == 2
