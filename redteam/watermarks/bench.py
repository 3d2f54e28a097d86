"""The watermark bench: is the mark seen, is it found, does it name the right client, and nobody where it is not.

Run as: python -m redteam.watermarks.bench --data FOLDER --out docs/results/watermark.json
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np
import orjson
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from defenses.watermark import learned
from defenses.watermark.carriers import BITS, COUNT, TILE, MarkKey
from defenses.watermark.detection import detect, looks
from defenses.watermark.mark import Mark
from defenses.watermark.reading import read
from defenses.watermark.tracing import Suspect, payload, trace
from mantlet import architectures, fidelity, weights
from mantlet.data import load_images
from mantlet.errors import ConfigError
from mantlet.gan_training import GanSettings, fit_gan
from mantlet.gan_training import drawn as drawn_by
from mantlet.learned_marks import LearnedMark
from mantlet.plugin import Setup
from redteam.judging import Record, lines
from redteam.pools import arguments
from redteam.watermarks import rivals
from redteam.watermarks.distortions import LARGE, SMALL, levels
from redteam.watermarks.floors import judged
from redteam.watermarks.thieves import colluding, washed
from serving import logs
from serving.victims.torch import TorchVictim

CONFIGS = Path(__file__).parents[2] / "configs/models"
GENERATORS = {
    "mnist-dcgan": ("mnist", "mnist-lenet"),
    "fashion-dcgan": ("fashion_mnist", "fashion-lenet"),
}
"""Shipped generators, the pictures they learned from, and the classifier that judges theirs."""
AS_IS: Mapping[str, float] = {}
STROKES: Mapping[str, float] = {"masking": 1.0, "black": 0.2}
"""Settings that move the mark from the ground to what is drawn on it."""
DOTS: Mapping[str, float] = {"masking": 0.0, "sparse": 1.1, "client_share": 0.15}
"""Settings that draw on black only where the mark is brightest."""
STRENGTHS = (38.0, 43.0)
"""What pictures keep, in dB: the default for small ones, and one that is hardly seen by a classifier."""
LEARNED = 38.0
"""What they keep with the mark that networks write and read."""
CLIENTS = tuple(f"client {i}" for i in range(1_000))
SET = 64
"""Pictures of one leak."""
SHOWN = (64, 500, 2_000)
"""Pictures of a copy."""
ON_STROKES, IN_DOTS = f"{STRENGTHS[0]:g} dB, on strokes", f"{STRENGTHS[0]:g} dB, in dots"
LEVELS = (0.1, 0.01, 1e-3, 1e-4, 1e-6)
"""Of p-values that are counted."""
SCALES = (0.5, 0.75)
"""Factors that are tried beside 1 where all ways to look at a set are."""
SIDE = 256
COPYIST = GanSettings(steps=750, width=16, discriminator_width=16)


@dataclass(frozen=True, slots=True)
class Size:
    """How many photographs, sets of a leak, those with a learned mark, traces, drawn pictures, and keys.

    A set is looked at in all ways, and scales, under ``looks`` keys; washes and accounts that act together are tried
    under ``washes`` and ``plots``.

    A copy learns from ``bought`` pictures in ``copying`` steps.
    """

    photographs: int = 30
    sets: int = 60
    learned: int = 20
    traces: int = 400
    drawn: int = 5_000
    bought: int = 20_000
    copying: int = COPYIST.steps
    keys: int = 1_000_000
    looks: int = 2_000
    washes: int = 20
    plots: int = 200


FULL = Size()
SMOKE = Size(
    1,
    sets=1,
    learned=1,
    traces=2,
    drawn=100,
    bought=100,
    copying=3,
    keys=2_000,
    looks=8,
    washes=1,
    plots=1,
)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where pictures and generators are, and how much is measured."""

    data: Path
    models: Path = CONFIGS
    size: Size = FULL


def main() -> None:
    """Run the parts whose records are not yet in the file, and write it after each."""
    parser = arguments(__doc__)
    parser.add_argument("--smoke", action="store_true", help="few pictures and keys")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logs.configure("error")
    try:
        run(Bench(given.data, size=SMOKE if given.smoke else FULL), given.out)
    except ConfigError as error:
        parser.error(str(error))


