"""From what is known of a client to how it is treated: each condition, what is held, shadow, overrides."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mantlet.types import Query, Signal
from serving.folding import CAMPAIGN, POLICY, Folded, Memory
from serving.policy import (
    ALLOWED,
    Decision,
    Level,
    Policy,
    check_levels,
    end_of_refusal,
    override,
)
from serving.signals import Signals

LEVELS = (
    Level(name="normal"),
    Level(name="suspected", suspicion=0.5),
    Level(name="pressed", suspicion=0.7),
    Level(name="alarmed", alarm=True),
)


def signal(suspicion: Sequence[float], alarm: bool = False) -> Signal:
    return Signal(torch.tensor(suspicion), torch.tensor([alarm] * len(suspicion)), "d")


def decide(
    policy: Policy | Sequence[Level],
    signals: Mapping[str, Signal],
    memories: Mapping[str, Memory] | None = None,
    *,
    clients: Sequence[str] | str = "ann",
    rows: Sequence[int] | None = None,
    at: float = 0.0,
    tiers: Sequence[str] = (),
    enforcing: Sequence[str] | None = None,
) -> Decision:
    """What a policy decides of rows with these signals; all signals but the campaign's enforce."""
    policy = policy if isinstance(policy, Policy) else Policy(policy)
    count = len(next(iter(signals.values())).suspicion) if signals else len(clients)
    names = [clients] * count if isinstance(clients, str) else list(clients)
    rows_of = {name: [row for row in range(count) if names[row] == name] for name in names}
    kept = {name: dict((memories or {}).get(name, {})) for name in rows_of}
    seen = np.arange(1, count + 1) if rows is None else np.array(rows)
    enforcing = [n for n in signals if n != CAMPAIGN] if enforcing is None else enforcing
    query = Query(names, torch.zeros(count, 1), at, tiers)
    said = Signals.told({n: (s.suspicion.tolist(), s.alarm.tolist()) for n, s in signals.items()})
    return policy.decide(query, Folded(rows_of, seen, said, kept), enforcing)


def names(levels: Sequence[Level], decision: Decision) -> list[str]:
    return [levels[index].name for index in decision.levels]


def chosen(signals: dict[str, Signal], levels: Sequence[Level] = LEVELS, **asked: Any) -> list[str]:
    return names(levels, decide(levels, signals, **asked))


def test_a_level_holds_from_its_suspicion_on() -> None:
    just_below = torch.nextafter(torch.tensor(0.7), torch.tensor(0.0)).item()
    reached = chosen({"d": signal([0.0, 0.49, 0.5, just_below, 0.7, 1.0])}, clients="abcdef")

    assert reached == ["normal", "normal", "suspected", "suspected", "pressed", "pressed"]


def test_a_row_alone_is_at_the_level_that_it_is_at_among_others() -> None:
    """0.7 in single precision is a little less than in double."""
    assert chosen({"d": signal([0.7])}) == chosen({"d": signal([0.7, 1.0])})[:1] == ["pressed"]


def test_the_most_suspicious_detector_decides_row_by_row() -> None:
    signals = {"a": signal([0.1, 0.9]), "b": signal([0.6, 0.2])}

    assert chosen(signals) == ["suspected", "pressed"]


def test_one_detector_in_alarm_is_enough() -> None:
    signals = {"a": signal([1.0], alarm=True), "b": signal([0.0])}

    assert chosen(signals) == ["alarmed"]


def test_a_suspicion_of_one_without_an_alarm_is_no_alarm() -> None:
    assert chosen({"a": signal([1.0])}) == ["pressed"]


def test_without_detectors_everybody_is_at_the_first_level() -> None:
    assert chosen({}, clients=["ann", "bob", "ann"]) == ["normal"] * 3


def test_a_single_level_holds_for_all() -> None:
    assert chosen({"a": signal([1.0, 0.0], alarm=True)}, [Level(name="all")]) == ["all", "all"]


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=9))
def test_more_suspicion_never_means_a_milder_level(drawn: list[float]) -> None:
    rising = sorted(drawn)
    levels = decide(LEVELS, {"d": signal(rising)}).levels.tolist()

    assert levels == sorted(levels)


