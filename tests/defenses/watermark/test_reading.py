"""What is read of pictures before any key is asked."""

import torch

from defenses.watermark.carriers import BAND
from defenses.watermark.reading import read, softened
from defenses.watermark.registration import Places


def pictures(count: int, height: int = 28, width: int = 28) -> torch.Tensor:
    return torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(count))


def test_batches_and_sizes_do_not_matter() -> None:
    small, large = pictures(3), pictures(2, 40, 64)
    together = read([small, large])
    alone = [read([p[None]]) for p in [*small, *large]]

    assert together.waves.shape == (5, 2, len(BAND))
    assert list(together.sizes) == [(28, 28)] * 3 + [(40, 64)] * 2
    assert torch.allclose(together.waves, torch.cat([a.waves for a in alone]), atol=1e-5)


def test_a_mirrored_picture_reads_as_the_mirrored_side_of_the_picture() -> None:
    plain, mirrored = read([pictures(2)]), read([pictures(2).flip(-1)])

    assert torch.allclose(plain.waves, mirrored.waves.flip(1), atol=1e-5)


def test_whitening_knows_nothing_of_where_a_picture_lies() -> None:
    """Moving before and after is the same: a place can be sought in what was whitened."""
    rolled = pictures(12, 64, 64)
    waves = read([rolled]).waves
    at = Places(torch.zeros(12, dtype=torch.long), torch.full((12,), 5), torch.full((12,), 9))
    turned = torch.view_as_complex(at.moved(waves).unflatten(1, (-1, 2)).contiguous())
    moved = type(read([rolled]))(torch.stack([turned, waves[:, 1]], dim=1), [(64, 64)] * 12)

    assert torch.allclose(
        at.moved(read([rolled]).whitened),
        torch.view_as_real(moved.whitened[:, 0]).flatten(1),
        atol=1e-3,
    )


def test_no_wave_outvotes_the_others() -> None:
    loud = pictures(12)
    loud[0, 0] += 5 * torch.sin(torch.arange(28) * 1.0)

    assert read([loud]).whitened.abs().max() <= 1
    ordinary, strong = softened(torch.tensor([1.0, 100.0]), torch.ones(2))
    assert strong < 2 * ordinary


def test_nothing_is_read_of_no_pictures() -> None:
    assert len(read([])) == 0
    assert len(read([torch.zeros(0, 1, 28, 28)])) == 0
