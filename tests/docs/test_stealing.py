"""The tables of the page on attacks: every attack is there, and numbers are those of the records."""

from typing import Any

from docs import stealing
from redteam import attacks


def record(seed: int, accuracy: float | None, defense: str = "none") -> dict[str, Any]:
    cell = {"attack": "art-copycat", "budget": 5000, "defense": defense, "seed": seed}
    return cell | {"clone_accuracy": accuracy, "agreement": accuracy}


def test_every_attack_is_listed() -> None:
    listed = stealing.listed()

    assert all(f"| `{name}` | " in listed for name in attacks.known())
    assert "| `noise` |" in listed


def test_seeds_of_a_cell_are_one_line_with_their_mean() -> None:
    shown = stealing.art([record(0, 0.5), record(0, 0.9, "default"), record(1, 0.6)])

    assert shown.splitlines()[2:] == [
        "| `art-copycat` | 5,000 | default | 90.0 % | 90.0 % | 1 |",
        "| `art-copycat` | 5,000 | none | 55.0 % | 55.0 % | 2 |",
    ]


def test_a_thief_who_was_denied_has_no_score() -> None:
    assert "| - | - | 1 |" in stealing.art([record(0, None)])
