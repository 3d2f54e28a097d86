"""Shipped models as they are served to the bench, and as a judge sees them."""

import torch

from defenses.explanation_display import ExplanationDisplay
from defenses.explanation_smooth import ExplanationSmooth
from redteam.client.oracle import InProcess
from redteam.explanations.explainable import gradients, judged, loaded, network, served, shown
from redteam.pools import Pools
from tests.helpers import rows

PICTURES = rows(5, shape=(1, 28, 28))


def test_what_is_served_are_the_gradients_of_the_shipped_model() -> None:
    told = InProcess(served("mnist")).explain(PICTURES)

    torch.testing.assert_close(told.maps, gradients(network("mnist"), PICTURES))
    torch.testing.assert_close(
        told.answers, torch.softmax(network("mnist")(PICTURES), dim=1), atol=1e-4, rtol=0
    )


def test_any_class_can_be_named_and_is_another_map() -> None:
    oracle = InProcess(served("fashion", "logit"))
    told = [oracle.explain(PICTURES, torch.full((5,), of)).maps for of in (0, 1)]

    assert not torch.equal(*told)


def test_a_defended_service_shows_what_the_judge_expects() -> None:
    chain = (ExplanationSmooth(), ExplanationDisplay())
    told = InProcess(served("mnist", defenses=chain)).explain(PICTURES)
    true = gradients(network("mnist"), PICTURES)

    torch.testing.assert_close(told.maps, shown(loaded(chain), PICTURES, true))


def test_pictures_and_labels_are_of_the_test_split(pools: Pools) -> None:
    pictures, labels = judged(pools, "mnist")

    assert pictures.shape == (5000, 1, 28, 28)
    assert (len(labels), float(pictures.max())) == (5000, 1.0)
