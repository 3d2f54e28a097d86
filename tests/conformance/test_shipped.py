"""What ships with the project: a model as accurate as promised, guarded as promised."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import defenses
from mantlet import architectures, weights
from mantlet.data import Images
from mantlet.errors import MantletError
from serving import build, calibration, settings
from serving.pipeline import Outcome, Pipeline
from serving.victims.torch import TorchVictim
from tests.helpers import query, rows

MODELS = "configs/models"


@pytest.fixture(scope="module")
def pipeline(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The embedded default, as ``mantlet serve`` builds it."""
    folder = tmp_path_factory.mktemp("data")
    loaded = settings.load(root / "configs/gateway/default.yaml", [f"data_dir={folder}"])
    return build.load_pipeline("mnist", loaded.models["mnist"], loaded)


@pytest.fixture(scope="module")
def generator(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The embedded generator, as ``mantlet serve`` builds it."""
    folder = tmp_path_factory.mktemp("data")
    loaded = settings.load(root / "configs/gateway/gan.yaml", [f"data_dir={folder}"])
    return build.load_pipeline("digits", loaded.models["digits"], loaded)


def latents(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(seed))


def level_names(pipeline: Pipeline, outcome: Outcome) -> list[str]:
    return [pipeline.policy.levels[int(index)].name for index in outcome.decision.levels]


def test_the_classifier_is_as_accurate_as_promised(
    shipped_victim: TorchVictim, digits: Images
) -> None:
    """At least 99.0 % of the 10,000 MNIST test pictures, by ONNX Runtime."""
    assert digits.y is not None
    inputs, labels = torch.from_numpy(digits.x), torch.from_numpy(digits.y)
    answers = [shipped_victim.predict(part).values.argmax(dim=1) for part in inputs.split(500)]

    assert shipped_victim.engine == "onnxruntime"
    assert len(labels) == 10_000
    assert (torch.cat(answers) == labels).double().mean() >= 0.990


def test_the_weights_are_small_and_say_how_they_were_made(root: Path) -> None:
    path = root / MODELS / "mnist-lenet.safetensors"
    recipe = yaml.safe_load((root / "configs/recipes/mnist-lenet.yaml").read_text())
    recorded = json.loads(weights.metadata(path)["recipe"])

    assert path.stat().st_size < 2_000_000
    assert (root / "configs/recipes" / recipe.pop("output")).resolve() == path
    assert recorded | recipe == recorded


def test_the_calibration_was_made_for_these_weights(root: Path) -> None:
    _, made_for = calibration.read(root / MODELS / "mnist-ini.calibration.safetensors")

    assert made_for == weights.fingerprint(root / MODELS / "mnist-ini.safetensors")


def test_the_example_is_answered_with_its_digit(root: Path, pipeline: Pipeline) -> None:
    with Image.open(root / MODELS / "digit-7.png") as picture:
        row = np.asarray(picture, dtype=np.float32).reshape(1, 1, 28, 28) / 255
    released = pipeline.run(query(torch.from_numpy(row)), {}).released

    assert int(released.values.argmax()) == 7


def test_an_honest_client_keeps_full_service(pipeline: Pipeline, digits: Images) -> None:
    """The first 3,000 test pictures of one client, in one stream: never alarmed, never suspected."""
    outcome = pipeline.run(query(torch.from_numpy(digits.x[:3000])), {})

    assert not any(bool(signal.alarm.any()) for signal in outcome.signals.values())
    assert set(level_names(pipeline, outcome)) == {"normal"}


def test_honest_labels_are_the_clean_ones_at_every_level(
    pipeline: Pipeline, digits: Images
) -> None:
    inputs = torch.from_numpy(digits.x[:500])
    clean = pipeline.victim.predict(inputs).values.argmax(dim=1)
    thief = pipeline.run(query(rows(200, shape=(1, 28, 28))), {})
    alarmed = pipeline.run(query(inputs), thief.memories)
    honest = pipeline.run(query(inputs), {})

    assert set(level_names(pipeline, alarmed)) == {"alarmed"}
    assert torch.equal(alarmed.released.values.argmax(dim=1), clean)
    assert torch.equal(honest.released.values.argmax(dim=1), clean)


def test_a_thief_of_noise_gets_labels_only_within_fifty_rows(pipeline: Pipeline) -> None:
    outcome = pipeline.run(query(rows(60, shape=(1, 28, 28))), {})
    names = level_names(pipeline, outcome)
    released = outcome.released.values

    assert "alarmed" in names[:50]
    assert set(names[names.index("alarmed") :]) == {"alarmed"}
    assert (released[50:].amax(dim=1) == 1.0).all()


@pytest.mark.parametrize("name", ["mnist-dcgan", "superres-x2"])
def test_calibrations_of_models_that_make_pictures_were_made_for_their_weights(
    root: Path, name: str
) -> None:
    _, made_for = calibration.read(root / MODELS / f"{name}.calibration.safetensors")

    assert made_for == weights.fingerprint(root / MODELS / f"{name}.safetensors")


def test_windows_of_one_scene_are_refused_by_the_enlarger_and_scenes_are_not(
    root: Path, tmp_path: Path
) -> None:
    """48 x 48 windows of one noisy scene of 64 x 64, and as many scenes."""
    loaded = settings.load(root / "configs/gateway/superres.yaml", [f"data_dir={tmp_path}"])
    enlarger = build.load_pipeline("superres", loaded.models["superres"], loaded)
    scene, places = rows(1, shape=(3, 64, 64))[0], range(0, 16, 2)
    windows = torch.stack([scene[:, y : y + 48, x : x + 48] for y in places for x in places])
    thief = enlarger.run(query(windows), {})
    honest = enlarger.run(query(rows(64, shape=(3, 48, 48))), {})

    assert "alarmed" in level_names(enlarger, thief)[:20]
    assert set(level_names(enlarger, honest)) == {"normal"}


def test_who_samples_from_the_generator_keeps_full_service(generator: Pipeline) -> None:
    """2,000 pictures in one stream: never suspected, and near to what the prior can show."""
    outcome = generator.run(query(latents(2000)), {})

    assert set(level_names(generator, outcome)) == {"normal"}
    assert 0.6 < outcome.signals["coverage"].suspicion[-1] < 0.9
    assert not outcome.signals["latents"].suspicion.any()


def test_who_walks_among_the_latents_is_refused_within_ten_rows(generator: Pipeline) -> None:
    first, second = latents(2)
    share = torch.linspace(0, 1, 20)[:, None]
    outcome = generator.run(query((1 - share).sqrt() * first + share.sqrt() * second), {})
    names = level_names(generator, outcome)

    assert "alarmed" in names[:10]
    assert set(names[10:]) == {"alarmed"}


@pytest.mark.parametrize("kind", sorted(defenses.known_inputs()))
def test_every_input_defense_stands_before_the_generator(
    root: Path, tmp_path: Path, kind: str
) -> None:
    """Its pictures are the generator's, of other latents than were sent, and digits to the classifier's eye."""
    override = [f"models.digits.input_defenses=[{{type: {kind}}}]", f"data_dir={tmp_path}"]
    loaded = settings.load(root / "configs/gateway/gan.yaml", override)
    pipeline = build.load_pipeline("digits", loaded.models["digits"], loaded)
    classifier = architectures.read(root / MODELS / "mnist-lenet.safetensors")
    asked = query(latents(300))
    plain, given = pipeline.victim.predict(asked.inputs), pipeline.predict(asked)
    sure = [float(torch.softmax(classifier(p.values), 1).amax(1).mean()) for p in (plain, given)]

    assert not torch.isclose(plain.values, given.values).flatten(1).all(dim=1).any()
    assert sure[1] > sure[0] - 0.03


def test_no_shipped_weights_are_a_pickle(root: Path) -> None:
    for path in (root / MODELS).iterdir():
        try:
            weights.refuse_unsafe(path)
        except MantletError:
            pytest.fail(f"{path} can run code")


def test_near_copies_of_each_foreign_row_hide_nothing(pipeline: Pipeline, digits: Images) -> None:
    """Halves of digits that are swapped and upside down, each eight times with a little noise."""
    foreign = torch.from_numpy(digits.x[:40]).roll(14, dims=3).flip(2).repeat_interleave(8, dim=0)
    generator = torch.Generator().manual_seed(0)
    noise = 0.02 * torch.randn(foreign.shape, generator=generator)
    outcome = pipeline.run(query((foreign + noise).clamp(0, 1)), {})

    assert outcome.signals["evidence"].alarm[-1]
