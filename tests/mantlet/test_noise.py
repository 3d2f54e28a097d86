import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mantlet import noise
from tests.helpers import rows

KEY = b"a secret of the tests"


def test_the_same_row_draws_the_same_noise_wherever_it_stands() -> None:
    inputs = rows(20)
    together = noise.normal(KEY, "noise", inputs, 10)
    alone = torch.cat([noise.normal(KEY, "noise", row[None], 10) for row in inputs])

    assert torch.equal(together, alone)


def test_different_rows_draw_different_noise() -> None:
    drawn = noise.normal(KEY, "noise", rows(500), 4)

    assert len(torch.unique(drawn, dim=0)) == 500


@pytest.mark.parametrize(("key", "name"), [(b"another secret", "noise"), (KEY, "noise2")])
def test_another_secret_or_name_draws_other_noise(key: bytes, name: str) -> None:
    inputs = rows(2000)
    first, second = noise.normal(KEY, "noise", inputs, 5), noise.normal(key, name, inputs, 5)
    correlation = np.corrcoef(first.flatten(), second.flatten())[0, 1]

    assert abs(correlation) < 0.05
    assert not (first == second).all(dim=1).any()


def test_noise_is_standard_normal() -> None:
    """Kolmogorov-Smirnov on 100,000 draws, and no correlation between the columns of a row."""
    drawn = noise.normal(KEY, "noise", rows(20_000, shape=(8,)), 5).numpy()

    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1.0) < 0.02
    assert abs(stats.skew(drawn, axis=None)) < 0.05
    assert abs(stats.kurtosis(drawn, axis=None)) < 0.1
    assert stats.kstest(drawn.flatten(), "norm").pvalue > 0.01
    assert np.abs(np.corrcoef(drawn.T) - np.eye(5)).max() < 0.04


def test_uniform_draws_stay_inside_the_open_interval_and_are_uniform() -> None:
    drawn = noise.uniform(np.arange(20_000, dtype=np.uint64), 5)

    assert drawn.min() > 0.0
    assert drawn.max() < 1.0
    assert stats.kstest(drawn.flatten(), "uniform").pvalue > 0.01


def test_the_sequence_of_a_seed_is_splitmix64() -> None:
    """First outputs for seed 1234567, as in the reference implementation by Vigna (splitmix64.c)."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    drawn = noise.uniform(np.array([1234567], dtype=np.uint64), 3)[0]

    assert drawn == pytest.approx([n / 2**64 for n in expected], abs=1e-15)


@given(st.integers(0, 255), st.floats(-0.49, 0.49))
def test_jitter_below_the_step_draws_no_new_noise(level: int, jitter: float) -> None:
    grey = torch.full((1, 9), level / 255)
    moved = grey + jitter / 255

    assert torch.equal(noise.normal(KEY, "n", grey, 3), noise.normal(KEY, "n", moved, 3))


def test_a_change_of_one_step_in_one_pixel_draws_new_noise() -> None:
    inputs = torch.full((1, 784), 0.5)
    changed = inputs.clone()
    changed[0, 300] += 1 / 255

    assert not torch.equal(noise.normal(KEY, "n", inputs, 3), noise.normal(KEY, "n", changed, 3))


def test_noise_depends_on_the_numbers_and_not_on_their_layout_in_memory() -> None:
    inputs = rows(6, shape=(3, 4, 4))
    layouts = [
        inputs.to(memory_format=torch.channels_last),
        torch.from_numpy(np.asfortranarray(inputs.numpy())),
        inputs.flatten(1).T.contiguous().T,
    ]
    expected = noise.normal(KEY, "n", inputs, 3)

    assert all(torch.equal(noise.normal(KEY, "n", layout, 3), expected) for layout in layouts)


def test_values_beyond_the_range_of_the_hash_are_drawn_for_and_do_not_wrap() -> None:
    large, wrapped = torch.full((1, 4), 300.0), torch.full((1, 4), 300.0 - 65536 / 255)

    assert torch.isfinite(noise.normal(KEY, "n", large, 3)).all()
    assert not torch.equal(noise.normal(KEY, "n", large, 3), noise.normal(KEY, "n", wrapped, 3))


@pytest.mark.parametrize("count", [1, 2, 3, 100])
def test_any_number_of_columns_can_be_drawn(count: int) -> None:
    assert noise.normal(KEY, "n", rows(3), count).shape == (3, count)


def test_the_same_row_has_the_same_mark_in_every_batch() -> None:
    rows = torch.rand(40, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    together = noise.row_marks(b"key", rows)

    assert together.tolist() == [int(noise.row_marks(b"key", row[None])[0]) for row in rows]
    assert len(set(together.tolist())) == 40


def test_rows_that_differ_in_a_bit_have_other_marks() -> None:
    row = torch.rand(1, 784, generator=torch.Generator().manual_seed(1))
    other = row.clone()
    other[0, 300] = torch.nextafter(other[0, 300], torch.tensor(1.0))

    assert noise.row_marks(b"key", row) != noise.row_marks(b"key", other)


def test_marks_cannot_be_made_without_the_key() -> None:
    """Two rows with one mark under a key, here found by trying, have different ones under another."""
    rows = torch.rand(400_000, 2, generator=torch.Generator().manual_seed(2))
    marks = noise.row_marks(b"key", rows)
    order = marks.argsort(kind="stable")
    [twins] = (np.diff(marks[order].astype(np.int64)) == 0).nonzero()
    pairs = torch.from_numpy(np.stack([order[twins], order[twins + 1]]))
    one, other = (noise.row_marks(b"another key", rows[own]) for own in pairs)

    assert len(twins) > 3
    assert (one != other).mean() > 0.9


def test_fields_are_standard_normal_and_a_seed_draws_the_same_wherever_it_stands() -> None:
    seeds = noise.row_seeds(KEY, "noise", rows(40))
    drawn = noise.fields(seeds, (3, 20, 20))
    turned = noise.fields(seeds[::-1].copy(), (3, 20, 20))

    assert torch.equal(drawn, turned.flip(0))
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 0.01
    assert np.abs(np.corrcoef(drawn.flatten(1).numpy()) - np.eye(40)).max() < 0.15


def test_items_have_seeds_of_their_own_under_each_key_and_name() -> None:
    items = [b"one", b"other"]
    drawn = [noise.seeds_of(k, n, items) for k, n in ((KEY, "n"), (KEY, "m"), (b"key", "n"))]

    assert np.array_equal(drawn[0], noise.seeds_of(KEY, "n", items))
    assert len(np.unique(drawn)) == 6
