"""The alarm statistic: its false-alarm bound, its delays, its closed form. All runs are seeded."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.evidence import Evidence
from mantlet.types import State

TOLERATED = 0.08
TEST = Evidence(tolerated=(TOLERATED,), alpha=1e-6)


def flags(generator: np.random.Generator, rate: float, count: int) -> np.ndarray:
    """(count, 1) scores that are 1 at the given rate and 0 otherwise."""
    return (generator.random((count, 1)) < rate).astype(float)


def delay(generator: np.random.Generator, rate: float, state: State) -> int:
    """Rows until the alarm of a thief who is flagged at ``rate``; 3,001 where it does not come."""
    _, _, alarm = TEST.update(state, flags(generator, rate, 3000))
    return int(alarm.argmax()) + 1 if alarm.any() else 3001


@pytest.fixture(scope="module")
def honest_states() -> list[State]:
    """Thirty clients after 20,000 honest rows, flagged at 3 %, as the shipped quantile does."""
    generator = np.random.default_rng(7)
    states = []
    for _ in range(30):
        state, _, alarm = TEST.update(TEST.initial(), flags(generator, 0.03, 20_000))
        assert not alarm.any()
        states.append(state)
    return states


def test_no_honest_client_is_alarmed_at_the_boundary_of_the_null() -> None:
    """100 clients, 20,000 rows each, a mean score of exactly what is tolerated."""
    generator = np.random.default_rng(1)
    alarmed = 0
    for _ in range(100):
        _, _, alarm = TEST.update(TEST.initial(), flags(generator, TOLERATED, 20_000))
        alarmed += bool(alarm[-1])

    assert alarmed == 0


@pytest.mark.parametrize("tolerated", [0.03, 0.08, 0.3])
def test_the_share_of_honest_clients_ever_alarmed_stays_under_alpha(tolerated: float) -> None:
    """A loose alpha, so that a statistic without the bound fails: three standard errors allowed."""
    clients, alpha = 600, 0.05
    test = Evidence(tolerated=(tolerated,), alpha=alpha)
    generator = np.random.default_rng(2)
    alarmed = 0
    for _ in range(clients):
        _, _, alarm = test.update(test.initial(), flags(generator, tolerated, 1500))
        alarmed += bool(alarm[-1])
    share = alarmed / clients

    assert share <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / clients)
    assert share > 0.0, "a statistic that never speaks would pass too"


@pytest.mark.parametrize(
    ("rate", "fresh", "banked"), [(0.87, 12, 25), (0.45, 40, 90), (0.20, 300, 550)]
)
def test_the_alarm_comes_soon_and_banked_trust_buys_little(
    rate: float, fresh: int, banked: int, honest_states: list[State]
) -> None:
    generator = np.random.default_rng(3)
    at_once = [delay(generator, rate, TEST.initial()) for _ in range(60)]
    after_honest = [delay(generator, rate, state) for state in honest_states * 2]

    assert np.median(at_once) <= fresh
    assert np.median(after_honest) <= banked


def test_the_bound_holds_for_any_order_of_scores_with_that_mean() -> None:
    """Dependent scores: runs of flags whose conditional mean never exceeds what is tolerated."""
    test = Evidence(tolerated=(0.5,), alpha=0.05)
    generator = np.random.default_rng(4)
    alarmed = 0
    for _ in range(400):
        level = np.abs(np.sin(np.arange(600) / 20 + generator.random() * 6))  # 0..1
        scores = (generator.random(600) < 0.5 * level).astype(float)[:, None]
        alarmed += bool(test.update(test.initial(), scores)[2][-1])

    assert alarmed / 400 <= 0.05


def wealth_step_by_step(test: Evidence, scores: np.ndarray) -> np.ndarray:
    """log mean wealth after each row, by the recursion of the design: no logs, no cumulative sums."""
    bets = 0.98 / np.asarray(test.tolerated)[:, None] * np.geomspace(1 / 40, 1, test.bets)
    wealth = np.zeros_like(bets)
    means = []
    for t, row in enumerate(scores, start=1):
        excess = (row - np.asarray(test.tolerated))[:, None]
        wealth = (wealth + 1 / (t * (t + 1))) * (1 + bets * excess)
        means.append(wealth.mean())
    return np.log(means)


def test_the_closed_form_is_the_recursion_of_the_design() -> None:
    test = Evidence(tolerated=(0.08, 0.3), alpha=1e-6)
    scores = np.random.default_rng(5).random((60, 2)).round()
    _, suspicion, alarm = test.update(test.initial(), scores)
    level = wealth_step_by_step(test, scores) / np.log(1e6)
    first = int((level >= 1).argmax()) if (level >= 1).any() else len(level)

    assert alarm.tolist() == [row >= first for row in range(60)]
    assert suspicion[:first] == pytest.approx(np.clip(level[:first], 0, 1), abs=1e-9)


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=60),
    st.lists(st.integers(1, 59), max_size=10),
    st.integers(0, 2**31),
)
def test_one_update_of_many_rows_is_many_updates_of_one(
    drawn: list[float], cuts: list[int], seed: int
) -> None:
    test = Evidence(tolerated=(0.08, 0.2), alpha=1e-6)
    other = np.random.default_rng(seed).random(len(drawn))
    scores = np.stack([np.array(drawn), other], axis=1)
    after, suspicion, alarm = test.update(test.initial(), scores)
    bounds = sorted({0, len(scores), *(cut for cut in cuts if cut < len(scores))})
    for pieces in (list(itertools.pairwise(bounds)), [(i, i + 1) for i in range(len(scores))]):
        state, parts = test.initial(), []
        for start, stop in pieces:
            state, part, alarms = test.update(state, scores[start:stop])
            parts.append((part, alarms))

        assert np.concatenate([p for p, _ in parts]) == pytest.approx(suspicion, abs=1e-9)
        assert np.array_equal(np.concatenate([a for _, a in parts]), alarm)
        assert all(np.allclose(state[k], after[k], rtol=0, atol=1e-9) for k in after)


def test_a_very_long_batch_neither_overflows_nor_loses_the_thief_behind_it() -> None:
    generator = np.random.default_rng(6)
    scores = np.concatenate([np.zeros((200_000, 1)), flags(generator, 0.9, 100)])
    after, suspicion, alarm = TEST.update(TEST.initial(), scores)

    assert not alarm[:200_000].any()
    assert alarm[-1]
    assert suspicion[-1] == 1.0
    assert np.isfinite(after["log_wealth"]).all()


def test_evidence_is_averaged_so_that_one_loud_measure_of_several_is_heard() -> None:
    test = Evidence(tolerated=(0.08, 0.08, 0.08), alpha=1e-6)
    loud = np.zeros((60, 3))
    loud[:, 1] = 1.0
    _, _, alarm = test.update(test.initial(), loud)
    _, _, silent = test.update(test.initial(), np.zeros((60, 3)))

    assert 1 <= int(alarm.argmax()) + 1 <= 12
    assert not silent.any()


def test_a_looser_alpha_alarms_earlier() -> None:
    loud = np.ones((60, 1))
    rows = [
        int(Evidence(tolerated=(0.08,), alpha=alpha).update(TEST.initial(), loud)[2].argmax())
        for alpha in (0.1, 1e-3, 1e-6, 1e-12)
    ]

    assert rows == sorted(set(rows))


def test_a_state_of_other_settings_keeps_its_alarm_and_its_count_and_starts_anew() -> None:
    """An operator who adds or drops a measure must neither lose alarms nor close the gateway."""
    three, two = (Evidence(tolerated=(0.08,) * n, alpha=1e-6) for n in (3, 2))
    alarmed, _, alarm = three.update(three.initial(), np.ones((30, 3)))
    quiet, _, _ = three.update(three.initial(), np.zeros((30, 3)))
    assert alarm[-1]

    after, suspicion, still = two.update(alarmed, np.zeros((1, 2)))
    honest, little, none = two.update(quiet, np.zeros((1, 2)))

    assert still.all()
    assert suspicion[-1] == 1.0
    assert after["log_wealth"].shape == (2, 16)
    assert int(honest["seen"][0]) == 31
    assert not none.any()
    assert little[-1] < 1.0