CALM, LOUD = {"d": signal([0.1])}, {"d": signal([1.0], alarm=True)}
REACHED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "suspicion": ({"suspicion": 0.5}, {"signals": {"d": signal([0.5])}}, {"signals": CALM}),
    "alarm": ({"alarm": True}, {"signals": LOUD}, {"signals": {"d": signal([1.0])}}),
    "campaign": (
        {"campaign": True},
        {"signals": CALM | {CAMPAIGN: signal([1.0], alarm=True)}},
        {"signals": CALM | {CAMPAIGN: signal([0.0])}},
    ),
    "no campaign": (
        {"campaign": True},
        {"signals": CALM | {CAMPAIGN: signal([1.0], alarm=True)}},
        {"signals": LOUD},
    ),
    "rows": ({"rows": 100}, {"signals": CALM, "rows": [100]}, {"signals": CALM, "rows": [99]}),
    "signals": (
        {"signals": {"d": 0.3}},
        {"signals": {"d": signal([0.3])}, "enforcing": []},
        {"signals": {"d": signal([0.29]), "e": signal([1.0], alarm=True)}},
    ),
    "tiers": (
        {"tiers": ("free", "trial")},
        {"signals": CALM, "tiers": ["trial"]},
        {"signals": LOUD, "tiers": ["paid"]},
    ),
    "a tier and suspicion": (
        {"tiers": ("free",), "suspicion": 0.5},
        {"signals": LOUD, "tiers": ["free"]},
        {"signals": CALM, "tiers": ["free"]},
    ),
    "suspicion of a tier": (
        {"tiers": ("free",), "suspicion": 0.5},
        {"signals": LOUD, "tiers": ["free"]},
        {"signals": LOUD, "tiers": ["paid"]},
    ),
    "no tier is the default": (
        {"tiers": ("default",)},
        {"signals": CALM},
        {"signals": CALM, "tiers": ["paid"]},
    ),
}


@pytest.mark.parametrize("condition", REACHED)
def test_a_level_holds_when_its_condition_does_and_only_then(condition: str) -> None:
    settings, holding, failing = REACHED[condition]
    levels = (Level(name="normal"), Level(name="reached", **settings))

    assert chosen(levels=levels, **holding) == ["reached"]
    assert chosen(levels=levels, **failing) == ["normal"]


@pytest.mark.parametrize(
    "asked",
    [
        {"signals": {"d": signal([0.8]), "e": signal([0.0])}},
        {"signals": {"d": signal([0.1], alarm=True), "e": signal([0.0])}},
        {"signals": {"d": signal([0.1]), "e": signal([0.0])}, "rows": [1000]},
        {"signals": {"d": signal([0.1]), "e": signal([0.4])}},
        {"signals": {"d": signal([0.1]), "e": signal([0.0]), CAMPAIGN: signal([1.0], alarm=True)}},
    ],
    ids=["suspicion", "alarm", "rows", "signals", "campaign"],
)
def test_of_several_conditions_one_is_enough(asked: dict[str, Any]) -> None:
    any_of = Level(
        name="any", suspicion=0.8, alarm=True, campaign=True, rows=1000, signals={"e": 0.4}
    )
    quiet = {"d": signal([0.1]), "e": signal([0.0])}

    assert chosen(levels=(LEVELS[0], any_of), **asked) == ["any"]
    assert chosen(quiet, (LEVELS[0], any_of), rows=[999]) == ["normal"]


def test_the_last_level_that_holds_counts() -> None:
    levels = (
        Level(name="normal"),
        Level(name="alarmed", alarm=True),
        Level(name="much", rows=50),
    )

    assert chosen(LOUD, levels, rows=[60]) == ["much"]
    assert chosen(LOUD, levels, rows=[40]) == ["alarmed"]
    assert chosen(CALM, levels, rows=[40]) == ["normal"]


def test_what_holds_for_a_tier_is_known_before_it_asks() -> None:
    levels = (
        Level(name="normal"),
        Level(name="free", tiers=("free", "trial")),
        Level(name="trial", tiers=("trial",)),
        Level(name="strict", suspicion=0.5, tiers=("free",)),
    )
    tiers = ("free", "trial", "paid", ALLOWED)

    assert [levels[Policy(levels).always(tier)].name for tier in tiers] == [
        "free",
        "trial",
        "normal",
        "normal",
    ]
    for tier in tiers:  # as of a row that nothing speaks against
        decision = decide(levels, CALM, tiers=[tier])
        assert decision.levels.tolist() == [Policy(levels).always(tier)]


