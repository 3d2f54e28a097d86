"""Who is told to have learned from marked answers: the exact test, real clones, and bad input."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.dawn import Dawn, Marks
from mantlet import architectures, weights
from mantlet.data import Images
from mantlet.errors import ConfigError, VictimError, WeightsError
from mantlet.plugin import Setup
from mantlet.types import Prediction
from serving import ownership, settings
from serving.ownership import Openers, Reading, Report, read, verdict, verify
from serving.settings import Settings
from serving.victims.torch import TorchVictim
from tests.e2e.upstream_servers import HostileServer, saying
from tests.helpers import config, query, write_config
from tests.serving.victims.models import linear

SECRET = "the secret of the owner"
RATE = 0.2
ROWS = 800


def dawn(secret: bytes = SECRET.encode(), rate: float = RATE) -> Dawn:
    defense = Dawn(rate_unsuspected=rate)
    defense.load(Setup(torch.device("cpu"), secret))
    return defense


@pytest.fixture(scope="module")
def pictures(digits: Images) -> np.ndarray:
    return digits.x[:ROWS]


def trained(inputs: Tensor, answers: Tensor, path: Path, steps: int = 500) -> str:
    """A small network that learned the answers, as a file."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.random.manual_seed(0)  # layers draw their weights from the global generator
        network = architectures.build("lenet", {"width": 4})
    optimizer = torch.optim.Adam(network.parameters(), lr=0.002)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (32,), generator=generator)
        loss = torch.nn.functional.cross_entropy(network(inputs[rows]), answers[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights.save(network, path, {})
    return str(path)


@pytest.fixture(scope="module")
def copy(
    pictures: np.ndarray, shipped_victim: TorchVictim, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A clone that learned from marked answers."""
    inputs = torch.from_numpy(pictures)
    clean = Prediction(shipped_victim.predict(inputs).values, shipped_victim.kind)
    answers = dawn()(clean, query(inputs), {}).values
    return trained(inputs, answers, tmp_path_factory.mktemp("copy") / "copy.safetensors")


@pytest.fixture(scope="module")
def honest(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of other pictures and their true labels."""
    assert digits.y is not None
    inputs, labels = torch.from_numpy(digits.x[2000:2800]), torch.from_numpy(digits.y[2000:2800])
    answers = torch.nn.functional.one_hot(labels, 10).float()
    return trained(inputs, answers, tmp_path_factory.mktemp("honest") / "honest.safetensors", 300)


SMALL = Openers("lenet", {"width": 4})
Loaded = Callable[..., Settings]


@pytest.fixture
def loaded(root: Path, tmp_path: Path) -> Loaded:
    def load(*defenses: dict[str, Any], **changes: Any) -> Settings:
        raw = config(root, tmp_path / "data", **({"secret": SECRET} | changes))
        model = raw["models"]["mnist"]
        model.pop("policy")
        model["defenses"] = list(defenses or [{"type": "dawn", "rate_alarmed": RATE}])
        return settings.load(write_config(tmp_path / "gateway.yaml", raw))

    return load


# --- the verdict on real models ---


def test_a_clone_of_marked_answers_is_found_and_an_honest_model_is_not(
    loaded: Loaded, pictures: np.ndarray, copy: str, honest: str
) -> None:
    report = verify(loaded(), pictures, copy, independent=[honest], openers=SMALL)

    assert report.found
    assert report.suspect.p <= 1e-6
    assert report.suspect.named > 0.3 * report.suspect.marked
    assert report.independent[0].p > 0.01
    assert report.independent[0].marked == report.suspect.marked
    assert report.marked_cells < report.cells <= report.queries == ROWS


def test_with_a_wrong_secret_the_clone_is_as_innocent_as_anybody(
    loaded: Loaded, pictures: np.ndarray, copy: str
) -> None:
    report = verify(loaded(secret="another secret, a wrong one"), pictures, copy, openers=SMALL)

    assert not report.found
    assert report.suspect.p > 0.001


def test_the_protected_model_itself_shows_no_mark(
    loaded: Loaded, root: Path, pictures: np.ndarray
) -> None:
    own = str(root / "configs/models/mnist-ini.safetensors")
    report = verify(loaded(), pictures, own, openers=Openers("lenet"))

    assert (report.suspect.named, report.suspect.p) == (0, 1.0)


def test_where_an_independent_model_shows_the_mark_nothing_is_proven(
    loaded: Loaded, pictures: np.ndarray, copy: str
) -> None:
    report = verify(loaded(), pictures, copy, independent=[copy], openers=SMALL)

    assert not report.sound
    assert not report.found
    assert "prove nothing" in verdict(report)[0]


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer() as started:
        yield started


def served_as(form: str, path: str) -> Any:
    """The model in a file, as a V1 server answers with it: probabilities or labels."""
    network = architectures.build("lenet", {"width": 4}).eval()
    weights.load_into(network, Path(path), "lenet")

    async def answer(asked: Any, writer: Any) -> None:
        with torch.inference_mode():
            values = torch.softmax(network(torch.from_numpy(asked.rows)), dim=1)
        said = values if form == "probabilities" else values.argmax(dim=1)
        await saying({"predictions": said.tolist()})(asked, writer)

    return answer


@pytest.mark.parametrize("form", ["probabilities", "labels"])
def test_a_served_suspect_is_read_like_its_file_whatever_form_it_answers(
    loaded: Loaded, server: HostileServer, pictures: np.ndarray, copy: str, form: str
) -> None:
    server.answer = served_as(form, copy)
    by_file = verify(loaded(), pictures[:300], copy, openers=SMALL)
    headers = Openers(headers={"X-API-Key": "k"})
    by_wire = verify(loaded(), pictures[:300], f"{server.url}/v1/models/m", openers=headers)

    assert by_wire.suspect.named == by_file.suspect.named > 0
    assert by_wire.suspect.p == by_file.suspect.p
    assert server.posts[0].headers["x-api-key"] == "k"


# --- the exact test ---


def brute(cells: np.ndarray, turns: np.ndarray, classes: int, rate: float, named: int) -> float:
    """The chance of ``named`` or more, by going through every outcome of every cell."""
    ids = sorted(set(cells.tolist()))
    total = 0.0
    for outcome in product(range(classes), repeat=len(ids)):  # 0: not marked
        chance = np.prod([rate / (classes - 1) if turn else 1 - rate for turn in outcome])
        turn_of = dict(zip(ids, outcome, strict=True))
        hits = sum(turn_of[c] == t != 0 for c, t in zip(cells.tolist(), turns, strict=True))
        total += float(chance) * (hits >= named)
    return total


@pytest.mark.parametrize("seed", range(6))
def test_the_p_value_is_that_of_counting_every_outcome(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells, turns = rng.integers(0, 5, 14), rng.integers(0, 4, 14)
    marked_turns = rng.integers(1, 4, 5)[cells]
    draws = rng.random(5)[cells]
    marks = Marks(cells.astype(np.uint64), draws, marked_turns)
    clean = rng.integers(0, 4, 14)
    reading = read("m", marks, clean, (clean + turns) % 4, 4, 0.4)

    assert reading.p == pytest.approx(brute(cells, turns, 4, 0.4, reading.named))


def test_under_wrong_keys_p_is_at_most_a_with_probability_at_most_a(digits: Images) -> None:
    """A model that disagrees on a fifth of the rows, and more often on some pictures than on others."""
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(digits.x[:1500])
    clean = rng.integers(0, 10, 1500)
    dark = digits.x[:1500].mean(axis=(1, 2, 3))
    wrong = rng.random(1500) < np.where(dark > np.median(dark), 0.35, 0.05)
    said = np.where(wrong, (clean + rng.integers(1, 4, 1500)) % 10, clean)
    found = np.array(
        [
            read("m", dawn(f"key {n}".encode()).marks(inputs, 10), clean, said, 10, RATE).p
            for n in range(150)
        ]
    )

    for level in (0.01, 0.05, 0.2, 0.5):
        share, spread = (found <= level).mean(), 3 * np.sqrt(level * (1 - level) / len(found))
        assert share <= level + spread, level
    assert (found <= 0.5).mean() > 0.35  # and it is not merely large


def test_a_tiny_chance_is_told_as_a_number() -> None:
    rows = 5000
    marks = Marks(np.arange(rows, dtype=np.uint64), np.zeros(rows), np.ones(rows, np.int64))
    reading = read("m", marks, np.zeros(rows, np.int64), np.ones(rows, np.int64), 10, 0.01)

    assert reading.p == ownership.SMALLEST


def test_many_rows_of_one_cell_are_one_piece_of_evidence() -> None:
    rows = 500
    marks = Marks(np.zeros(rows, np.uint64), np.zeros(rows), np.ones(rows, np.int64))
    reading = read("m", marks, np.zeros(rows, np.int64), np.ones(rows, np.int64), 10, 0.01)

    assert reading.named == rows
    assert reading.p == pytest.approx(0.01 / 9)


# --- the words ---


def report(p: float, *controls: float) -> Report:
    others = [Reading("other", 10, 0, control) for control in controls]
    return Report(100, 0.1, 50, 5, Reading("suspect", 10, 9, p), others)


@pytest.mark.parametrize(
    ("made", "found", "words"),
    [
        (report(1e-9, 0.5), True, "shows the mark"),
        (report(1e-9), True, "No independent model was compared"),
        (report(1e-3, 0.5), False, "does not clear the suspect"),
        (report(1e-9, 0.009), False, "prove nothing"),
        (report(1e-9, 0.009, 0.5), True, "shows the mark"),
    ],
)
def test_the_words_follow_the_numbers_and_say_what_is_not_proven(
    made: Report, found: bool, words: str
) -> None:
    first, last = verdict(made)

    assert made.found is found
    assert words in first
    assert "never sole proof" in last


# --- bad input ---


def linear_file(tmp_path: Path) -> str:
    path = tmp_path / "other.onnx"
    path.write_bytes(linear())
    return str(path)


def test_weights_of_another_architecture_are_refused(
    loaded: Loaded, pictures: np.ndarray, copy: str
) -> None:
    with pytest.raises(WeightsError, match="do not fit architecture 'lenet'"):
        verify(loaded(), pictures, copy, openers=Openers("lenet", {"width": 7}))


def test_a_weight_file_needs_its_architecture(
    loaded: Loaded, pictures: np.ndarray, copy: str
) -> None:
    with pytest.raises(ConfigError, match="name their --architecture"):
        verify(loaded(), pictures, copy)


def test_a_model_of_other_inputs_cannot_be_compared(
    loaded: Loaded, pictures: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"takes rows of shape \(4,\), the protected model"):
        verify(loaded(), pictures, linear_file(tmp_path))


def test_a_model_of_other_classes_cannot_be_compared(
    loaded: Loaded, pictures: np.ndarray, tmp_path: Path
) -> None:
    network = architectures.build("lenet", {"classes": 7, "width": 4})
    weights.save(network, tmp_path / "seven.safetensors", {})
    openers = Openers("lenet", {"classes": 7, "width": 4})

    with pytest.raises(ConfigError, match="classes: 7, the protected model 10"):
        verify(loaded(), pictures, str(tmp_path / "seven.safetensors"), openers=openers)


@pytest.mark.parametrize("name", ["model.pt", "http://host", "ftp://host/v1/models/m", ""])
def test_what_is_no_model_is_refused_with_what_would_be(
    loaded: Loaded, pictures: np.ndarray, name: str
) -> None:
    with pytest.raises(ConfigError, match="http://HOST:PORT/v1/models/NAME"):
        verify(loaded(), pictures, name)


@pytest.mark.parametrize(
    "answer",
    [
        {"predictions": [[[[0.5] * 8] * 8] * 3] * 64},  # pictures
        {"predictions": [12] * 64},  # labels of other classes
        {"predictions": [0.5] * 64},
        {"predictions": [[0.1] * 7] * 64},
        {"error": "no"},
    ],
)
def test_a_served_suspect_that_answers_anything_else_is_refused(
    loaded: Loaded, server: HostileServer, pictures: np.ndarray, answer: object
) -> None:
    server.answer = saying(answer)

    with pytest.raises(VictimError, match="answered"):
        verify(loaded(), pictures[:64], f"{server.url}/v1/models/m:predict")


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (5, 3, 28, 28)])
def test_queries_of_another_shape_are_refused(
    loaded: Loaded, shape: tuple[int, ...], copy: str
) -> None:
    with pytest.raises(ConfigError, match=r"the queries have shape .*\(1, 28, 28\)"):
        verify(loaded(), np.zeros(shape, np.float32), copy, openers=SMALL)


def test_queries_without_a_marked_row_say_nothing(
    loaded: Loaded, pictures: np.ndarray, copy: str
) -> None:
    with pytest.raises(ConfigError, match="none of the 3 queries is marked"):
        verify(
            loaded({"type": "dawn", "rate_suspected": 0.0, "rate_alarmed": 1e-6}),
            pictures[:3],
            copy,
            openers=SMALL,
        )


@pytest.mark.parametrize(
    "defenses",
    [
        [{"type": "rounding"}],
        [{"type": "dawn", "rate_suspected": 0, "rate_alarmed": 0}],
        [{"type": "dawn"}, {"type": "dawn", "name": "second"}],
    ],
)
def test_a_config_without_one_dawn_is_not_the_one_that_answered(
    loaded: Loaded, pictures: np.ndarray, copy: str, defenses: list[dict[str, Any]]
) -> None:
    with pytest.raises(ConfigError, match="type 'dawn' with a rate above 0, wanted one"):
        verify(loaded(*defenses), pictures, copy, openers=SMALL)


def test_a_secret_is_never_made_anew(
    loaded: Loaded, tmp_path: Path, pictures: np.ndarray, copy: str
) -> None:
    with pytest.raises(ConfigError, match="its marks are not known"):
        verify(loaded(secret=None), pictures, copy, openers=SMALL)
    assert not (tmp_path / "data").exists()


def test_of_several_models_one_must_be_named(
    loaded: Loaded, pictures: np.ndarray, copy: str
) -> None:
    one = loaded()
    both = one.model_copy(update={"models": one.models | {"second": one.models["mnist"]}})
    with pytest.raises(ConfigError, match="name one with --model"):
        verify(both, pictures, copy, openers=SMALL)
    with pytest.raises(ConfigError, match="'mnst' is unknown; did you mean"):
        verify(both, pictures, copy, model="mnst", openers=SMALL)

    assert verify(both, pictures[:300], copy, model="second", openers=SMALL).suspect.named