def run(bench: Bench, out: Path) -> None:
    """All parts of the bench; those that the file has already are kept."""
    parts: dict[tuple[str, str], Callable[[], list[Record]]] = {}
    for name in GENERATORS:
        ways: dict[str, Making] = {f"{kept:g} dB": partial(Spread, kept) for kept in STRENGTHS}
        ways[f"learned, {LEARNED:g} dB"] = Learned
        ways[ON_STROKES] = partial(Spread, STRENGTHS[0], settings=STROKES)
        ways[IN_DOTS] = partial(Spread, STRENGTHS[0], settings=DOTS)
        for way, made in ways.items():
            of = f"{name}, {way}"
            parts["generated", of] = partial(generated, bench, name, made)
            parts["traced", of] = partial(traced, bench, name, made)
            parts["fidelity", of] = partial(faithful, bench, name, made)
            if way not in (f"{STRENGTHS[1]:g} dB", ON_STROKES):
                parts["copied", of] = partial(copied, bench, name, made)
        of = f"{name}, {STRENGTHS[0]:g} dB"
        parts["washed", of] = partial(stolen, bench, name)
        parts["washed", f"{name}, {ON_STROKES}"] = partial(stolen, bench, name, STROKES)
        parts["washed", f"{name}, {IN_DOTS}"] = partial(stolen, bench, name, DOTS)
        parts["colluding", of] = partial(plotted, bench, name)
        parts["nulls", name] = partial(nulls, bench, name)
        parts["set_nulls", name] = partial(set_nulls, bench, name)
    for method in ("mantlet", *rivals.METHODS):
        parts["photographs", method] = partial(photographs, bench, method)
    parts["speed", "all"] = partial(speed, bench)
    records: list[Record] = orjson.loads(out.read_bytes()) if out.is_file() else []
    records = [record for record in records if record["part"] != "missed"]
    known = {(record["part"], record["of"]) for record in records}
    out.parent.mkdir(parents=True, exist_ok=True)
    for part, of in track([part for part in parts if part not in known], "watermarks"):
        records += [{"part": part, "of": of} | record for record in parts[part, of]()]
        out.write_bytes(lines(judged(records)))
    if records:  # what is missed is judged anew
        out.write_bytes(lines(judged(records)))


class Way(Protocol):
    """A mark of one model under one secret."""

    def embed(self, images: Tensor, clients: Sequence[str]) -> Tensor:
        """Pictures as they leave."""

    def p(self, images: Tensor, *, whole: tuple[int, int] | None = None) -> float:
        """How unlikely what they show is without the mark."""

    def suspects(self, images: Tensor) -> list[Suspect]:
        """All clients, most likely first."""


Making = Callable[[bytes, str], Way]
"""From a secret and the name of a model."""


class Spread:
    """The mark of `watermark`."""

    def __init__(
        self,
        kept: float,
        secret: bytes,
        model: str,
        settings: Mapping[str, float] = AS_IS,
    ) -> None:
        self._mark = Mark(secret, model, psnr=kept, **settings)
        self.embed = self._mark.embed

    def p(self, images: Tensor, *, whole: tuple[int, int] | None = None) -> float:
        return detect(images, self._mark.key, whole=whole).p

    def suspects(self, images: Tensor) -> list[Suspect]:
        return trace(detect(images, self._mark.key), self._mark.key, CLIENTS)


class Learned:
    """The mark of `learned_watermark`, by the networks that ship."""

    def __init__(self, secret: bytes, model: str) -> None:
        self._networks = LearnedMark.load(learned.SHIPPED)
        self._key = MarkKey(secret, model)

    def embed(self, images: Tensor, clients: Sequence[str]) -> Tensor:
        messages = torch.stack([learned.message(self._key, client) for client in clients])
        return self._networks.embed(images, messages, LEARNED)

    def p(self, images: Tensor, *, whole: tuple[int, int] | None = None) -> float:
        return learned.detect(self._networks, images, self._key, whole=whole).p

    def suspects(self, images: Tensor) -> list[Suspect]:
        found = learned.detect(self._networks, images, self._key)
        return learned.trace(found, self._key, CLIENTS)