def test_rows_of_several_tiers_are_told_apart_in_one_batch() -> None:
    levels = (Level(name="normal"), Level(name="strict", suspicion=0.1, tiers=("free",)))
    reached = chosen(
        {"d": signal([0.5, 0.5])}, levels, clients=["ann", "bob"], tiers=["paid", "free"]
    )

    assert reached == ["normal", "strict"]


def test_what_a_detector_that_does_not_enforce_says_counts_only_where_it_is_named() -> None:
    levels = (*LEVELS, Level(name="named", signals={"d": 0.9}))

    assert chosen(LOUD, LEVELS, enforcing=[]) == ["normal"]
    assert chosen(LOUD, levels, enforcing=[]) == ["named"]


HELD = (
    Level(name="normal"),
    Level(name="watched", suspicion=0.3, hold_s=100),
    Level(name="pressed", suspicion=0.7, hold_s=10),
    Level(name="alarmed", alarm=True),
)


def followed(
    levels: Sequence[Level], stream: Sequence[tuple[float, float]]
) -> list[tuple[float, str]]:
    """Levels of one client who is so suspicious at such times, one row a batch."""
    memories: Mapping[str, Memory] = {}
    told = []
    for at, suspicion in stream:
        decision = decide(levels, {"d": signal([suspicion])}, memories, at=at)
        memories = decision.memories
        told.append((at, *names(levels, decision)))
    return told


def test_a_level_is_kept_for_its_time_after_it_was_last_reached() -> None:
    stream = [(0, 0.0), (5, 0.3), (60, 0.4), (159, 0.0), (160, 0.0), (161, 0.3), (200, 0.0)]

    assert followed(HELD, stream) == [
        (0, "normal"),
        (5, "watched"),
        (60, "watched"),
        (159, "watched"),
        (160, "normal"),
        (161, "watched"),
        (200, "watched"),
    ]


def test_behind_a_level_that_is_kept_a_lower_one_is_kept_for_its_own_time() -> None:
    """Who is at the higher level meets the condition of the lower one too."""
    stream = [(0, 0.8), (9, 0.0), (10, 0.0), (99, 0.0), (100, 0.0)]

    assert [level for _, level in followed(HELD, stream)] == [
        "pressed",
        "pressed",
        "watched",
        "watched",
        "normal",
    ]


def test_a_lower_level_reached_while_a_higher_one_is_kept_is_kept_from_then_on() -> None:
    stream = [(0, 0.8), (5, 0.4), (12, 0.0), (104, 0.0), (105, 0.0)]

    assert [level for _, level in followed(HELD, stream)] == [
        "pressed",
        "pressed",
        "watched",
        "watched",
        "normal",
    ]


def test_a_level_that_holds_nothing_is_left_at_once() -> None:
    levels = (Level(name="normal"), Level(name="watched", suspicion=0.3))

    assert followed(levels, [(0, 0.4), (0, 0.2)]) == [(0, "watched"), (0, "normal")]


def test_within_a_batch_a_level_is_kept_from_the_row_that_reached_it() -> None:
    decision = decide(HELD, {"d": signal([0.0, 0.4, 0.0, 0.8, 0.0])})

    assert names(HELD, decision) == ["normal", "watched", "watched", "pressed", "pressed"]


