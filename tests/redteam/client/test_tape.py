"""A tape answers what was asked before, without a row being sent, and survives a crash at any byte."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mantlet.errors import ConfigError, TargetError
from redteam.client.oracle import Cut, Refused, Withheld
from redteam.client.tape import Tape
from tests.helpers import rows
from tests.redteam.explainers import Shower
from tests.redteam.oracles import Failing, Patient, labels, shares

HEADER: dict[str, Any] = {"attack": {"type": "knockoff"}, "budget": 100, "seed": 0}


def ask(path: Path, oracle: Patient, count: int, header: dict[str, Any] = HEADER) -> Tape:
    """Three rows a query, always the same ones."""
    with Tape(oracle, path, header) as tape:
        for number in range(count):
            inputs = rows(3, seed=number)

            assert torch.equal(tape.query(inputs), shares(inputs))
    return tape


def test_a_resumed_run_sends_nothing_twice_and_counts_everything(tmp_path: Path) -> None:
    path, second = tmp_path / "tape", Patient()
    first = ask(path, Patient(), 4)
    resumed = ask(path, second, 6)

    assert (first.rows, first.floats, first.taped) == (12, 24, 0)
    assert (resumed.rows, resumed.floats, resumed.taped) == (18, 36, 12)
    assert second.rows == 6


def test_labels_come_back_as_they_were(tmp_path: Path) -> None:
    for oracle in (Patient(answer=labels), Patient()):
        with Tape(oracle, tmp_path / "tape", HEADER) as tape:
            answers = tape.query(rows(5))

        assert torch.equal(answers, labels(rows(5)))


@pytest.mark.parametrize("cut", range(1, 400, 13))
def test_a_record_that_a_crash_tore_is_set_aside_and_asked_again(tmp_path: Path, cut: int) -> None:
    path, second = tmp_path / "tape", Patient()
    ask(path, Patient(), 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    ask(path, second, 3)

    assert second.rows in (3, 6)
    assert path.read_bytes() == whole
    torn = path.with_name("tape.torn")
    assert not torn.exists() or whole[:-cut].endswith(torn.read_bytes())


@pytest.mark.parametrize("length", [0, 5, 20])
def test_a_tape_that_had_only_begun_begins_anew(tmp_path: Path, length: int) -> None:
    path = tmp_path / "tape"
    ask(path, Patient(), 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    ask(path, Patient(), 1)

    assert path.read_bytes() == whole


def test_rows_without_an_answer_count_after_a_restart_too(tmp_path: Path) -> None:
    """A ban may have ended by then: the refused query is asked again."""
    path, second = tmp_path / "tape", Patient()
    with Tape(Patient(most=5), path, HEADER) as tape:
        tape.query(rows(3, seed=0))
        with pytest.raises(Refused):
            tape.query(rows(3, seed=1))
        assert tape.rows == 6
    resumed = ask(path, second, 2)

    assert (resumed.rows, resumed.taped, second.rows) == (9, 3, 3)


def test_a_tape_of_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    ask(tmp_path / "tape", Patient(), 1)
    before = (tmp_path / "tape").read_bytes()
    with pytest.raises(ConfigError, match="holds another run: seed was 0 and is 1; run it with"):
        ask(tmp_path / "tape", Patient(), 1, HEADER | {"seed": 1})
    with pytest.raises(ConfigError, match=r"attack was .*'knockoff'.* and is .*'dfme'"):
        ask(tmp_path / "tape", Patient(), 1, HEADER | {"attack": {"type": "dfme"}})

    assert (tmp_path / "tape").read_bytes() == before


def test_a_query_that_is_not_the_taped_one_is_no_answer(tmp_path: Path) -> None:
    ask(tmp_path / "tape", Patient(), 2)
    with (
        Tape(Patient(), tmp_path / "tape", HEADER) as tape,
        pytest.raises(ConfigError, match="query 1 is not the one that was asked before"),
    ):
        tape.query(rows(3, seed=5))


def test_another_file_is_no_tape_and_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tape").write_bytes(b"dear diary")
    with pytest.raises(ConfigError, match="is no tape of an attack"):
        Tape(Patient(), tmp_path / "tape", HEADER)

    assert (tmp_path / "tape").read_bytes() == b"dear diary"


def test_explanations_and_their_refusals_are_on_the_tape_too(tmp_path: Path) -> None:
    pictures, of = rows(3, shape=(1, 28, 28)), torch.tensor([1, 2, 3])
    second, counts = Shower(), []
    for oracle in (Shower(top_only=True), second):
        with Tape(oracle, tmp_path / "tape", HEADER) as tape:
            with pytest.raises(Withheld, match="not this one"):
                tape.explain(pictures, of)
            told = tape.explain(pictures)
            counts.append((tape.rows, tape.floats))

        assert torch.equal(told.maps, Shower().explain(pictures).maps)
    assert counts == [(3, 3 * 794)] * 2
    assert second.rows == 0


def test_an_explained_row_is_not_taken_for_one_that_was_asked(tmp_path: Path) -> None:
    pictures = rows(3, shape=(1, 28, 28))
    with Tape(Shower(), tmp_path / "tape", HEADER) as tape:
        tape.query(pictures)
    with (
        Tape(Shower(), tmp_path / "tape", HEADER) as tape,
        pytest.raises(ConfigError, match="query 1 is not the one"),
    ):
        tape.explain(pictures)


@pytest.mark.parametrize("why", [Refused("no"), TargetError("down"), KeyboardInterrupt()])
def test_what_came_of_a_query_that_failed_is_not_asked_again(
    tmp_path: Path, why: BaseException
) -> None:
    path, inputs = tmp_path / "tape", rows(6)
    for places in (torch.tensor([4, 1]), torch.tensor([0])):
        with Tape(Failing(why, places), path, HEADER) as tape, pytest.raises((Refused, Cut)) as end:
            tape.query(inputs)
    rest = Patient()
    with Tape(rest, path, HEADER) as tape:
        answers = tape.query(inputs)
    with Tape(Patient(most=0), path, HEADER) as again:
        replayed = again.query(inputs)

    assert end.value.came is not None
    assert end.value.came.places.tolist() == [0, 1, 4], "of this time and of the one before"
    assert tape.taped == 3
    assert torch.equal(torch.cat(rest.asked), inputs[[2, 3, 5]])
    assert torch.equal(answers, shares(inputs))
    assert torch.equal(replayed, answers)
    assert again.rows == 6 + 4 + 3
