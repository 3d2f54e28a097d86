import torch

from defenses.gaussian_noise import GaussianNoise
from mantlet import noise, simplex
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction
from tests.helpers import SETUP, probabilities, query, rows

SMOOTH = [[0.6, 0.2, 0.1, 0.06, 0.04]]


def loaded(sigma: float = 0.05, secret: bytes = SETUP.secret, name: str = "") -> GaussianNoise:
    defense = GaussianNoise(sigma=sigma, name=name)
    defense.load(Setup(SETUP.device, secret))
    return defense


def clean(count: int) -> Prediction:
    return probabilities(SMOOTH * count)


def test_the_answer_is_clean_plus_keyed_noise_where_the_label_holds() -> None:
    inputs = rows(300)
    drawn = noise.normal(SETUP.secret, "gaussian_noise", inputs, 5)
    expected = simplex.normalize(clean(300).values + 0.05 * drawn)
    kept = expected.argmax(dim=1) == 0
    answer = loaded()(clean(300), query(inputs), {}).values

    assert kept.sum() > 250
    assert torch.allclose(answer[kept], expected[kept])


def test_a_repeated_query_gets_the_same_noise_so_that_averaging_gains_nothing() -> None:
    defense, once = loaded(), rows(1)
    many = torch.cat([once] * 500)
    answer = defense(clean(500), query(many), {}).values

    assert torch.equal(answer, answer[:1].expand_as(answer))
    assert not torch.allclose(answer[0], clean(1).values[0], atol=1e-3)


def test_the_noise_differs_by_row_secret_and_name() -> None:
    inputs = rows(2)
    first = loaded()(clean(2), query(inputs), {}).values
    others = [
        loaded(secret=b"another secret of 16")(clean(2), query(inputs), {}).values,
        loaded(name="second")(clean(2), query(inputs), {}).values,
    ]

    assert not torch.allclose(first[0], first[1], atol=1e-3)
    assert all(not torch.allclose(first, other, atol=1e-3) for other in others)


def test_jitter_that_nobody_sees_draws_no_new_noise() -> None:
    grey = torch.full((1, 1, 4, 4), 128 / 255)
    jittered = grey + 0.4 / 255 * torch.rand(1, 1, 4, 4)
    defense = loaded()

    assert torch.equal(
        defense(clean(1), query(grey), {}).values, defense(clean(1), query(jittered), {}).values
    )


def test_more_sigma_is_more_noise() -> None:
    distances = [
        float(
            (loaded(sigma)(clean(500), query(rows(500)), {}).values - clean(500).values)
            .abs()
            .mean()
        )
        for sigma in (0.01, 0.05, 0.2)
    ]

    assert distances == sorted(distances)
    assert distances[2] > 4 * distances[0]


def test_pictures_get_noise_of_that_size_keyed_on_the_row_and_stay_pictures() -> None:
    grey = Prediction(torch.full((2, 3, 64, 64), 0.5), Kind.IMAGES)
    asked = rows(1).repeat(2, 1, 1, 1)
    change = loaded(0.05)(grey, query(asked), {}).values - 0.5
    other = loaded(0.05)(grey, query(rows(2)), {}).values - 0.5
    bright = loaded(1.0)(Prediction(torch.ones(2, 3, 64, 64), Kind.IMAGES), query(asked), {})

    assert torch.equal(change[0], change[1])
    assert abs(float(change.std()) - 0.05) < 0.002
    assert abs(float(torch.corrcoef(other.flatten(1))[0, 1])) < 0.05
    assert bright.values.max() <= 1
    assert bright.values.min() >= 0
