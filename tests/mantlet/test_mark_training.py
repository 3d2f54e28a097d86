"""A mark is trained by its recipe, through what is done to pictures, and told as measured."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mantlet import mark_training, weights
from mantlet.data import Images
from mantlet.errors import ConfigError
from mantlet.learned_marks import LearnedMark
from mantlet.mark_training import DISTORTIONS, MarkRecipe, accuracy, compressed, cosines, fit
from mantlet.training import Progress


def recipe(folder: Path, root: Path, **settings: object) -> MarkRecipe:
    plan: dict[str, object] = {
        "kind": "watermark",
        "generator": {
            "architecture": "dcgan",
            "weights": str(root / "configs/models/mnist-dcgan.safetensors"),
        },
        "pool": 50,
        "steps": 3,
        "batch": 12,
        "holdout": 20,
        "output": "m.safetensors",
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(plan | settings))
    return MarkRecipe.load(folder / "r.yaml")


def test_weights_are_written_and_reported_on_held_out_pictures(
    tmp_path: Path, root: Path, digits: Images
) -> None:
    np.savez(tmp_path / "d.npz", x_train=digits.x[:100])
    seen: list[Progress] = []
    plan = recipe(tmp_path, root)
    told = mark_training.make(plan, tmp_path / "d.npz", progress=seen.append)
    about = weights.metadata(tmp_path / "m.safetensors")

    assert told[0] == f"weights: {tmp_path / 'm.safetensors'}"
    assert told[1].startswith("bits right in held-out pictures: ")
    assert all(f"({name})" in told[1] for name in (*DISTORTIONS, "copy"))
    assert [p.step for p in seen] == [1, 2, 3]
    assert str(root) not in about["recipe"]
    assert about["generator"] == weights.fingerprint(plan.generator.weights)


def test_the_same_recipe_gives_the_same_weights(tmp_path: Path, root: Path) -> None:
    def state(seed: int) -> torch.Tensor:
        return fit(recipe(tmp_path, root, seed=seed))[0].carriers

    assert torch.equal(state(0), state(0))
    assert not torch.equal(state(0), state(1))


def test_training_makes_bits_easier_to_read(tmp_path: Path, root: Path, digits: Images) -> None:
    plan = recipe(tmp_path, root, steps=40, batch=24)
    pictures = torch.from_numpy(digits.x[:100])
    with torch.random.fork_rng():
        torch.random.manual_seed(plan.seed)
        before = LearnedMark()
    noise = DISTORTIONS["none"]

    assert accuracy(fit(plan)[0], pictures, plan, noise) > accuracy(before, pictures, plan, noise)


def test_the_copy_counts_while_it_has_a_weight(tmp_path: Path, root: Path) -> None:
    with_copy, without = (fit(recipe(tmp_path, root, copied=c))[0] for c in (1.0, 0.0))

    assert not torch.equal(with_copy.carriers, without.carriers)


def test_what_stands_for_jpeg_does_what_jpeg_does(digits: Images) -> None:
    pictures = torch.from_numpy(digits.x[:8])
    padded = torch.nn.functional.pad(pictures, (2, 2, 2, 2))
    ours = compressed(padded)
    for one, mine in zip(padded, ours, strict=True):
        file = io.BytesIO()
        Image.fromarray((one[0] * 255).round().byte().numpy()).save(file, "JPEG", quality=70)
        theirs = np.asarray(Image.open(file), dtype=np.float32) / 255

        lost = np.abs(one[0].numpy() - theirs).mean()
        assert np.abs(mine[0].numpy() - theirs).mean() < 0.5 * lost
    waves = cosines()
    assert torch.allclose(waves @ waves.T, torch.eye(8), atol=1e-6)


def test_gradients_pass_all_that_is_done_to_pictures() -> None:
    for name, distort in DISTORTIONS.items():
        pictures = torch.full((2, 1, 28, 28), 0.5, requires_grad=True)
        changed = distort(pictures, torch.Generator().manual_seed(0))
        changed.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

        assert changed.shape == pictures.shape, name
        assert pictures.grad is not None
        assert pictures.grad.abs().sum() > 100, name


def test_what_cannot_be_marked_is_named(tmp_path: Path, root: Path) -> None:
    np.savez(tmp_path / "d.npz", x_train=np.zeros((30, 3, 32, 32), np.float32))
    judge = {"architecture": "lenet", "weights": "x"}
    judge["weights"] = str(root / "configs/models/mnist-lenet.safetensors")

    with pytest.raises(ConfigError, match=r"\(3, 32, 32\)"):
        mark_training.make(recipe(tmp_path, root), tmp_path / "d.npz")
    with pytest.raises(ConfigError, match="'lenet' draws no pictures"):
        fit(recipe(tmp_path, root, generator=judge))
