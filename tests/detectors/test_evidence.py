"""The alarm statistic: its false-alarm bound, its delays, its recursion. All runs are seeded."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.evidence import CEILING, Evidence

TOLERATED = 0.08
TEST = Evidence(widths=(1,), alpha=1e-6)


def followed(
    test: Evidence,
    scores: np.ndarray,
    tolerated: float | np.ndarray = TOLERATED,
    *,
    wealth: np.ndarray | None = None,
    seen: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """One client's wealth (F, K) after (B, F) scores, and (B, 1 + D) suspicion of all and of each."""
    before = test.initial() if wealth is None else wealth
    bounds = np.broadcast_to(tolerated, scores.shape[1:])
    after, trail = test.fold(
        before[None], np.array([seen]), [range(len(scores))], scores, np.asarray(bounds)
    )
    return after[0], test.suspicion(trail)


def ever_alarmed(
    test: Evidence,
    scores: Callable[[np.ndarray], np.ndarray],
    *,
    clients: int,
    rows: int,
    tolerated: np.ndarray,
) -> int:
    """How many of so many clients are ever alarmed; ``scores`` (N, F) follow from those before, (N, F)."""
    wealth, last = np.stack([test.initial()] * clients), np.zeros((clients, len(tolerated)))
    alarmed = np.zeros(clients, dtype=bool)
    each = [[client] for client in range(clients)]
    for seen in range(rows):
        last = scores(last)
        wealth, trail = test.fold(wealth, np.full(clients, seen), each, last, tolerated)
        alarmed |= test.suspicion(trail)[:, 0] >= 1
    return int(alarmed.sum())


def flags(generator: np.random.Generator, rate: float, count: int) -> np.ndarray:
    """(count, 1) scores that are 1 at the given rate and 0 otherwise."""
    return (generator.random((count, 1)) < rate).astype(float)


def first_alarm(suspicion: np.ndarray) -> int:
    """Rows until the joint alarm; one more than there are where it does not come."""
    alarm = suspicion[:, 0] >= 1
    return int(alarm.argmax()) + 1 if alarm.any() else len(alarm) + 1


@pytest.fixture(scope="module")
def honest() -> list[np.ndarray]:
    """The wealth of thirty clients after 20,000 honest rows, flagged at 3 %, as the shipped quantile does."""
    generator = np.random.default_rng(7)
    left = []
    for _ in range(30):
        wealth, suspicion = followed(TEST, flags(generator, 0.03, 20_000))
        assert suspicion.max() < 1
        left.append(wealth)
    return left


def test_no_honest_client_is_alarmed_at_the_boundary_of_the_null() -> None:
    """100 clients, 20,000 rows each, a mean score of exactly what is tolerated."""
    generator = np.random.default_rng(1)
    alarmed = ever_alarmed(
        TEST,
        lambda _: flags(generator, TOLERATED, 100),
        clients=100,
        rows=20_000,
        tolerated=np.array([TOLERATED]),
    )

    assert alarmed == 0


CLIENTS, ALPHA = 800, 0.05
WIDTHS = {"one": (1,), "three of one": (3,), "several": (3, 1, 2)}


@pytest.mark.parametrize("tolerated", [0.03, 0.08, 0.3])
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
def test_of_honest_clients_at_the_boundary_a_share_of_alpha_at_most_is_ever_alarmed(
    tolerated: float, widths: tuple[int, ...]
) -> None:
    """By all detectors together; a loose alpha, so that a statistic without the bound fails.

    Half of the columns are the same score twice: nothing is assumed of how they hang together.
    """
    generator = np.random.default_rng(2)
    columns = sum(widths)

    def scores(_: np.ndarray) -> np.ndarray:
        own = (generator.random((CLIENTS, columns)) < tolerated).astype(float)
        own[:, : columns // 2] = own[:, :1]
        return own

    alarmed = ever_alarmed(
        Evidence(widths, ALPHA),
        scores,
        clients=CLIENTS,
        rows=700,
        tolerated=np.full(columns, tolerated),
    )

    assert alarmed / CLIENTS <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / CLIENTS)
    assert alarmed > 0, "a statistic that never speaks would pass too"


