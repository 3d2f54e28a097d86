"""Rows of a plan become pipelines, and are named by all that their answers follow from."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mantlet.errors import ConfigError
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
        given = {"attack": "knockoff", "data": data, "families": families}
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
