"""Tampering with the lines of a log; with its files, in the tests of each form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mantlet.errors import ConfigError
from serving.events.audit import TOLD, Report, check, resume
from serving.events.chain import NEW, Chain
from tests.serving.events.making import SECRET, entries

CHAIN = Chain(SECRET)
RECORDS = CHAIN.records(NEW, entries(*"abcdefgh"))
LINES = [record.line for record in RECORDS]
HEAD = CHAIN.head(RECORDS[-1].tip)
OTHERS = [r.line for r in CHAIN.records(NEW, entries(*"12345678"))]
"""Another log of the same secret: a thief of a backup has such lines."""
places = st.integers(0, len(LINES) - 1)


def checked(lines: list[bytes], head: bytes | None = HEAD) -> Report:
    return check(CHAIN, [("log", lines)], head, unfinished=0, where="log")


def problems(lines: list[bytes], head: bytes | None = HEAD) -> str:
    return "\n".join(checked(lines, head).problems)


def test_what_nobody_touched_is_whole() -> None:
    assert checked(LINES) == Report(8, RECORDS[-1].tip, 0, ())


def test_a_log_may_be_ahead_of_its_head() -> None:
    assert checked(LINES, CHAIN.head(RECORDS[5].tip)).problems == ()


@given(places)
def test_a_removed_record_is_found(place: int) -> None:
    told = problems(LINES[:place] + LINES[place + 1 :])

    assert f"record {place + 1} is missing" in told


@given(places, places)
def test_swapped_records_are_found(one: int, other: int) -> None:
    swapped = list(LINES)
    swapped[one], swapped[other] = swapped[other], swapped[one]

    assert bool(problems(swapped)) == (one != other)


@given(places)
def test_every_truncation_is_found(place: int) -> None:
    told = problems(LINES[:place])

    assert f"ends after line {place}" in told
    assert told.endswith(("record 8 is missing", "to 8 are missing"))


@given(st.integers(0, len(LINES)), places)
def test_an_inserted_record_is_found(where: int, which: int) -> None:
    assert problems([*LINES[:where], LINES[which], *LINES[where:]])
    assert problems([*LINES[:where], OTHERS[which], *LINES[where:]])
    assert problems([*LINES[:where], b"{}", *LINES[where:]])


@given(places)
def test_a_record_of_another_log_is_found(place: int) -> None:
    assert problems([*LINES[:place], OTHERS[place], *LINES[place + 1 :]])


def test_a_whole_log_of_another_time_is_not_that_of_the_head() -> None:
    assert "record 8 is not the one that the head names" in problems(OTHERS)


def test_a_problem_names_file_line_and_what_is_wrong() -> None:
    edited = LINES[3].replace(b'"d"', b'"x"')

    assert checked([*LINES[:3], edited, *LINES[4:]]).problems == (
        "log: line 4: was edited, or sealed with another secret",
    )
    assert checked(LINES[:2] + LINES[5:]).problems == (
        "log: line 3: before record 6, records 3 to 5 are missing",
    )
    assert checked([*LINES[:2], LINES[0], *LINES[2:]]).problems == (
        "log: line 3: record 1 stands where 3 should: moved or inserted",
    )


def test_a_head_that_is_gone_or_edited_is_found() -> None:
    assert "its head is gone" in problems(LINES, None)
    assert "its head was edited" in problems(LINES, HEAD.replace(b"8", b"7", 1))


def test_problems_beyond_the_first_are_counted() -> None:
    told = [("log", LINES * 3)]
    many = check(Chain(b"wrong"), told, HEAD, unfinished=0, where="log").problems

    assert len(many) == TOLD + 1
    assert many[-1] == f"log: and {len(LINES) * 3 + 1 - TOLD} more such problems"


def test_a_chain_goes_on_from_file_to_file_in_their_order_alone() -> None:
    one, two = ("one", LINES[:3]), ("two", LINES[3:])
    whole = check(CHAIN, [one, two], HEAD, unfinished=0, where="log")
    turned = check(CHAIN, [two, one], HEAD, unfinished=0, where="log")
    lacking = check(CHAIN, [two], HEAD, unfinished=0, where="log")

    assert whole == Report(8, RECORDS[-1].tip, 0, ())
    assert turned.problems[0] == "two: line 1: before record 4, records 1 to 3 are missing"
    assert "one: line 1: record 1 stands where 9 should" in turned.problems[1]
    assert lacking.problems == ("two: line 1: before record 4, records 1 to 3 are missing",)


@given(st.integers(1, 8), st.integers(0, 7))
def test_records_before_the_first_one_that_counts_may_be_missing_or_not(
    first: int, kept: int
) -> None:
    report = check(CHAIN, [("log", LINES[kept:])], HEAD, unfinished=0, where="log", first=first)

    assert (report.problems == ()) == (kept < first)
    assert report.tip == RECORDS[-1].tip


def test_a_log_that_ends_before_the_first_record_that_counts_is_told() -> None:
    report = check(CHAIN, [("log", LINES)], HEAD, unfinished=0, where="log", first=12)

    assert report.problems == ("log: ends with record 8, and 12 was to be the first",)


# --- where a log goes on ---


def test_a_new_log_begins_at_the_beginning() -> None:
    assert resume(CHAIN, None, None, torn=0, where="log") == (NEW, None)


def test_a_log_goes_on_after_its_last_record() -> None:
    for known in (7, 5, 0):
        head = CHAIN.head(RECORDS[known].tip)
        assert resume(CHAIN, LINES[-1], head, torn=0, where="log") == (RECORDS[-1].tip, None)


@pytest.mark.parametrize("last", [None, LINES[4], OTHERS[7], b"{}"])
def test_a_log_that_is_behind_goes_on_from_its_head(last: bytes | None) -> None:
    tip, repaired = resume(CHAIN, last, HEAD, torn=0, where="log")

    assert tip == RECORDS[-1].tip
    assert repaired is not None
    assert repaired.problem == "behind_head"


def test_what_a_truncation_took_stays_missing_after_the_log_goes_on() -> None:
    tip, repaired = resume(CHAIN, LINES[4], HEAD, torn=0, where="log")
    assert repaired is not None
    after = CHAIN.records(tip, [(0.0, repaired)])
    told = problems(LINES[:5] + [r.line for r in after], CHAIN.head(after[-1].tip))

    assert told == "log: line 6: before record 9, records 6 to 8 are missing"


def test_a_lost_head_is_told_for_ever() -> None:
    tip, repaired = resume(CHAIN, LINES[4], None, torn=0, where="log")
    assert repaired is not None
    after = CHAIN.records(tip, [(0.0, repaired)])
    told = problems(LINES[:5] + [r.line for r in after], CHAIN.head(after[-1].tip))

    assert told == ("log: line 6: the head was lost before this record, so records may be missing")


def test_a_log_of_another_secret_is_not_continued() -> None:
    with pytest.raises(ConfigError, match=r"'log': neither .* restore the secret, or move both"):
        resume(Chain(b"another"), LINES[-1], HEAD, torn=0, where="log")