def test_the_bound_holds_for_scores_that_depend_on_the_past_and_for_those_that_abstain() -> None:
    """Columns that turn loud after a quiet row, at the same conditional mean, and speak now and then."""
    generator = np.random.default_rng(4)
    tolerated = np.array([0.1, 0.1, 0.3])

    def scores(last: np.ndarray) -> np.ndarray:
        height = np.where(np.nan_to_num(last) > 0, 1.0, 0.5)  # seldom and loud, or often and soft
        own = np.where(generator.random(last.shape) < tolerated / height, height, 0.0)
        speaks = np.nan_to_num(last) == 0.0  # decided by the row before
        speaks[:, 0] = True
        return np.where(speaks, own, np.nan)

    alarmed = ever_alarmed(
        Evidence((1, 2), ALPHA), scores, clients=CLIENTS, rows=700, tolerated=tolerated
    )

    assert 0 < alarmed / CLIENTS <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / CLIENTS)


@pytest.mark.parametrize(
    ("rate", "fresh", "banked"), [(0.87, 12, 25), (0.45, 40, 90), (0.20, 300, 550)]
)
def test_the_alarm_comes_soon_and_banked_trust_buys_little(
    rate: float, fresh: int, banked: int, honest: list[np.ndarray]
) -> None:
    generator = np.random.default_rng(3)
    at_once = [first_alarm(followed(TEST, flags(generator, rate, 3000))[1]) for _ in range(60)]
    later = [
        first_alarm(followed(TEST, flags(generator, rate, 3000), wealth=wealth, seen=20_000)[1])
        for wealth in honest * 2
    ]

    assert np.median(at_once) <= fresh
    assert np.median(later) <= banked


def step_by_step(test: Evidence, scores: np.ndarray, tolerated: np.ndarray) -> np.ndarray:
    """(B,) mean wealth after each row, by the recursion of the design, in one loop for each bet."""
    means = []
    bets = [
        (column, 0.98 / m0 * (1 / 40) ** (1 - k / (test.bets - 1)))
        for column, m0 in enumerate(tolerated)
        for k in range(test.bets)
    ]
    weight = np.repeat([1 / len(test.widths) / w for w in test.widths], test.widths) / test.bets
    wealth = dict.fromkeys(bets, 0.0)
    for t, row in enumerate(scores, start=1):
        for column, bet in bets:
            excess = 0.0 if np.isnan(row[column]) else row[column] - tolerated[column]
            wealth[column, bet] = (wealth[column, bet] + 1 / (t * (t + 1))) * (1 + bet * excess)
        means.append(sum(weight[column] * value for (column, _), value in wealth.items()))
    return np.array(means)


def test_the_fold_is_the_recursion_of_the_design() -> None:
    test, tolerated = Evidence(widths=(2, 1), alpha=1e-6), np.array([0.08, 0.3, 0.2])
    scores = np.random.default_rng(5).random((60, 3)).round(1)
    scores[::7, 2] = np.nan
    _, suspicion = followed(test, scores, tolerated)
    level = np.log(np.maximum(step_by_step(test, scores, tolerated), 1)) / np.log(1e6)

    assert suspicion[:, 0] == pytest.approx(np.minimum(level, 1), abs=1e-9)
    assert 0 < level[4] < 1 < level[-1], "the test has seen both"


@given(st.data())
def test_any_cut_and_any_company_gives_the_same_bits(data: st.DataObject) -> None:
    """Wealth and suspicion of several clients, their rows interleaved and their stream cut anyhow."""
    widths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple))
    count = data.draw(st.integers(2, 60))
    owners = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    cuts = data.draw(st.sets(st.integers(1, count - 1)))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    scores = generator.random((count, sum(widths)))
    scores[generator.random(scores.shape) < 0.2] = np.nan
    tolerated = generator.uniform(0.01, 0.5, (count, sum(widths)))
    test = Evidence(widths, alpha=1e-6)

    wealth: dict[int, np.ndarray] = {}
    seen: dict[int, int] = {}
    parts = []
    for start, stop in itertools.pairwise([0, *sorted(cuts), count]):
        present = list(dict.fromkeys(owners[start:stop]))
        rows_of = [[i for i, o in enumerate(owners[start:stop]) if o == own] for own in present]
        after, trail = test.fold(
            np.stack([wealth.get(own, test.initial()) for own in present]),
            np.array([seen.get(own, 0) for own in present]),
            rows_of,
            scores[start:stop],
            tolerated[start:stop],
        )
        wealth |= dict(zip(present, after, strict=True))
        seen |= {o: seen.get(o, 0) + len(r) for o, r in zip(present, rows_of, strict=True)}
        parts.append(test.suspicion(trail))
    together = np.concatenate(parts)

    for own in wealth:
        rows = [row for row, owner in enumerate(owners) if owner == own]
        left = test.initial()
        for number, row in enumerate(rows):
            one = scores[row : row + 1]
            left, level = followed(test, one, tolerated[row], wealth=left, seen=number)
            assert np.array_equal(level[0], together[row])
        assert np.array_equal(left, wealth[own])


