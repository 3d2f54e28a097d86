"""The bench of generators: how good a copy is against each defense, and whether it shows the mark.

Run as: python -m redteam.gan.bench --data FOLDER --out docs/results/gan.json
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson
import torch
from rich.progress import track
from torch import Tensor

from defenses.watermark.carriers import MarkKey
from defenses.watermark.detection import detect
from mantlet.errors import ConfigError
from mantlet.fidelity import coverage, fidelity, frechet
from mantlet.gan_training import drawn
from redteam.attacks.gan import ByLatents, GanTheft, Knowledge
from redteam.client.accounts import Split, Together
from redteam.client.oracle import InProcess, Oracle
from redteam.gan import sheets
from redteam.gan.cases import (
    FULL,
    MARKED,
    PICKED,
    SMALL,
    THIEVES,
    UNDEFENDED,
    Case,
    Size,
    Thief,
    cases,
)
from redteam.gan.cost import chain_cost
from redteam.gan.floors import missed
from redteam.gan.house import Bench, House
from redteam.judging import Record
from redteam.pools import Pools, arguments
from serving import logs

SEEDS = (0, 1, 2)
FAMILIES = ("mnist", "fashion", "mnist-test")
MARKED_API = "the API, marked"
CLIENTS = 250
"""Honest clients who share the pictures whose utility is measured."""
SHOWN = 36
"""Pictures on a sheet."""


def main() -> None:
    """Run the cases whose records are not yet in the file, and write it after each."""
    parser = arguments(__doc__, "gan")
    parser.add_argument(
        "--picture", type=Path, help="where the sheets are drawn; beside the results"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES[:1])
    parser.add_argument("--smoke", action="store_true", help="few pictures, short training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logs.configure("error")
    bench = Bench(Pools(given.data), given.work, SMALL if given.smoke else FULL)
    try:
        run(bench, list(cases(given.families, given.seeds, bench.size)), given.out)
        sheets.draw(bench.work / "sheets", given.picture or given.out.with_suffix(".png"))
    except ConfigError as error:
        parser.error(str(error))


def run(bench: Bench, wanted: Sequence[Case], out: Path) -> None:
    """Records of the cases; those that the file has already are kept, and its floors are judged anew."""
    found = orjson.loads(out.read_bytes()) if out.is_file() else {}
    records: list[Record] = found.get("records", [])
    costs: Mapping[str, Any] = found.get("cost", {})
    houses: dict[tuple[str, int], House] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    left = [case for case in wanted if not any(case.about.items() <= r.items() for r in records)]
    for case in track(left, "generators"):
        key = case.family, case.seed
        house = houses.setdefault(key, House(bench, *key))
        costs = costs or chain_cost(house)
        told = {r["model"] for r in records if (r["victim"], r["seed"]) == key}
        if MARKED_API not in told:
            records += controls(house)
        records.append(measured(house, case))
        out.write_bytes(written(records, costs, bench.size))
    if records:  # what is missed is judged anew
        out.write_bytes(written(records, costs, bench.size))


def written(records: Sequence[Record], costs: Mapping[str, Any], size: Size) -> bytes:
    """The file of results."""
    whole = {
        "settings": {
            "victim": size.victim.model_dump(),
            "clone": size.clone.model_dump(),
            "compared": size.compared,
            "learned": size.learned,
        },
        "records": records,
        "cost": costs,
        "missed": missed(records, costs, size.largest),
    }
    return orjson.dumps(whole, option=orjson.OPT_INDENT_2) + b"\n"


def measured(house: House, case: Case) -> Record:
    """Steal, and compare the clone with the victim, with real pictures, and with the owner's key."""
    size, thief, start = house.bench.size, THIEVES[case.thief], perf_counter()
    generator = torch.Generator().manual_seed(100 * case.seed + 7)
    settings: Mapping[str, Any] = {"training": size.clone, "chains": size.chains}
    source = ByLatents(_oracle(house, case, thief), size.victim.latent, generator)
    haul = GanTheft.model_validate({**settings, **thief.attack}).run(
        source,
        budget=case.budget * (PICKED if thief.leaked else 1),
        generator=generator,
        knowledge=_knowledge(house, thief),
    )
    latents = torch.randn(
        size.compared, size.clone.latent, generator=torch.Generator().manual_seed(5)
    )
    made = drawn(haul.clone.generator, latents)
    sheets.keep(house.bench.work / "sheets", case, house.clean[:SHOWN], made[:SHOWN])
    return (
        case.about
        | {"model": "clone", "rows": source.rows, "pictures": len(haul.pictures)}
        | likeness(house, made)
        | utility(house, case.defense)
        | {"p": evidence(house, made)}
        | {"seconds": round(perf_counter() - start, 1)}
    )


def controls(house: House) -> list[Record]:
    """What the key says of what never learned from marked pictures: the victim, and real pictures."""
    about = {"victim": house.family, "seed": house.seed, "defense": UNDEFENDED}
    real = house.unseen
    marked = house.asked(MARKED, seed=3)
    shown = {
        "victim": house.clean,
        "real pictures": real,
        MARKED_API: marked,
    }
    return [about | {"model": name, "p": evidence(house, made)} for name, made in shown.items()]


def _oracle(house: House, case: Case, thief: Thief) -> Oracle:
    pipeline = house.served(case.defense)
    accounts = [InProcess(pipeline, client=f"thief {n}") for n in range(thief.accounts)]
    return Together(accounts) if thief.together else Split(accounts)


def _knowledge(house: House, thief: Thief) -> Knowledge:
    if not thief.real:
        return Knowledge()
    real = house.real(house.bench.size.known, house.bench.size.compared)
    return Knowledge(real, house.gan.discriminator if thief.leaked else None)


def likeness(house: House, made: Tensor) -> Record:
    """How alike the clone's pictures are to the clean API's, and to real ones."""
    features = house.features(made)
    victim = fidelity(house.clean_features, features)
    return {
        "fid_clone_victim": round(victim.fid, 3),
        "fid_clone_real": round(frechet(house.compared, features), 3),
        "coverage": round(victim.coverage, 4),
        "density": round(victim.density, 4),
        "coverage_real": round(coverage(house.compared, features), 4),
    }


def utility(house: House, name: str) -> Record:
    """What one client alone, and many together, are served, compared with real pictures and with the clean API's.

    ``fid_served_victim`` and ``coverage_served`` are those of a thief who does nothing but repeat what he was served;
    without a defense, of the model's own pictures for other latents.
    """
    if name not in house.utilities:
        house.utilities[name] = _utility(house, name)
    return house.utilities[name]


def _utility(house: House, name: str) -> dict[str, float | None]:
    served = [house.asked(name, seed=2, clients=clients) for clients in (1, CLIENTS)]
    one, many = (house.features(pictures) for pictures in served)
    clean = house.asked(UNDEFENDED, seed=2)
    changed = (served[0] - clean).square().mean(dim=(1, 2, 3)).mean()
    psnr = float(-10 * changed.log10()) if changed > 0 else None
    return {
        "fid_served_real": round(frechet(house.compared, one), 3),
        "fid_served_real_many": round(frechet(house.compared, many), 3),
        "fid_served_victim": round(frechet(house.clean_features, one), 3),
        "coverage_served": round(coverage(house.clean_features, one), 4),
        "psnr": psnr and round(psnr, 2),
    }


def evidence(house: House, made: Tensor) -> Mapping[str, float]:
    """The p-value of the owner's key, by how many of the pictures are shown."""
    key = MarkKey(house.secret, house.family)
    return {str(count): detect(made[:count], key).p for count in house.bench.size.shown}


if __name__ == "__main__":
    main()
