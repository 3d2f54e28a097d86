"""Rows of a plan become pipelines, and are named by all that their answers follow from."""

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from mantlet import architectures
from mantlet.errors import ConfigError
from mantlet.weights import save
from redteam.grid import chains, plan
from redteam.grid.chains import KEYED, Place
from redteam.grid.plan import Attacker, Plan, Target
from redteam.pools import Pools
from serving import build, settings
from serving.pipeline import Pipeline

ROOT = Path(__file__).parents[3]
SHAPE = (1, 28, 28)


def shipped() -> Pipeline:
    """The embedded default, as every operator has it."""
    loaded = settings.load(ROOT / "configs/gateway/default.yaml", [f"secret={KEYED}"])
    return build.load_pipeline("mnist", loaded.models["mnist"], loaded)


@pytest.fixture(scope="module")
def smoke() -> Plan:
    return plan.load(ROOT / "configs/bench/smoke.yaml", {"work": ROOT})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(Pools(ROOT / "tests/data"), tmp_path)


def test_single_defenses_stand_alone_and_a_gateway_brings_its_whole_chain(
    smoke: Plan, place: Place
) -> None:
    single = chains.load(smoke, "mnist", "label_only", place)
    whole = chains.load(smoke, "mnist", "default", place)

    assert [d.type for d in single.pipeline.defenses] == ["label_only"]
    assert single.pipeline.detectors == ()
    assert single.search is None
    assert [d.name for d in whole.pipeline.detectors] == [d.name for d in shipped().detectors]
    assert whole.pipeline.policy.levels == shipped().policy.levels
    assert whole.pipeline.alpha == shipped().alpha
    assert whole.search is not None


def test_a_gateway_before_another_victim_is_calibrated_anew(
    smoke: Plan, pools: Pools, tmp_path: Path
) -> None:
    target = smoke.victims["mnist"].model_copy(update={"family": "mnist"})
    other = smoke.model_copy(
        update={
            "victims": {"other": target},
            "defenses": {"default": smoke.defenses["default"].model_copy(update={"shipped": ""})},
        }
    )
    chain = chains.load(other, "other", "default", Place(pools, tmp_path))

    assert all(detector.enforces for detector in chain.pipeline.fold.tested)
    assert chain.pipeline.fold.tested
    assert len(list(tmp_path.glob("other-*.calibration.safetensors"))) == 1


def test_a_gateway_before_a_victim_in_color_is_calibrated_with_pictures_in_color(
    tmp_path: Path,
) -> None:
    weights = tmp_path / "resnet.safetensors"
    network = architectures.build("resnet", {"blocks": 1})
    save(network, weights, {})
    _jpegs(tmp_path / "cifar10_jpeg.npz", np.random.default_rng(0))
    gateway = tmp_path / "gateway.yaml"
    victim = {
        "type": "torch",
        "weights": str(weights),
        "architecture": "resnet",
        "settings": {"blocks": 1},
    }
    chained = {"victim": victim, "detectors": [{"type": "foreign", "measures": ["energy"]}]}
    gateway.write_text(json.dumps({"models": {"own": chained}}))
    grid = Plan.model_validate(
        {
            "victims": {"cifar": {"victim": victim, "family": "cifar", "foreign": []}},
            "defenses": {"default": {"gateway": gateway}},
            "attackers": {"soft": {"attack": "knockoff"}},
            "budgets": [1],
        }
    )
    chain = chains.load(grid, "cifar", "default", Place(Pools(tmp_path), tmp_path))
    learned = next(tmp_path.glob("cifar-*.calibration.safetensors"))

    assert chain.pipeline.victim.input.shape == (3, 32, 32)
    assert chain.pipeline.fold.tested
    assert int(safetensors.numpy.load_file(learned)["foreign/near.size"]) == 3 * 32 * 32


def _jpegs(path: Path, rng: np.random.Generator) -> None:
    """A file of 400 small pictures in color, as CIFAR-10 is kept."""
    encoded, offset = b"", [0]
    for levels in rng.integers(0, 256, (400, 4, 4, 3), dtype=np.uint8):
        file = io.BytesIO()
        Image.fromarray(levels).resize((32, 32)).save(file, "JPEG")
        encoded += file.getvalue()
        offset.append(len(encoded))
    np.savez(path, jpeg_train=np.frombuffer(encoded, np.uint8), offset_train=np.array(offset))


def test_rows_are_named_by_settings_files_and_code(smoke: Plan, tmp_path: Path) -> None:
    before = chains.of_row(smoke, "mnist", "label_only")
    weights = tmp_path / "other.safetensors"
    shutil.copy(ROOT / "configs/models/mnist-lenet.safetensors", weights)
    target = smoke.victims["mnist"]
    same = target.model_copy(
        update={"victim": target.victim.model_copy(update={"weights": weights})}
    )
    moved = smoke.model_copy(update={"victims": {"mnist": same}})

    assert chains.digest(chains.of_row(moved, "mnist", "label_only")) == chains.digest(before)
    weights.write_bytes(weights.read_bytes() + b" ")
    assert chains.digest(chains.of_row(moved, "mnist", "label_only")) != chains.digest(before)
    rows = [chains.digest(chains.of_row(smoke, "mnist", name)) for name in smoke.defenses]
    assert len(set(rows)) == len(rows)


def test_a_thief_has_foreign_pictures_its_own_or_none(smoke: Plan, place: Place) -> None:
    target = smoke.victims["mnist"]

    def pool(data: str, seed: int = 0, families: Sequence[str] = ()) -> np.ndarray:
        attack = "dfme" if data == "none" else "knockoff"
        given = {"attack": attack, "data": data, "families": families}
        attacker = Attacker.model_validate(given)
        rng = np.random.default_rng(seed)
        return chains.pool(target, attacker, place, shape=SHAPE, rng=rng).numpy()

    judged, labels = chains.judged_on(target, place, SHAPE)
    own = {picture.tobytes() for picture in pool("own")}
    one, again, other = (pool("foreign", seed, ["mnist-test"])[:9] for seed in (0, 0, 1))

    assert pool("none").shape == (0, 1, 28, 28)
    assert pool("foreign").shape == (10_000, 1, 28, 28)
    assert (one == again).all()
    assert (one != other).any()
    assert len(own) == len(labels) == 5000
    assert not own & {picture.tobytes() for picture in judged.numpy()}


def test_a_thief_may_put_other_pictures_together_from_its_own(smoke: Plan, place: Place) -> None:
    given = {"attack": "knockoff", "families": ["mnist-test"]}
    plain, composed, again = (
        chains.pool(
            smoke.victims["mnist"],
            Attacker.model_validate({**given, "composed": on}),
            place,
            shape=SHAPE,
            rng=np.random.default_rng(0),
        )
        for on in (False, True, True)
    )

    assert len(composed) == chains.MOST > len(plain)
    assert (composed > 0).double().mean() > (plain > 0).double().mean()
    assert (composed == again).all()


def test_rows_that_are_not_there_are_told(smoke: Plan, place: Place) -> None:
    target = Target.model_validate(
        {
            **smoke.victims["mnist"].model_dump(),
            "victim": smoke.victims["mnist"].victim,
            "own": ("test", "20000:"),
        }
    )
    with pytest.raises(ConfigError, match="'20000:' of 'test' are none"):
        chains.own_rows(target, place, shape=SHAPE, rng=np.random.default_rng())
