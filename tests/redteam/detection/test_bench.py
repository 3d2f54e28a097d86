"""The detection bench in small: its records say what they must, and it goes on where it stopped."""

from dataclasses import replace
from pathlib import Path

import pytest

from redteam.detection import bench as detection
from redteam.detection.bench import Bench
from redteam.detection.scenarios import SMALL
from redteam.judging import Record
from redteam.pools import Pools

SIZE = replace(SMALL, stolen=200, seeds_of_jbda=20)


@pytest.fixture(scope="module")
def bench(pools: Pools, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    work = tmp_path_factory.mktemp("work")
    return Bench(pools, work, SIZE, seeds=(0,), victims=("mnist",))


@pytest.fixture(scope="module")
def records(bench: Bench) -> list[Record]:
    return detection.run(bench)["records"]


def of(records: list[Record], **wanted: object) -> list[Record]:
    found = [r for r in records if wanted.items() <= r.items()]

    assert found, wanted
    return found


def test_a_thief_with_foreign_pictures_is_alarmed_soon(records: list[Record]) -> None:
    (record,) = of(records, attack="knockoff notmnist", detector="all")

    assert record["detected"] == record["streams"] == SIZE.thieves
    assert record["rows_to_alarm_p90"] <= 60


def test_honest_clients_are_not(records: list[Record]) -> None:
    (record,) = of(records, attack="none", detector="all", condition="natural")

    assert (record["detected"], record["streams"]) == (0, SIZE.clients)
    assert 0.2 < record["ever_alarm_upper"] < 0.4


def test_the_thief_with_pictures_of_the_victims_own_kind_is_not(records: list[Record]) -> None:
    (record,) = of(records, attack="in-distribution thief", detector="all")

    assert record["detected"] == 0


def test_every_stream_has_a_record_of_every_detector(records: list[Record]) -> None:
    names = {r["detector"] for r in records if r["attack"] == "noise"}
    names = {name for name in names if not name.startswith("prada")}  # on some streams only

    assert {"all", "foreign", "rate"} <= names
    for attack in {r["attack"] for r in records}:
        assert names <= {r["detector"] for r in of(records, attack=attack)}


def test_the_accounts_of_one_thief_are_found_as_one(records: list[Record]) -> None:
    (found,) = of(records, attack="knockoff notmnist, 64 accounts", detector="campaign")

    assert found["detected"] == 1
    assert min(found["precision"], found["recall"]) > 0.9


def test_honest_clients_are_no_campaign(records: list[Record]) -> None:
    (found,) = of(records, attack="none", condition="natural", detector="campaign")

    assert found["detected"] == 0


def test_what_was_measured_is_not_measured_again(bench: Bench, records: list[Record]) -> None:
    kept = sorted((bench.work / "records").rglob("*.json"))
    before = [path.stat().st_mtime_ns for path in kept]
    again = detection.run(bench)["records"]

    assert again == records
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_folder_without_the_data_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(tmp_path), "--work", str(tmp_path), "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(
        "redteam.detection.bench.logs.configure", lambda level: None
    )  # of all tests
    monkeypatch.setattr("sys.argv", ["detection", *given, "--smoke", "--victims", "mnist"])
    with pytest.raises(SystemExit, match="2"):
        detection.main()

    assert "mnist.npz': no such file; name the folder" in capsys.readouterr().err
