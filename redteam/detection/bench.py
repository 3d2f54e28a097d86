"""The detection bench: who is alarmed, after how many rows, and which honest client ever is.

Run as: python -m redteam.detection.bench --data FOLDER --work FOLDER --out docs/results/detection.json
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from rich.progress import Progress

import detectors
from mantlet.data import load_images
from mantlet.errors import ConfigError
from mantlet.plugin import Detector
from redteam import others
from redteam.detection import cost
from redteam.detection.folding import trace
from redteam.detection.scenarios import FULL, HELD_OUT, SMALL, Scenario, Size
from redteam.detection.simulation import ever_alarmed
from redteam.detection.streams import Stream
from redteam.judging import Record, curve, judged, lines, linked
from redteam.pools import Pools, arguments
from serving import build, calibration, campaigns, logs, settings
from serving.calibrating import calibrate_model
from serving.folding import Memory
from serving.pipeline import Pipeline
from serving.policy import Level
from serving.victims.torch import TorchVictim

ROOT = Path(__file__).parents[2]
DEFAULT = ROOT / "configs/gateway/default.yaml"
FASHION = ROOT / "configs/recipes/fashion-lenet.yaml"
VICTIMS = ("mnist", "fashion")
SEEDS = (0, 1, 2)
ALPHA = 1e-4
"""Where honest clients are counted; thieves are counted at the alpha of the config."""
LEVELS = (Level(name="normal"), Level(name="alarmed", alarm=True))
PUBLISHED = {
    "type": "prada",
    "persistence": 1,
    "space": "inputs",
    "dimensions": 0,
    "capacity": 5_000,
    "window": 5_000,
    "leading_zero": True,
}
"""PRADA with the settings of its code, whose memory of a client is all that the client sent here."""
DELTAS = {"prada-published": 0.9, "prada-0.96": 0.96}
"""The threshold of its code, and the one that is attributed to the paper for MNIST."""
PUBLISHED_CLIENTS = 20
PUBLISHED_ROWS = 1_000
Found = Mapping[str, list[Record]]
"""``records``, and ``curves`` for the pictures."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the bench reads and keeps its things, and how much it runs."""

    pools: Pools
    work: Path
    size: Size = FULL
    seeds: Sequence[int] = SEEDS
    victims: Sequence[str] = VICTIMS
    development: bool = False


def main() -> None:
    """Run what is not yet in the work folder, and write the records of everything."""
    parser = arguments(__doc__, "bench")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS)
    parser.add_argument("--development", action="store_true", help="keep off all test data")
    parser.add_argument("--smoke", action="store_true", help="few clients, short streams")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logs.configure("error")
    bench = Bench(
        Pools(given.data),
        given.work,
        SMALL if given.smoke else FULL,
        given.seeds,
        given.victims,
        given.development,
    )
    try:
        found = run(bench)
    except ConfigError as error:
        parser.error(str(error))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(lines(found["records"]))
    for part in ("curves", "cost"):
        given.out.with_name(f"{given.out.stem}-{part}.json").write_bytes(lines(found[part]))


def run(bench: Bench) -> Found:
    """Every victim, seed and stream."""
    found: dict[str, list[Record]] = {"records": [], "curves": [], "cost": []}
    for victim in bench.victims:
        chain(bench, victim)  # trains and calibrates, with a bar of its own
    with Progress(transient=True) as bar:
        for victim in bench.victims:
            pipeline = chain(bench, victim)
            for seed in bench.seeds:
                scenario = Scenario(
                    victim,
                    pipeline.victim,
                    bench.pools,
                    bench.work,
                    seed,
                    bench.size,
                    bench.development,
                )
                streams = len(scenario.honest) + len(scenario.hostile) + len(scenario.campaigns)
                task = bar.add_task(f"{victim}, seed {seed}", total=streams)
                for part in _measured(bench, pipeline, scenario, partial(bar.advance, task)):
                    found["records"] += part["records"]
                    found["curves"] += part["curves"]
            if victim == bench.victims[0]:
                found["cost"] = cost.measured(pipeline, scenario.honest["natural"]())
                found["records"] += _simulated(bench, pipeline)
            pipeline.victim.close()
    return found


