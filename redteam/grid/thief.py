"""A thief of a plan as it is let loose: its accounts, its cover, its repeats, its attack."""

import torch
from torch import Tensor

from redteam import treatments
from redteam.attacks.attack import Attack
from redteam.client.accounts import Rotate, Split
from redteam.client.averaging import Averaging
from redteam.client.mixing import Mixing
from redteam.client.oracle import Capped, Oracle
from redteam.grid.chains import fresh
from redteam.grid.plan import Attacker, Cell, Plan
from redteam.house import House


def oracle_of(
    attacker: Attacker,
    house: House,
    cell: Cell,
    *,
    stock: Tensor | None,
    generator: torch.Generator,
) -> Oracle:
    """What the attack asks; every row that any wrapper sends counts against the budget."""
    names = [f"thief {number} of {cell.words}" for number in range(attacker.accounts)]
    accounts = [house.account(name) for name in names]
    oracle: Oracle = accounts[0]
    if attacker.accounts > 1:
        oracle = (Split if attacker.spread == "split" else Rotate)(accounts)
    oracle = Capped(oracle, cell.budget)
    if stock is not None and attacker.cover:
        oracle = Mixing(oracle, stock, share=attacker.cover, generator=generator)
    if attacker.repeats > 1 or attacker.jitter:
        oracle = Averaging(
            oracle, times=attacker.repeats, jitter=attacker.jitter, generator=generator
        )
    return oracle


def attack_of(plan: Plan, attacker: Attacker, defense: str) -> Attack:
    """The attack on a row, with the plan's training and requests where it names none of its own.

    A request holds as many rows as the plan says, repeats and cover among them, so that a refusal costs
    the thief one request.
    """
    given = attacker.attack
    sent = attacker.repeats / (1 - attacker.cover)
    accounts = attacker.accounts if attacker.spread == "split" else 1
    settings = {
        "training": plan.training,
        "request": max(1, int(plan.sent_at_once(defense) * accounts / sent)),
    }
    if attacker.undo is not None:
        known = fresh(plan.defenses[defense].defenses[0])
        undo = treatments.known()[attacker.undo].model_validate(
            {"type": attacker.undo, "defense": known}
        )
        given = given.model_copy(update={"treatments": (*given.treatments, undo)})
    return given.model_copy(
        update={
            name: value for name, value in settings.items() if name not in given.model_fields_set
        }
    )
