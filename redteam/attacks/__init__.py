"""Attacks see nothing but an oracle; ``BUILTIN`` lists them, one file each."""

from mantlet.registry import type_name
from redteam.attacks.active import Active
from redteam.attacks.attack import Attack
from redteam.attacks.copycat import Copycat
from redteam.attacks.dfme import Dfme
from redteam.attacks.jbda import Jbda
from redteam.attacks.jbda_tr import JbdaTr
from redteam.attacks.knockoff import Knockoff
from redteam.attacks.maze import Maze
from redteam.attacks.megex import Megex
from redteam.attacks.noise import Noise

BUILTIN: tuple[type[Attack], ...] = (
    Active,
    Copycat,
    Dfme,
    Jbda,
    JbdaTr,
    Knockoff,
    Maze,
    Megex,
    Noise,
)


def known() -> dict[str, type[Attack]]:
    """Attacks by type."""
    return {type_name(attack): attack for attack in BUILTIN}
