"""What it takes to steal a model that enlarges pictures, and what each defense does to copy and client.

Run as: python -m redteam.translation.bench --data FOLDER --work FOLDER --out docs/results/i2i.json
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import torch
from torch import Tensor, nn

from defenses import high_band_dither
from defenses.band_limit import BandLimit, smoothed
from defenses.blur import Blur
from defenses.high_band_dither import HighBandDither
from defenses.jpeg import Jpeg
from defenses.watermark.carriers import MarkKey
from defenses.watermark.defense import Watermark
from defenses.watermark.detection import detect
from mantlet import architectures, likeness, sheets, translation_training, weights
from mantlet.errors import ConfigError
from mantlet.plugin import Defense, Setup
from mantlet.translation_training import Pairs, TranslateRecipe, translated
from mantlet.types import Kind, Prediction, Query
from redteam.attacks.translation import I2i, PictureMeans
from redteam.attacks.wavelets import high_band_error
from redteam.detection.streams import as_inputs
from redteam.measures import rounded
from redteam.pools import Pools, arguments
from redteam.translation.floors import floors

SECRET = b"the bench's own secret"
DOMAINS = ("cifar", "fashion")
"""The thief's pictures: of another domain, and of the victim's but not those it was trained on."""
BUDGETS = (100, 2000, 8000)
FEWEST = 100
"""Budget at which the plain attack alone is run: what copies rise from."""
TESTED = 1000
"""Test pictures on which copies and served pictures are measured."""
LOOKED_AT = 200
"""Pictures of a suspect that the tests for marks see."""
JUDGED = 500
"""Pairs on which the evenness of a copy's loss is measured."""
ALARMED = FEWEST
"""Pictures that a thief has before it counts as suspected, in rows where defenses wait for that."""
TRUTHS = {"fashion": 1, "cifar": 4}
"""Seeds of networks that know nothing of the victim, trained on the truth of a thief's pictures."""
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"wavelet": 0.0},
    "wavelet": {},
    "wavelet, 4 times": {"wavelet": 0.6},
    "sam": {"wavelet": 0.0, "sam": "late"},
    "wavelet and sam": {"sam": "late"},
}
"""Attacks by what of Mi et al. is switched on."""


@dataclass(frozen=True, slots=True)
class Shield:
    """Defenses of one row of the table.

    With ``suspected`` they act on clients that are suspected, and honest ones get clean pictures.
    ``undone`` is a thief who knows the one filter, and inverts it before it learns; ``behind`` one who puts it
    behind its clone while it learns; ``stops`` one who is content with what it has when it is suspected;
    ``diluted`` one who has the
    truth of its own pictures, and learns half of them from that; ``measured`` one who trains a network on that truth, fits
    the dither's filter to what the answers differ in from that network's, and takes it off. In copies of ``marked`` answers marks are looked
    for. ``seeds`` are the most that are run.
    """

    defenses: Sequence[Defense]
    suspected: bool = False
    undone: bool = False
    behind: BandLimit | None = None
    stops: bool = False
    diluted: bool = False
    measured: bool = False
    marked: bool = False
    seeds: int = 3


EXAGGERATED, TWISTED = BandLimit(details=1.45), BandLimit(details=2.5)
SHIELDS: Mapping[str, Shield] = {
    "none": Shield([], marked=True, seeds=1),
    "high_band_dither": Shield([HighBandDither()], marked=True),
    "high_band_dither, diluted": Shield([HighBandDither()], diluted=True, marked=True, seeds=1),
    "high_band_dither, measured": Shield([HighBandDither()], measured=True, marked=True),
    "watermark": Shield([Watermark()], marked=True),
    "band_limit 1.45": Shield([EXAGGERATED]),
    "band_limit 1.45, undone": Shield([EXAGGERATED], undone=True),
    "band_limit 1.45, filter in the loss": Shield([EXAGGERATED], behind=EXAGGERATED),
    "band_limit 2.5, suspected": Shield([TWISTED], suspected=True),
    "band_limit 2.5, suspected, filter in the loss": Shield(
        [TWISTED], suspected=True, behind=TWISTED
    ),
    "band_limit 2.5, suspected, stops then": Shield([TWISTED], suspected=True, stops=True),
    "jpeg 85": Shield([Jpeg(quality=85)], seeds=1),
    "jpeg 60": Shield([Jpeg(quality=60)], seeds=1),
    "blur 0.4": Shield([Blur(sigma=0.4)], seeds=1),
    "blur 0.8": Shield([Blur(sigma=0.8)], seeds=1),
}