@given(st.data())
def test_no_cut_of_the_stream_changes_a_level_or_a_refusal(data: st.DataObject) -> None:
    levels = (*HELD[:3], Level(name="denied", suspicion=0.9, hold_s=3, deny_s=7), HELD[3])
    count = data.draw(st.integers(2, 25))
    clients = data.draw(st.lists(st.sampled_from("ab"), min_size=count, max_size=count))
    suspicion = data.draw(
        st.lists(st.sampled_from([0.0, 0.3, 0.7, 0.9]), min_size=count, max_size=count)
    )
    cuts = data.draw(st.sets(st.integers(1, count - 1)))
    bursts = sorted(data.draw(st.sets(st.integers(1, count - 1), max_size=3)))

    def run(cuts: set[int]) -> tuple[list[int], list[bool], Mapping[str, Memory]]:
        """Every burst is asked at a time of its own."""
        reached: list[int] = []
        denied: list[bool] = []
        memories: dict[str, Memory] = {}
        for start, stop in itertools.pairwise([0, *sorted(cuts | set(bursts)), count]):
            at = 4.0 * sum(burst <= start for burst in bursts)
            part = {"d": signal(suspicion[start:stop])}
            decision = decide(levels, part, memories, clients=clients[start:stop], at=at)
            memories |= decision.memories
            reached += decision.levels.tolist()
            denied += decision.denied.tolist()
        return reached, denied, memories

    whole, pieces, single = run(set()), run(cuts), run(set(range(1, count)))

    assert whole[:2] == pieces[:2] == single[:2]
    for client, memory in whole[2].items():
        for field, array in memory.get(POLICY, {}).items():
            assert np.array_equal(array, pieces[2][client][POLICY][field])
            assert np.array_equal(array, single[2][client][POLICY][field])


def test_what_was_kept_under_other_levels_is_forgotten() -> None:
    memories = decide(HELD, {"d": signal([0.4])}).memories

    assert names(LEVELS, decide(LEVELS[:3], {"d": signal([0.0])}, memories, at=1.0)) == ["normal"]


def by_hand(level: str) -> dict[str, Memory]:
    return {"ann": {POLICY: {"override": np.frombuffer(level.encode(), np.uint8)}}}


def test_a_level_set_by_hand_wins_over_what_the_detectors_say() -> None:
    up = decide(LEVELS, CALM, by_hand("pressed"))
    down = decide(LEVELS, LOUD, by_hand("normal"))

    assert (names(LEVELS, up), names(LEVELS, down)) == (["pressed"], ["normal"])
    assert override(up.memories["ann"][POLICY]) == "pressed", "and it stays"
    assert names(LEVELS, decide(LEVELS, CALM, up.memories)) == ["pressed"]


def test_a_level_set_by_hand_that_is_no_more_counts_no_more() -> None:
    assert names(LEVELS, decide(LEVELS, LOUD, by_hand("gone"))) == ["alarmed"]


def test_a_level_set_by_hand_wins_over_one_that_is_kept() -> None:
    reached = decide(HELD, {"d": signal([0.4])}).memories["ann"][POLICY]
    memory: Memory = {POLICY: {**reached, **by_hand("normal")["ann"][POLICY]}}

    assert names(HELD, decide(HELD, CALM, {"ann": memory}, at=1.0)) == ["normal"]


def test_who_is_on_the_allow_list_is_treated_at_the_first_level_and_remembered_as_anybody() -> None:
    asked = {"clients": ["ann", "bob"], "tiers": [ALLOWED, "default"]}
    decision = decide(LEVELS, {"d": signal([1.0, 1.0], alarm=True)}, **asked)  # type: ignore[arg-type]

    assert names(LEVELS, decision) == ["normal", "alarmed"]
    assert decision.wanted.tolist() == [3, 3]
    assert decision.memories["ann"][POLICY]["level"].tolist() == [3]


DENYING = (Level(name="normal"), Level(name="denied", suspicion=0.5, deny_s=60))


def test_who_is_on_the_allow_list_is_never_refused_and_not_for_what_was_before() -> None:
    refused = decide(DENYING, {"d": signal([0.6])}).memories
    allowed = decide(DENYING, {"d": signal([0.6])}, refused, at=1.0, tiers=[ALLOWED])
    fresh = decide(DENYING, {"d": signal([0.6])}, tiers=[ALLOWED])

    assert not allowed.denied.any()
    assert not fresh.denied.any()
    assert end_of_refusal(fresh.memories["ann"]) == 0.0


def test_a_refusal_begins_with_the_row_that_reaches_it_and_ends_after_its_time() -> None:
    decision = decide(DENYING, {"d": signal([0.1, 0.6, 0.1])}, at=5.0)
    during = decide(DENYING, CALM, decision.memories, at=64.9)
    after = decide(DENYING, CALM, decision.memories, at=65.0)

    assert decision.denied.tolist() == [False, True, True]
    assert end_of_refusal(decision.memories["ann"]) == 65.0
    assert during.denied.all()
    assert not after.denied.any()


