from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.dawn import Dawn
from mantlet.data import Images
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction, Signal
from tests.helpers import SETUP, query, rows

ANSWER = [0.5, 0.2, 0.15, 0.1, 0.05]


def loaded(secret: bytes = SETUP.secret, **settings: float) -> Dawn:
    defense = Dawn(**settings)  # type: ignore[arg-type]  # rates
    defense.load(Setup(SETUP.device, secret))
    return defense


def heard(count: int, suspicion: float) -> dict[str, Signal]:
    """A quiet detector, and one that says so much of every row."""
    said = torch.full((count,), suspicion)
    return {
        "quiet": Signal(torch.zeros(count), torch.zeros(count, dtype=torch.bool), "quiet"),
        "loud": Signal(said, said >= 1, "loud"),
    }


def released(defense: Dawn, inputs: Tensor, suspicion: float) -> Tensor:
    clean = Prediction(torch.tensor([ANSWER] * len(inputs)), Kind.PROBABILITIES)
    return defense(clean, query(inputs), heard(len(inputs), suspicion)).values


def marked(defense: Dawn, inputs: Tensor, suspicion: float) -> Tensor:
    """(B,) which rows name another class than the clean one."""
    return released(defense, inputs, suspicion).argmax(dim=1) != 0


@pytest.fixture(scope="module")
def pictures(digits: Images) -> Tensor:
    return torch.from_numpy(digits.x[:3000])


@pytest.mark.parametrize(
    ("suspicion", "rate"), [(0.0, 0.0), (0.49, 0.0), (0.5, 0.1), (0.99, 0.1), (1.0, 0.3)]
)
def test_the_share_of_marked_rows_is_the_rate_of_the_clients_step(
    suspicion: float, rate: float
) -> None:
    defense = loaded(rate_suspected=0.1, rate_alarmed=0.3)
    share = marked(defense, rows(4000), suspicion).double().mean()

    assert float(share) == pytest.approx(rate, abs=0.03)


def test_nobody_unsuspected_is_marked_by_default(pictures: Tensor) -> None:
    assert not marked(loaded(), pictures, 0.4).any()


def test_what_is_marked_at_one_rate_is_marked_at_every_higher_one(pictures: Tensor) -> None:
    defense = loaded(rate_suspected=0.05, rate_alarmed=0.2)
    some, more = marked(defense, pictures, 0.5), marked(defense, pictures, 1.0)

    assert some.any()
    assert (more > some).any()
    assert not (some & ~more).any()


def test_a_marked_row_has_the_sorted_probabilities_of_the_clean_one(pictures: Tensor) -> None:
    """Neither confidence nor entropy tells it apart."""
    defense = loaded(rate_alarmed=0.3)
    answers = released(defense, pictures, 1.0)
    ordered = answers.sort(dim=1, descending=True).values

    assert torch.equal(ordered, torch.tensor([ANSWER]).expand_as(answers))
    # where the mark is, the top class has what the marked class had
    for row in answers[marked(defense, pictures, 1.0)][:20]:
        assert float(row[0]) == pytest.approx(ANSWER[int(row.argmax())])


def test_every_other_class_is_named_about_as_often() -> None:
    named = released(loaded(rate_alarmed=0.5), rows(8000), 1.0).argmax(dim=1)
    counts = np.bincount(named.numpy(), minlength=5)[1:]

    assert counts.min() > 0.7 * counts.mean()
    assert counts.max() < 1.3 * counts.mean()


def changes(defense: Dawn, inputs: Tensor, others: Tensor) -> float:
    """Of the rows marked in either, the share whose answer is not the same in both."""
    one, two = (released(defense, x, 1.0) for x in (inputs, others))
    either = (one.argmax(dim=1) != 0) | (two.argmax(dim=1) != 0)
    assert int(either.sum()) > 20
    return float((one != two).any(dim=1)[either].double().mean())


def jitters(inputs: Tensor) -> Sequence[tuple[str, Tensor, float]]:
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
    return [
        ("noise of 2.5/255", inputs + 0.01 * noise, 0.2),
        ("noise of 8/255", inputs + 0.03 * noise, 0.45),
        ("half a grey level", inputs + 0.5 / 255, 0.02),
        ("dimmed", 0.9 * inputs, 0.05),
        ("32 grey levels", (inputs * 31).round() / 31, 0.2),
        ("moved by two pixels", torch.roll(inputs, (2, -1), dims=(2, 3)), 0.02),
    ]


@pytest.mark.parametrize("which", range(6))
def test_the_same_picture_slightly_changed_falls_on_the_same_decision(
    pictures: Tensor, which: int
) -> None:
    name, changed, most = jitters(pictures)[which]
    share = np.mean([changes(loaded(secret=bytes([k]) * 16), pictures, changed) for k in range(5)])

    assert share < most, f"{name}: {share:.2f}"


def test_another_secret_or_name_marks_other_rows(pictures: Tensor) -> None:
    first = marked(loaded(), pictures, 1.0)
    other = marked(loaded(secret=b"another secret of 16"), pictures, 1.0)
    named = Dawn(name="second")
    named.load(SETUP)

    assert first.any()
    assert not torch.equal(first, other)
    assert not torch.equal(first, marked(named, pictures, 1.0))


@pytest.mark.parametrize("shape", [(7,), (3, 5), (3, 32, 32), (1, 2, 2), (2, 3, 4, 5)])
def test_rows_of_any_shape_are_marked(shape: tuple[int, ...]) -> None:
    share = marked(loaded(rate_alarmed=0.5), rows(300, shape=shape), 1.0).double().mean()

    assert 0.2 < float(share) < 0.8


def test_flat_rows_are_answered_and_share_a_decision() -> None:
    shades = torch.linspace(0, 1, 9)[:, None, None, None].expand(-1, 1, 4, 4)
    cells = loaded().marks(shades, 5).cells

    assert len(set(cells.tolist())) == 1


def test_the_highest_rate_is_the_largest_of_the_three() -> None:
    assert Dawn().highest_rate == 0.05
    assert Dawn(rate_unsuspected=0.1).highest_rate == 0.1
