"""Thieves are found together though each is quiet; honest clients never are, however often one looks."""

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from detectors.sketch import Sketch
from mantlet.data import Images
from mantlet.plugin import Setup
from mantlet.types import Query
from serving.campaigns import Campaign, Crowd, Search, _share_of, find, gather
from serving.folding import ALARMS, CAMPAIGN, Memory
from serving.pipeline import Pipeline
from tests.helpers import SETUP, TinyVictim, bright, grey

QUIET = 2_000.0
"""Evidence far below a client's own alarm at one in a million."""


def crowd(worth: np.ndarray, marked: Mapping[int, int] | None = None) -> Crowd:
    """Clients of whom only the evidence of their own scores is known."""
    count = len(worth)
    marks = np.zeros(count, dtype=np.int64)
    for client, number in (marked or {}).items():
        marks[client] = number
    return Crowd(
        tuple(f"client {i}" for i in range(count)),
        worth,
        np.full(count, 100),
        marks,
        np.zeros(0, dtype=np.int64),
        np.zeros(0, np.float16),
        np.zeros((0, 1), np.float16),
    )


def search(seen: Crowd, **settings: float) -> list[Campaign]:
    return find(seen, Pipeline(TinyVictim()), Search.model_validate(settings), looks=1)


def thieves_and_honest(thieves: int, worth: float, honest: int = 100) -> np.ndarray:
    return np.concatenate([np.full(thieves, worth), np.full(honest, 0.03)])


def test_thieves_none_of_whom_is_alarmed_are_found_together() -> None:
    (campaign,) = search(crowd(thieves_and_honest(64, QUIET)))

    assert campaign.alarm
    assert set(campaign.members) == {f"client {i}" for i in range(64)}
    assert campaign.members == campaign.new
    assert campaign.rows == 6_400


def test_a_few_thieves_by_themselves_are_no_campaign_however_sure_each_is() -> None:
    assert search(crowd(thieves_and_honest(4, 1e60))) == []
    assert search(crowd(thieves_and_honest(4, 1e60, honest=0))) == []
    assert search(crowd(thieves_and_honest(5, 1e60)))[0].alarm


def test_four_sure_thieves_do_not_lend_their_evidence_to_a_fifth() -> None:
    worth = np.concatenate([np.full(4, 1e60), [3e3], np.full(20, 0.03)])
    (suspected,) = search(crowd(worth))

    assert not suspected.alarm
    assert len(suspected.members) == 5


def walks(
    pipeline: Pipeline, mean: np.ndarray, rng: np.random.Generator, *, rows: int, step: int
) -> "itertools.chain[Crowd]":
    """Crowds as they are after every ``step`` rows of clients whose rows score 1 with a chance ``mean``."""
    names = [f"client {i}" for i in range(len(mean))]

    def looks() -> "list[Crowd]":
        memories: Mapping[str, Memory] = {}
        found = []
        for _ in range(0, rows, step):
            scores = (rng.random((len(mean), step)) < mean[:, None]).reshape(-1, 1).astype(float)
            asked = Query(np.repeat(names, step).tolist(), grey(*[0.0] * len(scores)), 0.0)
            memories = pipeline.fold.run(asked, {"bright": scores}, memories).memories
            found.append(gather(memories.items(), pipeline))
        return found

    return itertools.chain(looks())


def test_honest_clients_are_never_called_however_often_one_looks() -> None:
    """Clients at the very edge of what is tolerated, 20 looks a world; one world in ten may fail."""
    pipeline = Pipeline(TinyVictim(), [bright(bound=0.1)])
    once = Search(alpha=0.1, false_members=0.3, min_members=2)
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(30):
        looks = walks(pipeline, np.full(40, 0.1), rng, rows=200, step=10)
        found = [find(seen, pipeline, once, looks=k) for k, seen in enumerate(looks, start=1)]
        called += any(one.alarm for look in found for one in look)

    assert called <= 6  # a world fails with a chance of at most 0.1


def test_the_same_look_finds_thieves_among_them() -> None:
    pipeline = Pipeline(TinyVictim(), [bright(bound=0.1)])
    mean = np.concatenate([np.full(12, 0.5), np.full(40, 0.1)])
    *_, last = walks(pipeline, mean, np.random.default_rng(1), rows=40, step=40)
    (campaign,) = find(last, pipeline, Search(), looks=1)

    assert campaign.alarm
    assert set(campaign.members) <= {f"client {i}" for i in range(12)}
    assert (last.worth < 1e6).any()


def test_all_looks_together_have_one_share_of_the_error() -> None:
    total = sum(_share_of(look) for look in range(1, 100_000))

    assert 0.9 < total <= 1
    assert _share_of(500_000) > 1e-9


def test_a_campaign_that_grows_keeps_its_number() -> None:
    marked = dict.fromkeys(range(10), 77)
    (campaign,) = search(crowd(thieves_and_honest(64, QUIET), marked))

    assert campaign.number == 77
    assert len(campaign.members) == 64
    assert len(campaign.new) == 54


def test_whoever_looks_gives_the_same_number() -> None:
    seen = crowd(thieves_and_honest(64, QUIET))
    order = np.random.default_rng(0).permutation(164)
    other = replace(seen, clients=tuple(seen.clients[i] for i in order), worth=seen.worth[order])

    assert search(seen)[0].number == search(other)[0].number > 0