def test_a_refusal_that_is_reached_again_is_prolonged() -> None:
    first = decide(DENYING, {"d": signal([0.6])}, at=0.0)
    again = decide(DENYING, {"d": signal([0.6])}, first.memories, at=50.0)

    assert end_of_refusal(again.memories["ann"]) == 110.0


def test_a_short_refusal_ends_no_longer_one() -> None:
    levels = (
        Level(name="normal"),
        Level(name="short", suspicion=0.3, deny_s=5),
        Level(name="long", suspicion=0.9, deny_s=600),
    )
    memories: Mapping[str, Memory] = {}
    for at, suspicion in ((0.0, 0.95), (10.0, 0.4), (20.0, 0.0)):
        decision = decide(levels, {"d": signal([suspicion])}, memories, at=at)
        memories = decision.memories

        assert decision.denied.all()
    assert end_of_refusal(memories["ann"]) == 600.0


def test_in_shadow_mode_nobody_is_treated_otherwise_and_it_is_known_who_would_be() -> None:
    """Not even who was refused before the mode was turned on."""
    old = decide(DENYING, {"d": signal([0.6])}, at=0.0).memories
    decision = decide(
        Policy(DENYING, shadow=True),
        {"d": signal([0.6, 0.1])},
        old,
        clients=["bob", "ann"],
        at=1.0,
    )

    assert decision.levels.tolist() == [0, 0]
    assert decision.denied.tolist() == [False, False]
    assert decision.wanted.tolist() == [1, 0]
    assert decision.memories["bob"][POLICY]["level"].tolist() == [1]
    assert end_of_refusal(decision.memories["bob"]) == 0.0


def test_in_shadow_mode_levels_set_by_hand_are_not_acted_on_either() -> None:
    decision = decide(Policy(LEVELS, shadow=True), CALM, by_hand("alarmed"))

    assert (decision.levels.tolist(), decision.wanted.tolist()) == ([0], [3])


def test_of_clients_about_whom_there_is_nothing_to_say_nothing_is_remembered() -> None:
    assert POLICY not in decide(LEVELS, CALM).memories["ann"]


def test_arguments_are_not_written_into() -> None:
    memories = decide(HELD, {"d": signal([0.8])}).memories
    before = {name: array.copy() for name, array in memories["ann"][POLICY].items()}
    decide(HELD, {"d": signal([0.8])}, memories, at=5.0)

    assert all(np.array_equal(memories["ann"][POLICY][name], before[name]) for name in before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"suspicion": 1.5},
        {"suspicion": -0.1},
        {"rows": 0},
        {"signals": {"rate": 2}},
        {"hold_s": -1},
        {"delay_s": 61},
        {"delay_s": -1},
        {"requests": "often"},
        {"deny_s": 0},
        {"deny_s": -5},
        {"defence": ["rounding"]},
        {"alarm": "perhaps"},
    ],
)
def test_a_level_out_of_bounds_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Level(name="x", **wrong)  # type: ignore[arg-type]


def test_a_rate_that_cannot_be_read_is_refused_with_an_example() -> None:
    with pytest.raises(ValidationError, match=r"'often' is no rate; write .* '100/second'"):
        Level(name="x", requests="often")