def test_arguments_are_not_written_into() -> None:
    wealth, scores = TEST.initial()[None], np.array([[1.0], [np.nan]])
    arguments = wealth, np.zeros(1), [[0, 1]], scores, np.array([0.1])
    before = [np.copy(argument) for argument in arguments]
    TEST.fold(*arguments)

    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(arguments, before, strict=True))


def test_a_score_that_abstains_moves_no_wealth_but_the_new_money() -> None:
    wealth, _ = followed(TEST, np.array([[1.0], [np.nan]]))
    alone, _ = followed(TEST, np.array([[1.0]]))

    assert wealth == pytest.approx(alone + 1 / 6)


def test_wealth_without_end_is_capped_and_the_alarm_stays_in_sight() -> None:
    wealth, suspicion = followed(TEST, np.ones((5000, 1)))

    assert wealth.max() == CEILING
    assert np.isfinite(wealth).all()
    assert (suspicion[20:, 0] == 1.0).all()


def test_a_very_long_honest_stream_does_not_hide_the_thief_behind_it() -> None:
    generator = np.random.default_rng(6)
    scores = np.concatenate([np.zeros((200_000, 1)), flags(generator, 0.9, 100)])
    wealth, suspicion = followed(TEST, scores)

    assert suspicion[:200_000].max() < 1
    assert suspicion[-1, 0] == 1.0
    assert np.isfinite(wealth).all()


def test_one_loud_score_of_several_is_heard() -> None:
    test = Evidence(widths=(3,), alpha=1e-6)
    loud = np.zeros((60, 3))
    loud[:, 1] = 1.0

    assert first_alarm(followed(test, loud)[1]) <= 12
    assert followed(test, np.zeros((60, 3)))[1].max() == 0.0


def test_a_detector_of_many_scores_has_no_more_say_than_one_of_a_single_score() -> None:
    test = Evidence(widths=(5, 1), alpha=1e-6)
    first, second = np.zeros((2, 6, 6))
    first[:, :5], second[:, 5] = 1.0, 1.0

    assert followed(test, first)[1][:, 0] == pytest.approx(followed(test, second)[1][:, 0])


def test_each_detectors_part_is_told_and_none_exceeds_the_whole() -> None:
    test = Evidence(widths=(2, 1), alpha=1e-6)
    loud = np.zeros((30, 3))
    loud[:, 2] = 1.0
    _, suspicion = followed(test, loud)

    assert suspicion.shape == (30, 3)
    assert (suspicion[:, 1:] <= suspicion[:, :1]).all()
    assert suspicion[-1].tolist() == [1.0, 0.0, 1.0]


def test_a_looser_alpha_alarms_earlier() -> None:
    loud = np.ones((60, 1))
    rows = [first_alarm(followed(Evidence((1,), a), loud)[1]) for a in (0.1, 1e-3, 1e-6, 1e-12)]

    assert rows == sorted(set(rows))


def test_a_higher_bound_is_more_patient() -> None:
    loud = np.full((200, 1), 0.6)
    rows = [first_alarm(followed(TEST, loud, bound)[1]) for bound in (0.05, 0.1, 0.3, 0.5)]

    assert rows == sorted(set(rows))


def test_rows_of_which_nothing_is_said_leave_a_client_worth_one() -> None:
    """What has entered and what is still to enter are all the money that there is."""
    silent = np.full((50, 1), np.nan)
    wealth, _ = TEST.fold(TEST.initial()[None], np.zeros(1), [range(50)], silent, np.array([0.1]))

    assert TEST.worth(wealth[0], 50) == pytest.approx(1.0)
