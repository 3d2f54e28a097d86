"""Explanations in place of probes: exact where they are gradients, and DFME where they are refused or lie."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mantlet.data import Images
from mantlet.errors import ConfigError
from redteam.attacks.attack import Ledger
from redteam.attacks.data_free import activated
from redteam.attacks.dfme import Dfme
from redteam.attacks.megex import Guide, Megex
from redteam.client.oracle import Explained
from redteam.learning import Means, Training, Transfer, answers_of
from redteam.measures import accuracy
from tests.redteam.explainers import Shower, pooled
from tests.redteam.thieves import QUICK, pictures, stolen

EMPTY = torch.zeros(0, 1, 28, 28)
MEANS = Means(EMPTY, settings={"width": 2})


def small(**settings: Any) -> Megex:
    return Megex(**({"batch": 8, "training": QUICK, "clone_steps": 2, "recheck": 0} | settings))


def cosine(attack: Dfme, oracle: Shower, *, seed: int = 0) -> float:
    """Mean over 256 pictures, of the gradient that is used and the true one, before the activation."""
    generator = torch.Generator().manual_seed(seed)
    clone = MEANS.network(generator)
    raw = torch.randn(256, 1, 28, 28, generator=generator)
    slopes = attack.guide(MEANS, generator)(clone, Ledger(oracle, 100_000), raw, generator)
    variable = raw.clone().requires_grad_()
    pictures = activated(variable)
    answers = torch.softmax(oracle.network(pictures), dim=1)
    loss = attack.disagreement(clone(pictures), answers).mean()
    (true,) = torch.autograd.grad(loss, variable)
    return float(nn.functional.cosine_similarity(slopes.flatten(1), true.flatten(1)).mean())


@pytest.mark.parametrize(
    ("directions", "wanted"), [(1, math.sqrt(2 / (math.pi * 784))), (10, math.sqrt(10 / 794))]
)
def test_probes_point_as_far_up_as_they_can_in_784_numbers(directions: int, wanted: float) -> None:
    """0.028 and 0.11: what random directions give, to ten percent."""
    assert cosine(Dfme(directions=directions), Shower()) == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("explains", ["logit", "log_probability", "probability"])
def test_explanations_of_all_classes_are_the_gradient(explains: str) -> None:
    assert cosine(small(explains=explains), Shower(explains)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("explains", ["logit", "log_probability", "probability"])
def test_those_of_the_top_class_are_a_good_part_of_it(explains: str) -> None:
    assert cosine(small(explains=explains, classes="top"), Shower(explains)) > 0.3


def test_what_the_other_classes_add_is_found_by_probes() -> None:
    top = small(classes="top")
    probed = small(classes="top", rest="probed", directions=40)

    assert cosine(probed, Shower()) > cosine(top, Shower()) + 0.01


def test_magnitudes_weigh_the_probes_and_are_no_gradient() -> None:
    shown = Shower(view=pooled)

    assert abs(cosine(small(classes="top", reading="gradient"), shown)) < 0.1
    assert cosine(small(classes="top"), shown) > cosine(Dfme(), Shower())


def test_an_exponent_that_is_known_is_undone() -> None:
    def flattened(maps: Tensor) -> Tensor:
        return pooled(maps) ** 0.5

    read, undone = (small(classes="top", directions=4, gamma=gamma) for gamma in (1.0, 0.5))

    assert cosine(undone, Shower(view=flattened)) == pytest.approx(
        cosine(read, Shower(view=pooled)), abs=1e-4
    )


def test_the_mean_over_jittered_copies_sees_through_noise() -> None:
    generator = torch.Generator().manual_seed(1)

    def noisy(maps: Tensor) -> Tensor:
        return maps + 2 * maps.std() * torch.randn(maps.shape, generator=generator)

    once, often = (
        cosine(small(classes="top", jitters=jitters, jitter=1e-3), Shower(view=noisy))
        for jitters in (1, 16)
    )

    assert often > 1.5 * once


def test_a_prior_turns_maps_back_when_it_has_seen_pairs(digits: Images) -> None:
    oracle, generator = Shower(view=pooled), torch.Generator().manual_seed(0)
    guide = Guide(small(classes="top", reading="prior"), MEANS, generator)
    pictures = torch.from_numpy(digits.x[:64])
    ledger = Ledger(oracle, 100_000)
    shown = ledger.explain(pictures).maps
    true = Shower().explain(pictures).maps
    assert guide.prior is not None
    before = _alike(guide.prior.back(pictures, shown), true)
    for _ in range(60):
        guide.prior.learn(pictures, true)

    assert _alike(guide.prior.back(pictures, shown), true) > before + 0.05


def _alike(one: Tensor, other: Tensor) -> float:
    return float(nn.functional.cosine_similarity(one.flatten(1), other.flatten(1)).mean())


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"classes": "top"}, 8 * (1 + 2)),
        ({"classes": "any"}, 8 * (1 + 10 + 2)),
        ({"classes": "top", "reading": "magnitude"}, 8 * (1 + 1 + 2)),
        ({"classes": "top", "jitters": 3}, 8 * (3 + 2)),
        ({"classes": "top", "rest": "probed", "directions": 2}, 8 * (1 + 2 + 2)),
        ({"classes": "top", "matching": 1.0}, 8 * (1 + 2)),
        ({"classes": "top", "recheck": 1}, 8 * (1 + 3 + 2)),
        ({"classes": "none", "matching": 1.0}, 8 * (2 + 2)),
    ],
)
def test_a_turn_costs_what_it_says(settings: dict[str, Any], rows: int) -> None:
    """The numbers that come back are counted too: 784 an explanation, beside ten of its prediction."""
    oracle, attack = Shower(), small(**settings)
    stolen(attack, oracle, budget=rows, pool=EMPTY)
    explained = sum(map(len, oracle.explained))

    assert sum(map(len, oracle.queries)) + explained == rows == oracle.rows
    assert oracle.floats == 10 * rows + 784 * explained


REFUSALS: dict[str, tuple[Callable[..., Shower], tuple[str, ...]]] = {
    "of any class": (lambda: Shower(top_only=True), ("top",)),
    "of all": (lambda: Shower(withholds=True), ()),
}


@pytest.mark.parametrize("refused", REFUSALS)
def test_where_explanations_are_refused_the_thief_goes_on_without(refused: str) -> None:
    make, left = REFUSALS[refused]
    oracle, generator = make(), torch.Generator().manual_seed(0)
    guide = small().guide(MEANS, generator)
    assert isinstance(guide, Guide)
    raw = torch.randn(8, 1, 28, 28, generator=generator)
    slopes = guide(MEANS.network(generator), Ledger(oracle, 1000), raw, generator)

    assert guide.left == left
    assert slopes.abs().sum() > 0


def test_refused_explanations_leave_the_rows_of_dfme() -> None:
    settings = {"batch": 8, "training": QUICK, "clone_steps": 2}
    refused, plain = Shower(withholds=True), Shower()
    stolen(Megex(**settings, classes="top"), refused, budget=96, pool=EMPTY)
    stolen(Dfme(**settings, diversity=1.0), plain, budget=96, pool=EMPTY)

    assert torch.equal(torch.cat(refused.queries), torch.cat(plain.queries))


def test_maps_that_point_nowhere_are_given_up() -> None:
    generator = torch.Generator().manual_seed(0)
    lying = Shower(view=lambda maps: torch.randn(maps.shape, generator=generator))
    honest = Shower()
    left = []
    for oracle in (lying, honest):
        guide = Guide(small(classes="top", recheck=1), MEANS, generator)
        raw = torch.randn(64, 1, 28, 28, generator=generator)
        guide(MEANS.network(generator), Ledger(oracle, 10_000), raw, generator)
        left.append(guide.left)

    assert left == [(), ("top",)]


def test_a_prior_has_its_turns_to_learn_before_it_is_judged() -> None:
    generator = torch.Generator().manual_seed(0)
    lying = Shower(view=lambda maps: torch.randn(maps.shape, generator=generator))
    guide = Guide(small(classes="top", reading="prior", recheck=2), MEANS, generator)
    clone, ledger = MEANS.network(generator), Ledger(lying, 10_000)
    left = []
    for _ in range(3):
        guide(clone, ledger, torch.randn(64, 1, 28, 28, generator=generator), generator)
        left.append(guide.left)

    assert left == [("top",), ("top",), ()]


def test_a_clone_learns_more_where_its_gradients_are_fit_to_the_maps(digits: Images) -> None:
    oracle, asked, test = Shower(), pictures(300), torch.from_numpy(digits.x[:1000])
    told = oracle.explain(asked)
    transfer = Transfer(asked, told.answers, told.maps)
    wanted = oracle.answer(test).argmax(dim=1)
    scores = []
    for matching in (0.0, 1.0):
        attack = Megex(matching=matching, training=Training(steps=150, batch=32))
        kept = transfer if matching else replace(transfer, maps=None)
        clone = attack.learn(kept, Means(EMPTY), torch.Generator().manual_seed(0))
        scores.append(accuracy(answers_of(clone, test), wanted))

    assert scores[1] > scores[0] + 0.1


def test_maps_of_another_shape_are_an_error_of_the_target() -> None:
    ledger = Ledger(Shower(view=lambda maps: maps[..., :7]), 100)
    with pytest.raises(ConfigError, match="explains"):
        ledger.explain(torch.zeros(2, 1, 28, 28))


def test_answers_and_maps_are_kept_together() -> None:
    ledger = Ledger(Shower(), 100)
    told = ledger.explain(torch.rand(3, 1, 28, 28), keep=True)
    ledger.ask(torch.rand(2, 1, 28, 28))
    transfer = ledger.transfer
    assert isinstance(told, Explained)
    assert transfer is not None
    assert transfer.maps is not None

    assert torch.equal(transfer.maps[:3], told.maps)
    assert not transfer.maps[3:].any()