FIRST = Level(name="normal")
MISTAKES: dict[str, tuple[tuple[Level, ...], str]] = {
    "twice the same name": (
        (FIRST, Level(name="normal", alarm=True)),
        "policy level 'normal' is there twice; rename one",
    ),
    "unknown defense": (
        (Level(name="normal", defenses=("roundin",)),),
        "'normal' asks for defense 'roundin', which is not in 'defenses'; did you mean 'rounding'",
    ),
    "unknown detector": (
        (FIRST, Level(name="late", signals={"rat": 0.5})),
        "'late' listens to detector 'rat', which is not in 'detectors'; did you mean 'rate'",
    ),
    "first for a suspicion": (
        (Level(name="only", suspicion=0.1),),
        "the first policy level 'only' must hold for everybody: no condition, no tiers",
    ),
    "first for an alarm": ((Level(name="only", alarm=True),), "must hold for everybody"),
    "first for a campaign": ((Level(name="only", campaign=True),), "must hold for everybody"),
    "first for rows": ((Level(name="only", rows=5),), "must hold for everybody"),
    "first for signals": ((Level(name="only", signals={"rate": 0.5}),), "must hold for everybody"),
    "first for a tier": ((Level(name="only", tiers=("free",)),), "must hold for everybody"),
    "first denies": ((Level(name="normal", deny_s=5),), "'normal' denies or delays everybody"),
    "first delays": ((Level(name="normal", delay_s=5),), "'normal' denies or delays everybody"),
}
NEVER: dict[str, tuple[Level, Level]] = {
    "two without a condition": (FIRST, Level(name="other")),
    "falling suspicion": (
        Level(name="high", suspicion=0.9),
        Level(name="low", suspicion=0.2),
    ),
    "equal suspicion": (Level(name="one", suspicion=0.5), Level(name="two", suspicion=0.5)),
    "a suspicion after an alarm": (
        Level(name="alarmed", alarm=True),
        Level(name="suspected", suspicion=0.9),
    ),
    "alarm twice": (Level(name="one", alarm=True), Level(name="two", alarm=True)),
    "fewer rows": (Level(name="one", rows=500), Level(name="two", rows=50)),
    "less agreement": (Level(name="one", agreement=0.9), Level(name="two", agreement=0.8)),
    "a tier within all": (
        Level(name="one", suspicion=0.5, tiers=("free",)),
        Level(name="two", suspicion=0.5),
    ),
    "signals": (
        Level(name="one", signals={"rate": 0.7}),
        Level(name="two", signals={"rate": 0.5}),
    ),
    "more conditions": (
        Level(name="one", alarm=True),
        Level(name="two", alarm=True, rows=5, campaign=True),
    ),
}
GOOD: dict[str, tuple[Level, ...]] = {
    "rising": LEVELS,
    "one level": (FIRST,),
    "none": (),
    "campaign after alarm": (FIRST, LEVELS[3], Level(name="campaign", campaign=True)),
    "of another tier": (
        FIRST,
        Level(name="paid", suspicion=0.5, tiers=("paid",)),
        Level(name="free", suspicion=0.2, tiers=("free",)),
    ),
    "a tier at once": (FIRST, Level(name="trial", tiers=("trial",)), LEVELS[3]),
    "rows after alarm": (FIRST, LEVELS[3], Level(name="much", rows=10**6)),
    "one signal after another": (
        FIRST,
        Level(name="a", signals={"rate": 0.5}),
        Level(name="b", signals={"foreign": 0.5}),
    ),
}
DEFENSES, DETECTORS = ["rounding", "label_only"], ["foreign", "rate"]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_levels_that_cannot_work_are_refused_with_the_remedy(mistake: str) -> None:
    levels, words = MISTAKES[mistake]

    with pytest.raises(ValueError, match=words):
        check_levels(levels, DEFENSES, DETECTORS)


@pytest.mark.parametrize("reason", NEVER)
def test_a_level_that_can_never_count_is_refused(reason: str) -> None:
    first, later = NEVER[reason]
    levels = (first, later) if first is FIRST else (FIRST, first, later)

    with pytest.raises(ValueError, match=f"'{first.name}' can never count: '{later.name}'"):
        check_levels(levels, DEFENSES, DETECTORS)


@pytest.mark.parametrize("levels", GOOD.values(), ids=GOOD)
def test_levels_each_of_which_can_count_are_taken(levels: tuple[Level, ...]) -> None:
    check_levels(levels, DEFENSES, DETECTORS)

    assert len({level.name for level in levels}) == len(levels)


def test_names_are_asked_to_be_added_where_none_are_there() -> None:
    with pytest.raises(ValueError, match="'rounding', which is not in 'defenses'; add it there"):
        check_levels((Level(name="normal", defenses=("rounding",)),), [], [])
    with pytest.raises(ValueError, match="'rate', which is not in 'detectors'; add it there"):
        check_levels((FIRST, Level(name="late", signals={"rate": 0.5})), [], [])


def test_a_suspicion_that_everybody_has_is_no_condition() -> None:
    """Beside others it would look as if it always held."""
    with pytest.raises(ValidationError, match="suspicion"):
        Level(name="all", suspicion=0.0, alarm=True)
