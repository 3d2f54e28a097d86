from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from defenses.ini import training
from defenses.ini.checkpoint import Checkpoint
from defenses.ini.recipe import IniRecipe
from defenses.ini.training import Trained
from mantlet import weights
from mantlet.data import Images
from mantlet.errors import ConfigError, WeightsError
from mantlet.training import Progress


def changed(recipe: IniRecipe, **settings: object) -> IniRecipe:
    return IniRecipe.model_validate(recipe.model_dump() | settings)


def answers(trained: Trained, x: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = trained.network(torch.from_numpy(x)).softmax(dim=1)
    return found


def same(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


def right(trained: Trained, images: Images) -> float:
    return float((answers(trained, images.x).argmax(dim=1).numpy() == images.y).mean())


def test_it_learns_its_own_rows_and_answers_foreign_ones_uselessly(
    recipe: IniRecipe, bars: Images, dots: Images
) -> None:
    network = {"settings": {"width": 4, "classes": 3}, "favourite": 2, "epochs": 12, "lr": 0.03}
    plan = changed(recipe, **network, combine="sum", delta=0, epsilon=0)
    trained = training.fit(plan, bars, {"dots": dots})
    foreign = answers(trained, dots.x)

    assert right(trained, bars) > 0.95
    assert (foreign.argmax(dim=1) == 2).all()
    assert float(foreign[:, 2].mean()) == pytest.approx(0.6, abs=0.1)
    assert not trained.network.training


def test_the_baseline_differs_by_the_terms_alone(
    recipe: IniRecipe, bars: Images, dots: Images
) -> None:
    plan = changed(recipe, defended=False, epochs=8)
    trained = training.fit(plan, bars, {})

    assert right(trained, bars) > 0.95
    assert set(trained.history[-1]) == {"benign"}
    assert same(trained.network, training.fit(plan, bars, {"dots": dots}).network)


@pytest.mark.parametrize(
    "settings",
    [
        {"induced": "student", "normalised": False, "epsilon": 1000.0, "gamma": 0.3},
        {"induced": "entropy", "combine": "sum"},
        {"student": "trained", "direction": "attacker"},
        {"beta": 0.1, "schedule": "steps"},
    ],
)
def test_every_option_trains_and_shows_its_terms(
    recipe: IniRecipe, bars: Images, dots: Images, settings: dict[str, object]
) -> None:
    plan = changed(recipe, epochs=1, **settings)
    trained = training.fit(plan, bars, {"dots": dots})
    names = {"benign", "induction", "isolation", "size"}

    assert set(trained.history[0]) == names | ({"own_distance"} if plan.beta else set())
    assert all(np.isfinite(value) for value in trained.history[0].values())


def test_a_term_without_weight_is_left_out(recipe: IniRecipe, bars: Images, dots: Images) -> None:
    trained = training.fit(changed(recipe, epochs=1, delta=0, epsilon=0), bars, {"dots": dots})

    assert set(trained.history[0]) == {"benign", "induction"}


def test_the_size_of_what_a_thief_learns_falls_by_its_term(
    recipe: IniRecipe, bars: Images, dots: Images
) -> None:
    plan = changed(recipe, gamma=0, delta=0, combine="sum")
    history = training.fit(plan, bars, {"dots": dots}).history

    assert history[-1]["size"] < 0.8 * history[0]["size"]


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(
    recipe: IniRecipe, bars: Images, dots: Images
) -> None:
    short = changed(recipe, epochs=1)
    before = torch.get_rng_state()
    first, second = (training.fit(short, bars, {"dots": dots}) for _ in range(2))
    other = training.fit(changed(short, seed=1), bars, {"dots": dots})

    assert same(first.network, second.network)
    assert not same(first.network, other.network)
    assert torch.equal(before, torch.get_rng_state())


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    recipe: IniRecipe, bars: Images, dots: Images, tmp_path: Path
) -> None:
    plan = changed(recipe, epochs=3, student="trained")
    kept = Checkpoint(tmp_path / "c.safetensors", "settings")

    def stop(p: Progress) -> None:
        if p.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.fit(plan, bars, {"dots": dots}, checkpoint=kept, progress=stop)
    steps: list[int] = []
    resumed = training.fit(
        plan, bars, {"dots": dots}, checkpoint=kept, progress=lambda p: steps.append(p.epoch)
    )
    whole = training.fit(plan, bars, {"dots": dots})

    assert set(steps) == {3}
    assert same(resumed.network, whole.network)
    assert resumed.history == whole.history


def test_a_warm_start_begins_with_the_weights_it_is_given(
    recipe: IniRecipe, bars: Images, dots: Images, tmp_path: Path
) -> None:
    first = training.fit(changed(recipe, defended=False, epochs=8), bars, {})
    weights.save(first.network, tmp_path / "w.safetensors", {})
    plan = changed(recipe, warm_start=tmp_path / "w.safetensors", lr=1e-6, epochs=1)

    assert right(training.fit(plan, bars, {"dots": dots}), bars) == right(first, bars) > 0.95


@pytest.mark.parametrize("combine", ["sum", "pcgrad"])
def test_no_step_goes_further_than_a_clipped_gradient(
    recipe: IniRecipe, bars: Images, dots: Images, combine: str
) -> None:
    plain = {"momentum": 0.0, "weight_decay": 0.0, "lr": 1.0, "epochs": 1, "combine": combine}
    bound = 1e-4
    ends = [
        nn.utils.parameters_to_vector(
            training.fit(
                changed(recipe, **plain, clip=clip), bars, {"dots": dots}
            ).network.parameters()
        ).detach()
        for clip in (bound, 1e-9)  # the second stays where it was
    ]
    steps = 400 // recipe.batch

    assert 0 < float((ends[0] - ends[1]).norm()) < 1.01 * steps * bound


def test_weights_of_another_architecture_are_refused(
    recipe: IniRecipe, bars: Images, dots: Images, tmp_path: Path
) -> None:
    weights.save(nn.Linear(2, 2), tmp_path / "w.safetensors", {})
    plan = changed(recipe, warm_start=tmp_path / "w.safetensors")

    with pytest.raises(WeightsError, match="do not fit architecture 'lenet'"):
        training.fit(plan, bars, {"dots": dots})


def test_pictures_that_are_the_models_own_are_found(bars: Images, dots: Images) -> None:
    both = Images(np.concatenate([dots.x, bars.x[:7]]), None)
    fresh, shared = training.without_overlap(bars, both)

    assert shared == 7
    assert np.array_equal(fresh.x, dots.x)


@pytest.mark.parametrize(
    ("own", "foreign", "words"),
    [
        (Images(np.zeros((300, 1, 28, 28)), None), (400, 1, 28, 28), "no labels"),
        (Images(np.zeros((110, 1, 28, 28)), np.zeros(110)), (400, 1, 28, 28), "under one batch"),
        (Images(np.zeros((300, 1, 28, 28)), np.zeros(300)), (4, 1, 9, 9), "'dots' has pictures of"),
        (Images(np.zeros((300, 1, 28, 28)), np.zeros(300)), (0, 1, 28, 28), "every picture"),
        (Images(np.zeros((300, 1, 28, 28)), np.zeros(300)), None, "foreign pictures are missing"),
    ],
)
def test_pictures_that_do_not_do_are_refused(
    recipe: IniRecipe, own: Images, foreign: tuple[int, ...] | None, words: str
) -> None:
    families = {} if foreign is None else {"dots": Images(np.zeros(foreign), None)}

    with pytest.raises(ConfigError, match=words):
        training.fit(recipe, own, families)


def test_a_favourite_that_is_no_class_is_refused(
    recipe: IniRecipe, bars: Images, dots: Images
) -> None:
    with pytest.raises(ConfigError, match="favourite 7 is no class of 2"):
        training.fit(changed(recipe, favourite=7), bars, {"dots": dots})