@dataclass(frozen=True, slots=True)
class Bench:
    """Where pictures and results are, and how much is run."""

    pools: Pools
    work: Path
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    defended: int = 3
    budgets: Sequence[int] = BUDGETS
    steps: int = 3000
    victim_steps: int = 2500
    tested: int = TESTED
    say: Callable[[str], None] = print
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, int | float | str | bool]:
        """Of the victim's network and of every copy."""
        return {"scale": 2, "width": 16, "depth": 1}

    def pairs(self, name: str) -> Pairs:
        """``cifar``, ``fashion`` (the thief's half), ``own`` (the victim's half) and ``test``."""
        if name not in self.kept:
            family = "cifar" if name == "cifar" else "fashion"
            pictures = as_inputs(self.pools.pictures(family, "test" if name == "test" else "train"))
            half = len(pictures) // 2
            if name in ("own", "fashion"):
                pictures = pictures[:half] if name == "own" else pictures[half:]
            count = self.tested if name == "test" else 25_000
            self.kept[name] = translation_training.made(pictures[:count], "enlarge", 2)
        pairs: Pairs = self.kept[name]
        return pairs

    def network(self, data: str, seed: int) -> nn.Module:
        """One trained on the truth; ``own`` with seed 0 is the victim, the others know nothing of it."""
        path = self.work / f"truth-{data}-{seed}.safetensors"
        recipe = TranslateRecipe(
            kind="translate",
            settings=dict(self.settings),
            steps=self.victim_steps,
            crop=28,
            seed=seed,
            output=path,
        )
        if not path.is_file():
            self.say(f"training {path.stem}")
            weights.save(translation_training.fit(recipe, self.pairs(data)), path, {"data": data})
        network = architectures.build(recipe.architecture, recipe.settings)
        weights.load_into(network, path, recipe.architecture)
        return network.eval()

    def answers(self, name: str) -> Tensor:
        """The victim's clean pictures of ``pairs(name)``; of a pool the first that a budget may need."""
        key = f"answers {name}"
        if key not in self.kept:
            given = self.pairs(name).given[: max(self.budgets)]
            self.kept[key] = translated(self.network("own", 0), given)
        found: Tensor = self.kept[key]
        return found


class Clean:
    """An oracle that looks up what the victim made of the rows of a pool, in 8 bits."""

    def __init__(self, given: Tensor, answers: Tensor, serve: Callable[[Tensor], Tensor]) -> None:
        self._place = {row.numpy().tobytes(): at for at, row in enumerate(given)}
        self._answers, self._serve = answers, serve
        self.rows = self.floats = 0

    def query(self, inputs: Tensor) -> Tensor:
        """(B, C, s H, s W) of rows of the pool."""
        places = [self._place[row.numpy().tobytes()] for row in inputs]
        served = self._serve(self._answers[places])
        self.rows += len(inputs)
        self.floats += served.numel()
        return served


def serving(shield: Shield) -> Callable[[Tensor], Tensor]:
    """What a client receives of clean (B, C, H, W) pictures, rounded as a PNG is."""
    for defense in shield.defenses:
        defense.load(Setup(torch.device("cpu"), SECRET, model="bench"))

    def serve(pictures: Tensor) -> Tensor:
        query = Query(["client"] * len(pictures), pictures, 0.0)
        answer = Prediction(pictures, Kind.IMAGES)
        for defense in shield.defenses:
            answer = defense(answer, query, {})
        return (answer.values * 255).round() / 255

    return serve


def main() -> None:
    """Run what is not yet in the work folder, and write the records."""
    parser = arguments(__doc__, "i2i")
    parser.add_argument("--picture", type=Path, help="where the picture of copies goes")
    parser.add_argument("--seeds", type=int, default=5, help="thieves; three of them meet defenses")
    asked = parser.parse_args()
    try:
        asked.work.mkdir(parents=True, exist_ok=True)
        bench = Bench(Pools(asked.data), asked.work, range(asked.seeds))
        found = measure(bench)
    except ConfigError as error:
        parser.error(str(error))
    asked.out.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
    if asked.picture:
        picture(bench).save(asked.picture)


def measure(bench: Bench) -> dict[str, Any]:
    """Everything: the ``victim``, ``attacks`` on it, ``defenses`` by what is served and copied, ``independent``."""
    test, clean = bench.pairs("test"), bench.answers("test")
    large = nn.functional.interpolate(test.given, scale_factor=2, mode="bicubic").clamp(0, 1)
    found: dict[str, Any] = {
        "setting": {
            "steps": bench.steps,
            "settings": dict(bench.settings),
            "tested": len(test),
            "looked_at": LOOKED_AT,
            "alarmed_after": ALARMED,
        },
        "victim": {
            "truth": _decibels(clean, test.wanted),
            "bicubic": _decibels(large, test.wanted),
        },
        "independent": [
            _alone(bench, data, seed)
            for data, seed in (("fashion", 1), ("fashion", 2), ("own", 3), ("cifar", 4))
        ],
        "served": [_served(bench, name, shield) for name, shield in SHIELDS.items()],
    }
    attacks, defended = [], []
    for seed in bench.seeds:  # seed by seed, so that a run that stops has all of some
        for domain in DOMAINS:
            for budget in bench.budgets:
                for variant in _variants(bench, budget, seed):
                    attacks.append(_attack(bench, (domain, budget, variant, seed)))
            for name, shield in SHIELDS.items():
                if seed < min(shield.seeds, bench.defended):
                    defended.append(_defended(bench, (name, domain, seed)))
    found |= {"attacks": attacks, "defenses": defended}
    return found | {"floors": floors(found)}