def test_a_crowd_smaller_than_a_campaign_has_none() -> None:
    assert search(crowd(np.zeros(0))) == []
    assert search(crowd(np.full(3, 1e60))) == []


@pytest.fixture(scope="module")
def sketching(digits: Images) -> Pipeline:
    """A pipeline that keeps sketches and has no other evidence."""
    sketch = Sketch()
    inputs = torch.from_numpy(digits.x[:3000])
    asked = Query(["benign"] * 3000, inputs, 0.0)
    own = sketch.calibrate(asked, TinyVictim().predict(inputs[:, :, :4, :4]))
    sketch.load(Setup(SETUP.device, SETUP.secret, own))
    return Pipeline(TinyVictim(), [sketch])


def remembered(pipeline: Pipeline, sent: Mapping[str, np.ndarray]) -> dict[str, Memory]:
    """What is remembered of clients after their (n, 1, 28, 28) rows."""
    memories: dict[str, Memory] = {}
    prediction = TinyVictim().predict(torch.zeros(1, 1, 4, 4))
    for client, inputs in sent.items():
        asked = Query([client] * len(inputs), torch.from_numpy(inputs), 0.0)
        scores = pipeline.detectors[0].score(asked, prediction).double().numpy()
        memories |= pipeline.fold.run(asked, {"sketch": scores}, {}).memories
    return memories


def accounts(pictures: np.ndarray, count: int, name: str) -> dict[str, np.ndarray]:
    """Pictures dealt in turn to accounts."""
    return {f"{name} {i}": pictures[i::count] for i in range(count)}


def augmented(seeds: np.ndarray, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """As Jacobian-based augmentation doubles a set, with steps of 0.1 in directions by chance."""
    every = seeds
    for _ in range(rounds):
        steps = rng.choice([-0.1, 0.1], every.shape).astype(np.float32)
        every = np.concatenate([every, (every + steps).clip(0, 1)])
    return every


def test_accounts_whose_rows_descend_from_each_other_are_one_campaign(
    sketching: Pipeline, digits: Images
) -> None:
    stolen = augmented(digits.x[3000:3150], 4, np.random.default_rng(0))  # 2,400 rows
    honest = accounts(digits.x[3000:], 100, "honest")  # the seeds are among them
    thieves = accounts(stolen, 40, "thief")
    seen = gather(remembered(sketching, honest | thieves).items(), sketching)
    (campaign,) = find(seen, sketching, Search(), looks=100_000)
    right = sum(member.startswith("thief") for member in campaign.members)

    assert campaign.alarm
    assert campaign.linked > 0.5
    assert right / len(campaign.members) >= 0.95
    assert right / 40 >= 0.9
    assert find(seen, sketching, Search(), looks=2**400) == []  # a look that has next to no share


def test_honest_clients_of_one_kind_of_picture_are_no_campaign(
    sketching: Pipeline, digits: Images
) -> None:
    """Nor those that share public pictures: the same rows are in several clients."""
    ones = digits.x[3000:][digits.y[3000:] == 1]
    sent = accounts(ones, 15, "one class") | accounts(digits.x[3000:], 70, "mixed")
    sent |= {f"public {i}": digits.x[3000:3100] for i in range(10)}
    seen = gather(remembered(sketching, sent).items(), sketching)

    assert find(seen, sketching, Search(), looks=1) == []


def test_two_thieves_are_two_campaigns(sketching: Pipeline, digits: Images) -> None:
    rng = np.random.default_rng(0)
    first = accounts(augmented(digits.x[3000:3100], 4, rng), 19, "first")
    noise = rng.random((100, 1, 28, 28)).astype(np.float32)
    second = accounts(augmented(noise, 4, rng), 19, "second")
    honest = accounts(digits.x[4000:], 60, "honest")
    seen = gather(remembered(sketching, first | second | honest).items(), sketching)
    found = find(seen, sketching, Search(), looks=1)

    assert len({one.number for one in found}) == 2
    assert {frozenset(m.split()[0] for m in one.members) for one in found} == {
        frozenset({"first"}),
        frozenset({"second"}),
    }


def test_of_too_many_rows_the_same_are_compared_of_every_client(
    sketching: Pipeline, digits: Images
) -> None:
    memories = remembered(sketching, accounts(digits.x[3000:], 70, "client"))
    every = gather(memories.items(), sketching)
    some = gather(memories.items(), sketching, most_rows=1_500)
    kept = np.bincount(some.owner, minlength=70) / np.bincount(every.owner, minlength=70)

    assert 500 < len(some.owner) <= 1_500 < len(every.owner)
    assert np.ptp(kept) < 0.6
    assert some.clients == every.clients


def test_marks_of_campaigns_are_read(sketching: Pipeline) -> None:
    memory: Memory = {ALARMS: {CAMPAIGN: np.array([5, 0.0, 77])}}
    seen = gather([("ann", memory), ("bob", {})], sketching)

    assert seen.clients == ("ann", "bob")
    assert seen.marked.tolist() == [77, 0]


def test_each_kind_of_evidence_has_half_of_alpha() -> None:
    seen = crowd(thieves_and_honest(8, 60.0, honest=5))
    alphas = 1e-9, 1e-14
    (often,), (seldom,) = (search(seen, alpha=alpha, false_members=0.2) for alpha in alphas)
    told = [c.suspicion * np.log(2 / a) for c, a in zip((often, seldom), alphas, strict=True)]

    assert 0 < seldom.suspicion < often.suspicion < 1
    assert told[0] == pytest.approx(told[1])
