"""Attacks of another project, the Adversarial Robustness Toolbox, work on a gateway through its HTTP endpoint."""

import pytest

from mantlet.data import Images
from redteam.client.over_http import OverHttp
from tests.benchmarks.art import ATTACKS, Size, run, stolen
from tests.e2e.harness import Running

FORM = {
    *("victim", "defense", "attack", "attacker_data", "budget", "seed"),
    *("clone_accuracy", "agreement", "benign_accuracy", "l1", "added_ms", "rows_until_denied"),
}


def test_each_attack_steals_from_the_undefended_model_and_is_told_as_a_record(
    digits: Images,
) -> None:
    """With pictures of the model's own kind: foreign ones need more of them than a test has time for."""
    assert digits.y is not None
    judged = Images(digits.x[5000:], digits.y[5000:])
    size = Size(budgets=(400,), seeds=1, judged=2000, steps=120, defenses=("none",))
    records = list(run(digits.x[:1000], judged, size))
    rest = list(run(digits.x[:1000], judged, size, records))

    assert [record["attack"] for record in records] == list(ATTACKS)
    assert all(set(record) == FORM for record in records)
    assert all(record["clone_accuracy"] > 0.6 for record in records)
    assert rest == [], "what is known is not done again"


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_ban_leaves_the_attack_without_a_clone(
    running: Running, digits: Images, attack: str
) -> None:
    with OverHttp(running.url, "denying", key=running.new_key()) as oracle:
        clone = stolen(attack, oracle, digits.x[:500], budget=300, seed=0)

    assert clone is None
    assert 100 <= oracle.rows <= 160