def _variants(bench: Bench, budget: int, seed: int) -> Sequence[str]:
    """Which attacks are run: the slow ones only by some seeds, with the largest budget."""
    if budget <= FEWEST:
        return ("plain",) if seed < bench.defended else ()
    slow = budget == max(bench.budgets) and seed < bench.defended
    return list(VARIANTS) if slow else ("plain", "wavelet")


def _cell(bench: Bench, key: str, run: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """What ``run`` gives, kept under its key and the updates of a copy in the work folder."""
    path = bench.work / f"{key}-{bench.steps}.json"
    if not path.is_file():
        path.write_bytes(orjson.dumps(run()))
        bench.say(f"{key}: {path.read_text()}")
    found: Mapping[str, Any] = orjson.loads(path.read_bytes())
    return found


def _attack(bench: Bench, which: tuple[str, int, str, int]) -> Mapping[str, Any]:
    """One copy of the undefended victim."""
    domain, budget, variant, seed = which

    def run() -> Mapping[str, Any]:
        attack = I2i(steps=bench.steps, basis="haar", **VARIANTS[variant])
        answers = bench.answers(domain)[:JUDGED]
        given = bench.pairs(domain).given[: len(answers)]
        learned, made = _copied(bench, attack, domain, Shield([]), budget, seed)
        told = {"domain": domain, "budget": budget, "variant": variant, "seed": seed}
        error = high_band_error(made, bench.answers("test"), basis="haar", levels=2)
        scores = _scores(bench, made) | {"high_band": float(error)}
        scores |= _unevenness(learned, given, answers)
        return told | rounded(scores, 6)

    key = f"attack-{domain}-{budget}-{variant}-{seed}".replace(" ", "_").replace(",", "")
    return _cell(bench, key, run)


def _copied(
    bench: Bench, attack: I2i, domain: str, shield: Shield, budget: int, seed: int
) -> tuple[nn.Module, Tensor]:
    """A copy, and what it makes of the test pictures."""
    given, answers = bench.pairs(domain).given[: max(bench.budgets)], bench.answers(domain)
    serve, free = serving(shield), serving(Shield([]))

    def as_suspected(pictures: Tensor) -> Tensor:
        early = max(0, ALARMED - oracle.rows) if shield.suspected else 0
        parts = ((free, pictures[:early]), (serve, pictures[early:]))
        served = torch.cat([give(part) for give, part in parts if len(part)])
        return _undone(served, EXAGGERATED) if shield.undone else served

    oracle = Clean(given, answers, as_suspected)
    means = PictureMeans(given, settings=bench.settings)
    generator = torch.Generator().manual_seed(seed)
    if shield.diluted or shield.measured:
        given = given[:budget]
        wanted = torch.cat([serve(part) for part in torch.split(answers[:budget], 500)])
        if shield.diluted:
            wanted[::2] = bench.pairs(domain).wanted[: len(wanted) : 2]
        else:
            wanted = _taken_off(wanted, translated(bench.network(domain, TRUTHS[domain]), given))
        clone = attack.learn(given, wanted, means, generator)
    else:
        clone = attack.run(oracle, means, budget=budget, generator=generator).clone
    return clone, translated(clone, bench.pairs("test").given)


def _taken_off(pictures: Tensor, alone: Tensor) -> Tensor:
    """Pictures before `HighBandDither`, its signs fitted beside what another network made of the same inputs."""
    dither, signs = HighBandDither(), high_band_dither.fitted(pictures, alone).sign().float()
    found = pictures
    for _ in range(3):
        changes = [dither.change(part, signs) for part in torch.split(found, 500)]
        found = (pictures - torch.cat(changes)).clamp(0, 1)
    return found


def _undone(pictures: Tensor, known: BandLimit) -> Tensor:
    """Pictures before `BandLimit`, by fixed-point iteration; clipping is lost."""
    found = pictures
    for _ in range(10):
        found = (pictures + (known.details - 1) * smoothed(found, known.sigma)) / known.details
    return found.clamp(0, 1)


def _defended(bench: Bench, which: tuple[str, str, int]) -> Mapping[str, Any]:
    """One copy of the victim behind a shield, by the attack with the wavelet term and the largest budget.

    Who stops has the copy of the plain attack with the pictures that came before.
    """
    name, domain, seed = which
    told = {"defense": name, "domain": domain, "seed": seed}
    if SHIELDS[name].stops:
        early = _attack(bench, (domain, ALARMED, "plain", seed))
        return told | {score: early[score] for score in ("clone_victim", "clone_truth")}

    def run() -> Mapping[str, Any]:
        attack = I2i(steps=bench.steps, basis="haar", behind=SHIELDS[name].behind)
        made = _copied(bench, attack, domain, SHIELDS[name], max(bench.budgets), seed)[1]
        served = serving(SHIELDS[name])(bench.answers("test"))
        scores = _scores(bench, made) | {"clone_served": _decibels(made, served)}
        marks = _marks(bench, made) if SHIELDS[name].marked else {}
        return told | rounded(scores, 4) | marks

    key = f"defense-{name}-{domain}-{seed}".replace(" ", "_").replace(",", "")
    return _cell(bench, key, run)


def _served(bench: Bench, name: str, shield: Shield) -> Mapping[str, Any]:
    """What the victim's own clients get: beside the truth, and beside the clean pictures."""
    clean, truth = bench.answers("test"), bench.pairs("test").wanted
    served = serving(Shield([]) if shield.suspected else shield)(clean)
    alike = likeness.ssim(served, clean)
    scores = {
        "truth": _decibels(served, truth),
        "victim": _decibels(served, clean),
        "victim_least": float(likeness.psnr(served, clean).min()),
        "similarity": float(alike.mean()),
        "similarity_least": float(alike.min()),
    }
    return {"defense": name, **rounded(scores, 4), **_marks(bench, served)}


def _scores(bench: Bench, made: Tensor) -> dict[str, float]:
    """dB of a copy's pictures to the clean victim's and to the truth, on the victim's domain."""
    return {
        "clone_victim": _decibels(made, bench.answers("test")),
        "clone_truth": _decibels(made, bench.pairs("test").wanted),
    }


def _marks(bench: Bench, made: Tensor) -> dict[str, float]:
    """p-values of both marks in the first pictures of a suspect."""
    clean = bench.answers("test")[:LOOKED_AT]
    suspect = (made[:LOOKED_AT] * 255).round() / 255
    return {
        "p_dither": high_band_dither.found(suspect, clean, SECRET),
        "p_watermark": detect(suspect, MarkKey(SECRET, "bench"), whole=(28, 28)).p,
    }


def _alone(bench: Bench, data: str, seed: int) -> Mapping[str, Any]:
    """A network that was trained on the truth and knows nothing of the victim."""

    def run() -> Mapping[str, Any]:
        made = translated(bench.network(data, seed), bench.pairs("test").given)
        told = {"data": data, "seed": seed}
        return told | rounded(_scores(bench, made), 4) | _marks(bench, made)

    return _cell(bench, f"independent-{data}-{seed}", run)


def _unevenness(clone: nn.Module, given: Tensor, wanted: Tensor) -> dict[str, float]:
    """By how much of itself the L1 loss on pairs rises under noise on all weights, of 1 % and of 5 %."""
    before = float((translated(clone, given) - wanted).abs().mean())
    found = {}
    for percent in (1, 5):
        rises = []
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            moved = copy.deepcopy(clone)
            for weight in moved.parameters():
                drawn = torch.randn(weight.shape, generator=generator)
                size = float(weight.detach().square().mean().sqrt())
                weight.data += percent / 100 * size * drawn
            after = float((translated(moved, given) - wanted).abs().mean())
            rises.append(after / before - 1)
        found[f"rise_{percent}"] = sum(rises) / len(rises)
    return found


def _decibels(pictures: Tensor, wanted: Tensor) -> float:
    return float(likeness.psnr(pictures, wanted).mean())


def picture(bench: Bench, count: int = 10) -> Any:
    """Rows: what was given, the truth, what is served by three shields, and what their copies make of it."""
    given, clean = bench.pairs("test").given[:count], bench.answers("test")[:count]
    rows = [nn.functional.interpolate(given, scale_factor=2), bench.pairs("test").wanted[:count]]
    for name in ("", "high_band_dither", "band_limit 1.45"):
        shield = SHIELDS.get(name, Shield([]))
        attack = I2i(steps=bench.steps, basis="haar")
        made = _copied(bench, attack, "fashion", shield, max(bench.budgets), 0)[1]
        rows += [serving(shield)(clean), made[:count]]
    sheet = sheets.contact_sheet(torch.cat(rows), columns=count)
    return sheet.resize((2 * sheet.width, 2 * sheet.height), 0)


if __name__ == "__main__":
    main()
