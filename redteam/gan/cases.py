"""What the bench of generators runs: defenses before the victim, thieves, and which of them meet."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mantlet.gan_training import GanSettings
from redteam.attacks.washing import Wash

CLASSIFIERS = Path(__file__).parents[2] / "configs/models"
BUDGETS = (1_000, 5_000, 20_000)
ANCHORS = 10
"""Rows of a budget for each latent of an identity."""
PICKED = 5
"""Pictures that are bought for each that is picked."""
SHARE = 0.1
"""Of real pictures, where a thief has some."""
ACCOUNTS = 10


VICTIM = GanSettings(steps=2_000, lr=2e-3)
CLONE = GanSettings(steps=9000, batch=32, width=16, discriminator_width=16)


@dataclass(frozen=True, slots=True)
class Size:
    """How large the bench is: pictures a side, updates of victims and clones, pictures shown to the owner.

    Of the real pictures the victim has the first ``learned`` ones, a thief who has some those from ``known`` on; what
    is ``compared`` comes after.
    """

    budgets: Sequence[int] = BUDGETS
    compared: int = 5_000
    learned: int = 20_000
    known: int = 30_000
    unseen: int = 50_000
    victim: GanSettings = VICTIM
    clone: GanSettings = CLONE
    shown: Sequence[int] = (64, 128, 256, 512, 1_000, 2_000)
    chains: int = 1_000

    @property
    def largest(self) -> int:
        """The budget at which defenses are tried."""
        return max(self.budgets)


FULL = Size()
SMALL = Size(
    budgets=(64, 256),
    compared=128,
    learned=512,
    known=600,
    unseen=1_000,
    victim=GanSettings(steps=20, width=4, discriminator_width=4, batch=16),
    clone=GanSettings(steps=10, width=4, discriminator_width=4, batch=16),
    shown=(32, 64),
    chains=16,
)


@dataclass(frozen=True, slots=True)
class Thief:
    """What one thief does otherwise than the plain one.

    ``real`` and ``leaked`` are knowledge; ``accounts`` are clients with payers of their own, asked in turn or,
    ``together``, all of them each row; ``attack`` are settings of the theft.
    """

    attack: Mapping[str, Any] = field(default_factory=dict)
    real: bool = False
    leaked: bool = False
    accounts: int = 1
    together: bool = False


def washing(*washes: tuple[str, float]) -> Thief:
    """A thief who washes."""
    return Thief(
        {"washing": tuple(Wash.model_validate({"how": h, "strength": s}) for h, s in washes)}
    )


THIEVES: Mapping[str, Thief] = {
    "plain": Thief(),
    "real share": Thief({"real_share": SHARE}, real=True),
    "leaked discriminator": Thief(real=True, leaked=True),
    "jpeg 70": washing(("jpeg", 70)),
    "blur 0.7": washing(("blur", 0.7)),
    "median 3": washing(("median", 3)),
    "autoencoder": washing(("autoencoder", 1)),
    "black 0.05": washing(("black", 0.05)),
    "residue 16": washing(("residue", 16)),
    "10 accounts": Thief(accounts=ACCOUNTS),
    "10 accounts, mean": Thief(accounts=ACCOUNTS, together=True),
    "another architecture": Thief({"architecture": "wgan", "settings": {"width": 32}}),
}
UNDEFENDED, MARKED = "none", "watermark"
MARKED_THIEVES = ("plain", "jpeg 70", "blur 0.7", "another architecture")
"""Whose copies of marked pictures are claimed to be proven."""
INPUTS = ("linear_interpolation", "semantic_interpolation", "latent_budget")
FEW = ("linear_interpolation 100", "semantic_interpolation 30", "latent_budget 100")
IN_DOTS = {"masking": 0, "sparse": 1.1, "client_share": 0.15}
"""Of the mark, as docs/watermark.md advises for pictures that are drawn on most of their pixels."""
FAINT = ("gaussian_noise", "blur", "jpeg")


def classifier_of(family: str) -> Path:
    """The weights of the shipped classifier of a family of pictures."""
    return CLASSIFIERS / f"{family.removesuffix('-test')}-lenet.safetensors"


def defense(name: str, family: str, size: Size) -> tuple[Mapping[str, Any], ...]:
    """Settings of the plug-ins of a defense, before a victim of a family of pictures.

    A name may end with the number of anchors, as `FEW` do; a tenth of the largest budget without.
    """
    kind, _, number = name.partition(" ")
    anchors = int(number or max(2, size.largest // ANCHORS))
    settings: Mapping[str, Mapping[str, Any]] = {
        "linear_interpolation": {"anchors": anchors},
        "semantic_interpolation": {"anchors": anchors},
        "latent_budget": {"latents": anchors},
        "gaussian_noise": {"sigma": 0.001},
        "blur": {"sigma": 0.4},
        "jpeg": {"quality": 85},
        "adversarial_noise": {"classifier": classifier_of(family)},
        MARKED: IN_DOTS if family == "fashion" else {},
    }
    return () if name == UNDEFENDED else ({"type": kind} | dict(settings.get(kind, {})),)


@dataclass(frozen=True, slots=True)
class Case:
    """One theft."""

    family: str
    seed: int
    defense: str
    thief: str
    budget: int

    @property
    def about(self) -> dict[str, Any]:
        """What its record begins with."""
        return {
            "victim": self.family,
            "seed": self.seed,
            "defense": self.defense,
            "thief": self.thief,
            "budget": self.budget,
        }


def cases(families: Sequence[str], seeds: Sequence[int], size: Size) -> Iterator[Case]:
    """What is claimed, each on all seeds, the most telling first; then what one seed has to do for."""
    for family in families:
        for part, tried in ((_claims(size), seeds), (_once(size), seeds[:1])):
            for name, thief, budget in part:
                for seed in tried:
                    yield Case(family, seed, name, thief, budget)


Met = tuple[str, str, int]
"""A defense, a thief and a budget."""


def _claims(size: Size) -> list[Met]:
    least, *between, largest = sorted(size.budgets)
    met = [(name, "plain", largest) for name in (UNDEFENDED, FEW[0])]
    met += [(UNDEFENDED, "plain", least), (UNDEFENDED, "leaked discriminator", largest)]
    met += [(UNDEFENDED, "plain", budget) for budget in between]
    met += [(name, "plain", largest) for name in (INPUTS[0], FEW[1], *FAINT)]
    return met + [(MARKED, thief, largest) for thief in MARKED_THIEVES]


def _once(size: Size) -> list[Met]:
    met = [(name, "plain") for name in ("adversarial_noise", FEW[2])]
    met += [(UNDEFENDED, "real share"), (FEW[0], "10 accounts")]
    washed = ("black 0.05", "residue 16", "autoencoder", "median 3")
    met += [(MARKED, thief) for thief in (*washed, "10 accounts, mean")]
    return [(name, thief, size.largest) for name, thief in met]