def photographs(bench: Bench, method: str) -> list[Record]:
    """Bit accuracy of 32 random bits of one method in photographs, after each distortion."""
    images = natural(bench)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (len(images), BITS))
    way = Ours() if method == "mantlet" else rivals.METHODS[method]()
    served = torch.cat([way.embed(i[None], b) for i, b in zip(images, bits, strict=True)])
    kept = psnr(images, served)
    about = {"pictures": len(images), "psnr": float(kept.mean()), "psnr_least": float(kept.min())}
    found = []
    for name, distort in LARGE.items():
        changed = [distort(one[None], rng) for one in served]
        right = np.stack([way.decode(one) == b for one, b in zip(changed, bits, strict=True)])
        whole = float(right.all(axis=1).mean())
        found.append({"distortion": name, "bits": float(right.mean()), "all_bits": whole} | about)
    return found


def speed(bench: Bench) -> list[Record]:
    """Milliseconds to read one photograph of 256x256 by each method, in turns; and to mark small pictures."""
    image = natural(bench)[:1]
    ways = {"mantlet": Ours()} | {name: made() for name, made in rivals.METHODS.items()}
    key = MarkKey(b"the owner's key", "photographs")
    calls: dict[str, Callable[[], object]] = {
        f"read 256x256, {n}": _decoding(w, image) for n, w in ways.items()
    }
    calls["detect 256x256, mantlet"] = lambda: detect(image, key)
    small = torch.rand(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    mark = Mark(b"the owner's key", "small")
    calls["embed 32 of 28x28, mantlet"] = lambda: mark.embed(small, CLIENTS[:32])
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(12):
        for name, call in calls.items():
            start = perf_counter()
            call()
            times[name].append(1e3 * (perf_counter() - start))
    return [{"what": name, "ms": float(np.median(taken[2:]))} for name, taken in times.items()]


def _decoding(way: rivals.Method, image: Tensor) -> Callable[[], object]:
    return lambda: way.decode(image)


def generated(bench: Bench, name: str, made: Making) -> list[Record]:
    """P-values of sets of 64 pictures, each of another client under another key, after each distortion."""
    sets = bench.size.learned if made is Learned else bench.size.sets
    pictures = drawn(bench, name, SET * sets)
    found: dict[str, list[float]] = {distortion: [] for distortion in SMALL}
    found["none, wrong key"], found["none, unmarked"] = [], []
    quality = []
    for i, clean in enumerate(pictures.split(SET)):  # type: ignore[no-untyped-call]  # torch leaves it untyped
        rng = np.random.default_rng(i)
        mark = made(f"the owner's key {i}".encode(), name)
        served = levels(mark.embed(clean, [CLIENTS[i % len(CLIENTS)]] * len(clean)))
        quality.append(psnr(levels(clean), served))
        for distortion, distort in SMALL.items():
            changed = distort(served, rng)
            found[distortion].append(mark.p(changed, whole=(28, 28)))
        found["none, unmarked"].append(mark.p(levels(clean)))
        found["none, wrong key"].append(made(b"another key", name).p(served))
    about = {
        "sets": sets,
        "pictures": SET,
        "psnr": float(torch.cat(quality).mean()),
        "psnr_least": float(torch.cat(quality).min()),
    }
    return [
        {"distortion": n, "p_median": float(np.median(p)), "p_most": max(p), "p_least": min(p)}
        | about
        for n, p in found.items()
    ]


def traced(bench: Bench, name: str, made: Making) -> list[Record]:
    """How often the client is named to whom 64 pictures were answered, among a thousand."""
    mark = made(b"the owner's key", name)
    rng = np.random.default_rng(1)
    pictures = drawn(bench, name, SET * bench.size.sets)
    right, p, honest = [], [], []
    for i in range(bench.size.traces):
        leaker = CLIENTS[i * 7 % len(CLIENTS)]
        clean = pictures[torch.from_numpy(rng.choice(len(pictures), SET, replace=False))]
        first, second, *_ = mark.suspects(levels(mark.embed(clean, [leaker] * SET)))
        right.append(first.client == leaker)
        p.append(first.p)
        honest.append(second.p if right[-1] else first.p)
    return [
        {
            "traces": len(right),
            "clients": len(CLIENTS),
            "pictures": SET,
            "right": float(np.mean(right)),
            "p_median": float(np.median(p)),
            "p_most": max(p),
            "p_honest_least": min(honest),
        }
    ]


def faithful(bench: Bench, name: str, made: Making) -> list[Record]:
    """What the mark costs: distance of served and of clean pictures to real ones."""
    data, judge = GENERATORS[name]
    network = architectures.build("lenet", {})
    weights.load_into(network, bench.models / f"{judge}.safetensors", "lenet")
    real = torch.from_numpy(
        load_images(bench.data / f"{data}.npz", "test", slice(bench.size.drawn)).x
    )
    clean = drawn(bench, name, len(real))
    clients = [CLIENTS[i % len(CLIENTS)] for i in range(len(real))]
    served = made(b"the owner's key", name).embed(clean, clients)
    features = {
        n: fidelity.embedded(x, network.eval())
        for n, x in (("real", real), ("clean", clean), ("served", served))
    }
    distances = {
        f"fid_{n}_real": fidelity.frechet(features[n], features["real"])
        for n in ("clean", "served")
    }
    return [{"pictures": len(real)} | distances]


def stolen(bench: Bench, name: str, settings: Mapping[str, float] = AS_IS) -> list[Record]:
    """What a thief leaves of the mark who washes the pictures of one client."""

    def made(secret: bytes) -> Mark:
        return Mark(secret, name, psnr=STRENGTHS[0], **settings)

    return washed(drawn(bench, name, SHOWN[-1]), made, bench.size.washes, CLIENTS[0])


def plotted(bench: Bench, name: str) -> list[Record]:
    """Whom the default mark names where several accounts put their pictures together."""
    made = partial(Mark, model=name, psnr=STRENGTHS[0])
    return colluding(drawn(bench, name, SHOWN[-1]), made, bench.size.plots, CLIENTS)


def copied(bench: Bench, name: str, made: Making) -> list[Record]:
    """P-values of pictures that a copy draws, which learned from marked ones of one client."""
    mark = made(b"the owner's key", name)
    clean = torch.split(drawn(bench, name, bench.size.bought), 500)
    bought = torch.cat([levels(mark.embed(part, [CLIENTS[0]] * len(part))) for part in clean])
    settings = COPYIST.model_copy(update={"steps": bench.size.copying})
    gan = fit_gan(bought, settings, torch.Generator().manual_seed(0))
    latents = torch.randn(SHOWN[-1], settings.latent, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own = levels(drawn_by(gan.generator, latents))
    other = made(b"another key", name)
    return [
        {"shown": n, "bought": len(bought), "p": mark.p(own[:n]), "p_wrong_key": other.p(own[:n])}
        for n in SHOWN
    ]


def nulls(bench: Bench, name: str) -> list[Record]:
    """P-values of single pictures under keys that never marked them, all ways to look, and of sets, two of three."""
    pictures = drawn(bench, name, SET * bench.size.sets)
    other = Mark(b"the owner's key", name).embed(pictures, [CLIENTS[0]] * len(pictures))
    sets = [read([part]).whitened.mean(dim=0) for part in torch.split(pictures, SET)]
    cases = {
        "one, unmarked": (_alone(pictures), 0.5),
        "one, marked with another key": (_alone(levels(other)), 0.5),
        "64, unmarked, as they are or moved alike": (torch.stack(sets), 0.25),
    }
    return [
        {"what": what} | _null(waves, share, bench.size.keys // 2)
        for what, (waves, share) in cases.items()
    ]


def set_nulls(bench: Bench, name: str) -> list[Record]:
    """P-values of sets as `detect` looks at them, in all ways and at three scales, under keys that never marked them."""
    sets = torch.split(levels(drawn(bench, name, SET * bench.size.sets)), SET)
    p = torch.tensor(
        [
            detect(
                sets[i % len(sets)], MarkKey(f"key {i} of nobody".encode(), name), scales=SCALES
            ).p
            for i in range(bench.size.looks)
        ]
    ).double()
    counts = {f"at_most_{level:g}": int((p <= level).sum()) for level in LEVELS}
    what = f"{SET}, unmarked, all ways, {1 + len(SCALES)} scales"
    return [{"what": what, "draws": len(p), "p_least": float(p.min())} | counts]


def _alone(images: Tensor) -> Tensor:
    """(n, 2, K) waves of pictures, each read by itself."""
    return torch.cat([read([image[None]]).whitened for image in images])


def _null(waves: Tensor, share: float, keys: int) -> Record:
    generator = torch.Generator().manual_seed(0)
    places = torch.ones(1, TILE, TILE, dtype=torch.bool)
    least, small = 1.0, dict.fromkeys(LEVELS, 0)
    for start in range(0, keys, 2_000):
        count = min(2_000, keys - start)
        coins = torch.randint(0, 2, (2, count, COUNT), generator=generator)
        model, client = coins.float() * 2 - 1
        of = torch.randint(len(waves), (count,), generator=generator)
        ways = looks(waves[of], model, client, places, share)
        p = torch.stack([way.log_p for way in ways]).amin(dim=0).exp()
        least = min(least, float(p.min()))
        small = {level: n + int((p <= level).sum()) for level, n in small.items()}
    counts = {f"at_most_{level:g}": n for level, n in small.items()}
    return {"draws": keys, "p_least": least} | counts


def natural(bench: Bench) -> Tensor:
    """(n, 3, 256, 256) middles of photographs that are large enough, of 8 bits."""
    found: list[np.ndarray] = []
    for name in ("bsds_train100", "sr_classic"):
        path = bench.data / f"{name}.npz"
        if not path.is_file():
            raise ConfigError(f"'{path}' is not there; --data names the folder of the pictures")
        with np.load(path) as file:
            encoded, offset = file["encoded"].tobytes(), file["offset"]
        for start, stop in pairwise(offset):
            image = Image.open(io.BytesIO(encoded[start:stop])).convert("RGB")
            if min(image.size) >= SIDE:
                left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
                found.append(np.asarray(image.crop((left, top, left + SIDE, top + SIDE))))
    order = np.random.default_rng(0).permutation(len(found))[: bench.size.photographs]
    chosen = torch.from_numpy(np.stack([found[i] for i in order]))
    return chosen.permute(0, 3, 1, 2).float() / 255


def drawn(bench: Bench, name: str, count: int) -> Tensor:
    """(n, 1, 28, 28) pictures of a shipped generator."""
    victim = TorchVictim(
        type="torch", weights=bench.models / f"{name}.safetensors", architecture="dcgan"
    )
    victim.load(Setup(torch.device("cpu"), b""))
    latents = torch.randn(count, *victim.input.shape, generator=torch.Generator().manual_seed(7))
    parts = torch.split(latents, 500)
    return torch.cat([victim.predict(part).values for part in parts])


def psnr(before: Tensor, after: Tensor) -> Tensor:
    """(n,) in dB."""
    found: Tensor = -10 * (after - before).square().mean(dim=(1, 2, 3)).log10()
    return found


class Ours:
    """The mark of this project, with bits in place of a client: a key is looked for that has them."""

    def __init__(self) -> None:
        self._mark = Mark(b"the owner's key", "photographs")

    def embed(self, image: Tensor, bits: np.ndarray) -> Tensor:
        signs = torch.from_numpy(2.0 * bits - 1).float()
        return levels(self._mark.embed_bits(image, signs[None]))

    def decode(self, image: Tensor) -> np.ndarray:
        key = self._mark.key
        return (payload(detect(image, key), key) > 0).int().numpy()


if __name__ == "__main__":
    main()