def _simulated(bench: Bench, pipeline: Pipeline) -> list[Record]:
    return ever_alarmed(
        pipeline.fold.evidence,
        np.concatenate([detector.tolerated("default") for detector in pipeline.fold.tested]),
        (ALPHA, 0.01),
        clients=bench.size.simulated,
        rows=bench.size.rows,
        rng=np.random.default_rng(0),
    )


def chain(bench: Bench, victim: str, chosen: Sequence[Mapping[str, Any]] = ()) -> Pipeline:
    """The shipped default's detectors before a victim, or ``chosen`` ones by their settings."""
    own = _settings(bench, victim, chosen)
    return build.load_pipeline(victim, own.models[victim], own)


def _settings(
    bench: Bench, victim: str, chosen: Sequence[Mapping[str, Any]] = ()
) -> settings.Settings:
    """The shipped default for a victim, with its calibration: shipped, or made of held-out rows."""
    shipped = settings.load(DEFAULT, ["secret=the secret of the bench"])
    model = shipped.models["mnist"].model_copy(update={"defenses": (), "policy": LEVELS})
    if victim != "mnist":
        general = others.general(model.detectors)
        changes = {"victim": _trained(bench, victim), "calibration": None, "detectors": general}
        model = model.model_copy(update=changes)
    if chosen:
        known = detectors.known()
        given = tuple(known[one["type"]].model_validate(one) for one in chosen)
        model = model.model_copy(update={"detectors": given, "calibration": None})
    path = model.calibration
    if path is None:
        path = bench.work / f"{victim}-{_stamp(model.detectors)}.calibration.safetensors"
    model = model.model_copy(update={"calibration": path})
    own = shipped.model_copy(update={"models": {victim: model}, "data_dir": bench.work})
    if not path.is_file() and any(d.needs_calibration for d in model.detectors):
        held_out = load_images(bench.pools.path(victim), "train", HELD_OUT)
        calibrate_model(own, victim, held_out.x)
        return _settings(bench, victim, chosen)  # anew: detectors are loaded once in their life
    return own


def calibration_of(bench: Bench, victim: str) -> Path:
    """The file of what the shipped detectors learned of a victim's honest traffic."""
    path = _settings(bench, victim).models[victim].calibration
    assert path is not None  # `_settings` names one
    return path


def _enrolled(bench: Bench, pipeline: Pipeline, scenario: Scenario) -> Pipeline:
    """The shipped default, with the bounds of the tiers whose clients have enrolled."""
    own = _settings(bench, scenario.name)
    model = own.models[scenario.name]
    learned, _ = calibration.read(calibration_of(bench, scenario.name))
    for tier, inputs in scenario.enrolment():
        learned = calibration.enrol(pipeline.victim, pipeline.detectors, inputs, learned, tier)
    path = bench.work / f"{scenario.name}-{scenario.seed}-enrolled.calibration.safetensors"
    calibration.write(path, learned, pipeline.victim.fingerprint)
    return build.load_pipeline(scenario.name, model.model_copy(update={"calibration": path}), own)


def _trained(bench: Bench, victim: str) -> TorchVictim:
    """The victim that does not ship with the project, trained once."""
    path = bench.work / f"{victim}-lenet.safetensors"
    others.trained(path, FASHION, bench.pools.path(victim), victim)
    return TorchVictim(weights=path, architecture="lenet")


def _measured(
    bench: Bench, pipeline: Pipeline, scenario: Scenario, advance: Callable[[], None]
) -> Iterable[Found]:
    """What every stream of a scenario gave, from the work folder where it is there."""
    enrolled = cache(partial(_enrolled, bench, pipeline, scenario))
    others = [PUBLISHED | {"name": name, "delta": delta} for name, delta in DELTAS.items()]
    published = chain(bench, scenario.name, others) if "prada" in detectors.known() else None
    natural = cache(lambda: trace(pipeline, scenario.honest["natural"]()).memories)
    kinds = {
        "honest": (scenario.honest, partial(_honest, pipeline, published, enrolled)),
        "hostile": (scenario.hostile, partial(_hostile, pipeline, published, enrolled)),
        "campaign": (scenario.campaigns, partial(_campaign, pipeline, natural)),
    }
    made_by = calibration_of(bench, scenario.name).read_bytes()
    about_run = (scenario.size, scenario.development, pipeline.fold.evidence.alpha, made_by)
    stamp = _stamp(pipeline.detectors, pipeline.victim.fingerprint, *about_run)
    folder = bench.work / "records" / stamp
    folder.mkdir(parents=True, exist_ok=True)
    for kind, (streams, measure) in kinds.items():
        for name, make in streams.items():
            about = {"victim": scenario.name, "seed": scenario.seed, "attack": name}
            about |= scenario.acquaintance(name)
            path = folder / f"{scenario.name}-{scenario.seed}-{kind}-{name}.json"
            if not path.is_file():
                found = measure(about, make())
                path.write_bytes(orjson.dumps(found))
            yield orjson.loads(path.read_bytes())
            advance()


