"""Other settings of the display, with what each leaves to people and to the thief of ten probes."""

from collections.abc import Mapping, Sequence

from defenses.explanation_decoy import ExplanationDecoy
from defenses.explanation_display import ExplanationDisplay
from defenses.explanation_smooth import ExplanationSmooth
from defenses.explanation_top_k import ExplanationTopK
from mantlet.plugin import Defense
from redteam.attacks.megex import Megex
from redteam.client.oracle import InProcess
from redteam.explanations.cosines import cosine
from redteam.explanations.explainable import network, served
from redteam.explanations.people import drawn_task, for_people
from redteam.judging import Record
from redteam.pools import SHAPE, Pools

DISPLAY = ExplanationDisplay()
FLAT = ExplanationDisplay(cell=256)
"""One cell, which is always 1: what probes gain by it they gain without any map, by the generator's activation."""
GAMMA = 0.25
SETTINGS: Mapping[str, Sequence[Defense]] = {
    "no map at all": (FLAT,),
    "the default: cells of 4, 4 bits, gamma 0.5": (DISPLAY,),
    f"gamma {GAMMA}": (ExplanationDisplay(gamma=GAMMA),),
    "2 bits": (ExplanationDisplay(bits=2),),
    "1 bit": (ExplanationDisplay(bits=1),),
    f"1 bit, gamma {GAMMA}": (ExplanationDisplay(bits=1, gamma=GAMMA),),
    "cells of 5": (ExplanationDisplay(cell=5),),
    "cells of 7": (ExplanationDisplay(cell=7),),
    "cells of 7, 1 bit": (ExplanationDisplay(cell=7, bits=1),),
    "a third of cells of 7, `explanation_top_k`": (ExplanationTopK(),),
    "`explanation_smooth` before": (ExplanationSmooth(), DISPLAY),
    "`explanation_decoy` before": (ExplanationDecoy(), DISPLAY),
}


def searched(pools: Pools, victims: Sequence[str]) -> list[Record]:
    """Each setting's measures for people, and the cosine of ten probes that it weighs."""
    return [
        {
            "setting": name,
            "people": [for_people(pools, one, defenses) for one in victims]
            + [drawn_task(defenses)],
            "as_shown": round(ten(defenses), 4),
            "undone": round(ten(defenses, _gamma(defenses)), 4),
        }
        for name, defenses in SETTINGS.items()
    ]


def ten(defenses: Sequence[Defense], gamma: float = 1.0) -> float:
    """Cosine with the gradient, on the MNIST model, of a thief who takes the shown map to the power 1 / ``gamma``."""
    attack = Megex(classes="top", reading="magnitude", directions=10, gamma=gamma, recheck=0)
    oracle = InProcess(served("mnist", defenses=defenses))
    return cosine(attack, oracle, network("mnist"), shape=SHAPE)


def _gamma(defenses: Sequence[Defense]) -> float:
    last = defenses[-1]
    return last.gamma if isinstance(last, ExplanationDisplay) else 1.0
