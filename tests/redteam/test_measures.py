"""Measures against numbers that were worked out by hand."""

import math

import pytest
import torch
from torch import nn

from redteam import measures

VICTIM = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
LABELS = torch.tensor([0, 1, 0, 0])  # the victim is right on three


def test_a_perfect_clone_agrees_fully_and_is_as_accurate_as_its_victim() -> None:
    scores = measures.clone_scores(VICTIM, VICTIM, LABELS)

    assert scores == {"clone_accuracy": 0.75, "agreement": 1.0, "relative": 1.0, "kl": 0.0}


def test_a_clone_is_judged_against_truth_and_against_the_victim_apart() -> None:
    clone = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.7, 0.3]])
    scores = measures.clone_scores(clone, VICTIM, LABELS)
    kl = (0.2 * math.log(0.2 / 0.8) + 0.8 * math.log(0.8 / 0.2)) / 4
    kl += (0.3 * math.log(0.3 / 0.7) + 0.7 * math.log(0.7 / 0.3)) / 4

    assert scores["clone_accuracy"] == 0.75
    assert scores["agreement"] == 0.5
    assert scores["relative"] == 1.0
    assert scores["kl"] == pytest.approx(kl)


def test_a_clone_that_names_a_class_impossible_has_a_finite_divergence() -> None:
    clone = torch.tensor([[0.0, 1.0]] * 4)

    assert math.isfinite(measures.clone_scores(clone, VICTIM, LABELS)["kl"])


def test_labels_cost_honest_clients_what_the_probabilities_held_back() -> None:
    scores = measures.honest_scores(VICTIM.argmax(dim=1), VICTIM, LABELS)

    assert scores["benign_accuracy"] == 0.75
    assert scores["l1"] == pytest.approx((0.2 + 0.4 + 0.8 + 0.6) / 4)
    assert scores["ece"] == pytest.approx(0.25)  # always sure, right in three of four


def test_a_refused_row_is_a_wrong_one_and_nothing_else() -> None:
    released = VICTIM.clone()
    released[0] = 0
    scores = measures.honest_scores(released, VICTIM, LABELS)

    assert scores["benign_accuracy"] == 0.5
    assert scores["l1"] == 0.0
    assert measures.honest_scores(VICTIM * 0, VICTIM, LABELS)["benign_accuracy"] == 0.0


def test_calibration_error_is_the_gap_of_confidence_and_accuracy_by_bin() -> None:
    answers = torch.tensor([[0.95, 0.05]] * 2 + [[0.55, 0.45]] * 2)
    error = measures.calibration_error(answers, torch.tensor([0, 1, 0, 0]))

    assert error == pytest.approx((2 * abs(0.5 - 0.95) + 2 * abs(1.0 - 0.55)) / 4)


def test_a_clone_that_diverged_is_an_error_and_no_protection() -> None:
    network = nn.Linear(2, 2)
    with torch.no_grad():
        network.weight.fill_(math.nan)

    with pytest.raises(ValueError, match="diverged"):
        measures.probabilities(network, torch.ones(1, 2))


@pytest.mark.parametrize(
    ("agreement", "said"),
    [(0.901, "vulnerable"), (0.9, "warning"), (0.75, "warning"), (0.749, "resilient")],
)
def test_the_verdict_follows_the_bounds_of_the_guide(agreement: float, said: str) -> None:
    assert measures.verdict(agreement) == said


def test_one_seed_has_no_spread_and_three_have_their_own() -> None:
    assert measures.spread([0.5]) == (0.5, 0.0)
    assert measures.spread([0.1, 0.2, 0.3]) == pytest.approx((0.2, 0.1))
    assert measures.rounded({"kl": 1 / 3}, 2) == {"kl": 0.33}