def _stamp(chosen: Sequence[Detector], *others: object) -> str:
    """Names detectors by their settings and their code, and whatever else results follow from."""
    told = hashlib.sha256(repr(others).encode())
    for detector in chosen:
        told.update(detector.model_dump_json().encode())
    for code in ("detectors/*.py", "redteam/**/*.py", "serving/folding.py"):
        for path in sorted(ROOT.glob(code)):
            told.update(path.read_bytes())
    return told.hexdigest()[:12]


def _honest(
    pipeline: Pipeline,
    published: Pipeline | None,
    enrolled: Callable[[], Pipeline],
    about: Record,
    stream: Stream,
) -> Found:
    said = trace(enrolled() if stream.tiers else pipeline, stream, alpha=ALPHA)
    about = about | {"attack": "none", "condition": about["attack"], "alpha": ALPHA}
    records = [judged(about, name, said, stream.start) for name in said.alarms]
    if about["condition"] == "natural":  # others send one picture in several forms, as thieves do
        records.append(linked(about, _linked(pipeline, said.memories), ()))
    if published and not stream.tiers:
        records += _as_published(published, about, stream)
    return {"records": records, "curves": [curve(about, said)]}


def _hostile(
    pipeline: Pipeline,
    published: Pipeline | None,
    enrolled: Callable[[], Pipeline],
    about: Record,
    stream: Stream,
) -> Found:
    said = trace(enrolled() if stream.tiers else pipeline, stream)
    about = about | {"alpha": pipeline.fold.evidence.alpha}
    records = [judged(about, name, said, stream.start) for name in said.alarms]
    if published and "," not in about["attack"]:  # the plain attacks
        records += _as_published(published, about, stream)
    return {"records": records, "curves": [curve(about, said)]}


def _as_published(published: Pipeline, about: Record, stream: Stream) -> list[Record]:
    """PRADA on the first rows of some of the clients, with the median W of their last tests."""
    said = trace(
        published, replace(stream, order=stream.order[:PUBLISHED_CLIENTS, :PUBLISHED_ROWS])
    )
    records = []
    for name in DELTAS:
        last = [float(memory[name]["w"][0]) for memory in said.memories.values()]
        w = round(float(np.median(last)), 3)
        records.append(judged(about, name, said, stream.start) | {"w_median": w})
    return records


def _campaign(
    pipeline: Pipeline,
    natural: Callable[[], Mapping[str, Memory]],
    about: Record,
    stream: Stream,
) -> Found:
    """The accounts of one thief, each by itself, and found as one among honest clients."""
    said = trace(pipeline, stream)
    about = about | {"attack": f"{about['attack']}, {len(stream.order)} accounts"}
    records = [judged(about, name, said, stream.start) for name in said.alarms]
    accounts = {f"account {number}": m for number, m in enumerate(said.memories.values())}
    found = _linked(pipeline, {**natural(), **accounts})
    records.append(linked(about, found, set(accounts)))
    return {"records": records, "curves": []}


def _linked(pipeline: Pipeline, memories: Mapping[str, Memory]) -> list[tuple[str, ...]]:
    """Members of every campaign that the gateway would raise an alarm for, at its first look."""
    crowd = campaigns.gather(memories.items(), pipeline)
    found = campaigns.find(crowd, pipeline, campaigns.Search(), looks=1)
    return [campaign.members for campaign in found if campaign.alarm]


if __name__ == "__main__":
    main()
