"""The bench of generators in small: every case gives a record, and a run that stopped goes on."""

from pathlib import Path

import orjson
import pytest

from redteam.gan.bench import run
from redteam.gan.cases import SMALL, Case, cases
from redteam.gan.house import Bench
from redteam.pools import Pools

DATA = Path(__file__).parents[2] / "data"
FAMILY = "mnist-test"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(Pools(DATA), tmp_path_factory.mktemp("work"), SMALL)


def test_every_thief_of_a_seed_gives_a_record_with_all_measures(
    bench: Bench, tmp_path: Path
) -> None:
    wanted = list(cases([FAMILY], [0], SMALL))
    run(bench, wanted, tmp_path / "gan.json")
    found = orjson.loads((tmp_path / "gan.json").read_bytes())
    clones = [r for r in found["records"] if r["model"] == "clone"]

    assert [Case(FAMILY, 0, r["defense"], r["thief"], r["budget"]) for r in clones] == wanted
    assert {r["model"] for r in found["records"]} == {
        "clone",
        "victim",
        "real pictures",
        "the API, marked",
    }
    for record in clones:
        assert record["fid_clone_victim"] >= 0
        assert 0 <= record["coverage"] <= 1
        assert record["fid_served_victim"] >= 0
        assert 0 <= record["coverage_served"] <= 1
        assert list(record["p"]) == ["32", "64"]
    assert {"bare_ms", "ratio"} <= found["cost"].keys()
    assert found["settings"]["clone"]["steps"] == SMALL.clone.steps
    assert list((bench.work / "sheets").glob("*.npz"))


def test_rows_are_counted_as_they_were_sent(bench: Bench, tmp_path: Path) -> None:
    wanted = [
        Case(FAMILY, 0, "none", "leaked discriminator", 64),
        Case(FAMILY, 0, "watermark", "10 accounts, mean", 64),
    ]
    run(bench, wanted, tmp_path / "gan.json")
    records = orjson.loads((tmp_path / "gan.json").read_bytes())["records"]
    rows = {r["thief"]: (r["rows"], r["pictures"]) for r in records if r["model"] == "clone"}

    assert rows == {"leaked discriminator": (320, 64), "10 accounts, mean": (640, 64)}


def test_what_is_known_is_not_run_again(bench: Bench, tmp_path: Path) -> None:
    out, wanted = tmp_path / "gan.json", [Case(FAMILY, 0, "none", "plain", 64)]
    run(bench, wanted, out)
    first = out.read_bytes()
    run(bench, wanted, out)

    assert out.read_bytes() == first
