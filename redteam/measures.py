"""What a clone is worth to its thief, and what a defense costs those who are honest."""

from collections.abc import Iterable, Mapping
from statistics import mean, stdev

import torch
from torch import Tensor, nn

from mantlet import simplex
from mantlet.finite import all_finite
from mantlet.types import Query, Victim
from serving.pipeline import Pipeline

VULNERABLE, RESILIENT = 0.9, 0.75
"""Agreement above and below which OWASP's test speaks its verdict."""
BINS = 15
FLOOR = 1e-8
"""Probabilities are lifted to it before a logarithm."""


@torch.inference_mode()
def probabilities(network: nn.Module, inputs: Tensor) -> Tensor:
    """(n, C) a network's softmax on (n, *shape); one that is not finite raises `ValueError`.

    A clone that answers NaN is a fault of the attack and no success of a defense.
    """
    network.eval()
    logits = torch.cat([network(part) for part in torch.split(inputs, 500)])
    if not all_finite(logits):
        raise ValueError("the clone answers values that are not finite: the attack diverged")
    return logits.softmax(dim=1)


def clean(victim: Victim, inputs: Tensor) -> Tensor:
    """(n, C) answers of a victim alone to (n, *shape), a few rows at a time and checked."""
    alone = Pipeline(victim)
    parts = torch.split(inputs, 256)
    return torch.cat([alone.predict(Query(["judge"] * len(p), p, 0.0)).values for p in parts])


def clone_scores(clone: Tensor, victim: Tensor, labels: Tensor) -> dict[str, float]:
    """What a clone's (n, C) answers are worth beside the victim's clean (n, C) ones and (n,) labels.

    ``agreement`` is the share of rows with the same top class, ``relative`` the clone's accuracy over the
    victim's, ``kl`` the mean of KL(victim || clone) in nats.

    >>> victim = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    >>> scores = clone_scores(victim.flip(1), victim, torch.tensor([0, 0]))
    >>> scores["agreement"], scores["clone_accuracy"], scores["relative"]
    (0.0, 0.5, 1.0)
    """
    own, stolen = accuracy(victim, labels), accuracy(clone, labels)
    logs = [p.double().clamp_min(FLOOR).log() for p in (victim, clone)]
    kl = (victim.double() * (logs[0] - logs[1])).sum(dim=1).mean()
    return {
        "clone_accuracy": stolen,
        "agreement": accuracy(clone, victim.argmax(dim=1)),
        "relative": stolen / own if own else 0.0,
        "kl": float(kl),
    }


def honest_scores(released: Tensor, clean: Tensor, labels: Tensor) -> dict[str, float]:
    """What honest clients receive, (n, C) or labels (n,), beside the clean (n, C) and the truth (n,).

    ``l1`` is the mean over rows of the sum of absolute differences, in [0, 2]; ``ece`` the expected
    calibration error. A row of zeros was refused: it is wrong, and counts in none of the two others.
    """
    if released.ndim == 1:
        released = simplex.one_hot(released, clean.shape[1]).to(clean.dtype)
    answered = released.sum(dim=1) > 0  # (n,)
    right = (released.argmax(dim=1) == labels) & answered
    kept = answered.nonzero()[:, 0]
    if not len(kept):
        return {"benign_accuracy": 0.0, "l1": 0.0, "ece": 0.0}
    return {
        "benign_accuracy": float(right.double().mean()),
        "l1": float((released - clean)[kept].double().abs().sum(dim=1).mean()),
        "ece": calibration_error(released[kept], labels[kept]),
    }


def accuracy(answers: Tensor, labels: Tensor) -> float:
    """Share of (n, C) answers whose top class is the (n,) label."""
    return float((answers.argmax(dim=1) == labels).double().mean())


def calibration_error(answers: Tensor, labels: Tensor) -> float:
    """Expected calibration error of the top class in bins of equal width (Guo et al., 2017).

    >>> calibration_error(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1]))
    0.0
    """
    confidence, named = answers.double().max(dim=1)
    right = (named == labels).double()
    place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add(0, place, right - confidence)
    return float(gaps.abs().sum() / len(answers))


def verdict(agreement: float) -> str:
    """The line of OWASP's AI Testing Guide, AITG-APP-09, for a clone's agreement in [0, 1].

    >>> verdict(0.95), verdict(0.9), verdict(0.75), verdict(0.6)
    ('vulnerable', 'warning', 'warning', 'resilient')
    """
    if agreement > VULNERABLE:
        return "vulnerable"
    return "resilient" if agreement < RESILIENT else "warning"


def spread(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds; of a single seed the latter is 0.

    >>> spread([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    known = list(values)
    return mean(known), stdev(known) if len(known) > 1 else 0.0


def rounded(scores: Mapping[str, float], digits: int = 5) -> dict[str, float]:
    """Scores as a record keeps them."""
    return {name: round(value, digits) for name, value in scores.items()}
