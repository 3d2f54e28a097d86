from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from defenses.ini import making
from defenses.ini.recipe import IniRecipe
from mantlet import weights
from mantlet.data import Images
from mantlet.errors import ConfigError
from mantlet.training import Progress


@pytest.fixture
def data(tmp_path: Path, bars: Images) -> Path:
    assert bars.y is not None
    split = {"x_train": bars.x[:400], "y_train": bars.y[:400]}
    held = {"x_test": bars.x[400:], "y_test": bars.y[400:]}
    np.savez(tmp_path / "bars.npz", **split, **held)  # type: ignore[arg-type]  # the stub takes a flag by name as well
    return tmp_path / "bars.npz"


@pytest.fixture
def foreign(tmp_path: Path, dots: Images) -> Path:
    np.savez(tmp_path / "dots.npz", x_train=dots.x)
    return tmp_path / "dots.npz"


def test_weights_card_and_curves_are_written_and_say_how_they_came(
    recipe: IniRecipe, data: Path, foreign: Path
) -> None:
    plan = recipe.model_copy(update={"epochs": 1})
    lines = making.make(plan, data, [foreign])
    about = weights.metadata(recipe.output)

    assert lines[0] == f"weights: {recipe.output}"
    assert lines[1].startswith("test accuracy: 0.")
    assert about["trained_with"] == "ini"
    assert about["data"] == weights.fingerprint(data)
    assert about["foreign"] == weights.fingerprint(foreign)
    assert weights.fingerprint(recipe.output) in recipe.output.with_suffix(".md").read_text()
    assert recipe.output.with_suffix(".png").is_file()
    assert not list(recipe.output.parent.glob("*.checkpoint*"))


def test_the_baseline_does_not_say_that_it_resists(recipe: IniRecipe, data: Path) -> None:
    making.make(recipe.model_copy(update={"epochs": 1, "defended": False}), data, [])

    assert "trained_with" not in weights.metadata(recipe.output)


def test_foreign_pictures_that_are_the_models_own_are_warned_of_and_left_out(
    recipe: IniRecipe, data: Path, tmp_path: Path, bars: Images, dots: Images
) -> None:
    np.savez(tmp_path / "both.npz", x_train=np.concatenate([dots.x, bars.x[:5]]))
    with capture_logs() as logs:
        making.make(recipe.model_copy(update={"epochs": 1}), data, [tmp_path / "both.npz"])
    card = recipe.output.with_suffix(".md").read_text()

    assert [(log["event"], log["pictures"]) for log in logs] == [("foreign_overlap", 5)]
    assert f"`{weights.fingerprint(tmp_path / 'both.npz')}` | 5 |" in card


def test_a_resume_with_changed_settings_is_refused_and_keeps_what_is_there(
    recipe: IniRecipe, data: Path, foreign: Path
) -> None:
    def stop(p: Progress) -> None:
        if p.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        making.make(recipe, data, [foreign], progress=stop)
    kept = recipe.output.with_suffix(".checkpoint.safetensors")
    before = kept.read_bytes()
    with pytest.raises(ConfigError, match="is of other settings or data"):
        making.make(recipe.model_copy(update={"gamma": 2.0}), data, [foreign])

    assert kept.read_bytes() == before
    assert not recipe.output.exists()
