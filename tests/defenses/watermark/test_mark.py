"""How strong the mark is, and what it depends on."""

import pytest
import torch
from torch import Tensor

from defenses.watermark import mark as mark_module
from defenses.watermark.detection import detect
from defenses.watermark.mark import Mark
from defenses.watermark.tracing import payload

SECRET = b"a secret of the tests"


def pictures(count: int = 4, channels: int = 1, side: int = 28) -> Tensor:
    """Black with bright blobs, of 8 bits."""
    drawn = torch.rand(
        count, channels, side // 4, side // 4, generator=torch.Generator().manual_seed(1)
    )
    large = torch.nn.functional.interpolate(drawn, size=(side, side), mode="bilinear")
    return ((large - 0.5).clamp(min=0) * 2 * 255).round() / 255


def psnr(before: Tensor, after: Tensor) -> Tensor:
    rounded = (after * 255).round() / 255
    return -10 * (rounded - before).square().mean(dim=(1, 2, 3)).log10()


@pytest.mark.parametrize(
    ("side", "asked", "kept"), [(28, None, 38), (96, None, 40), (28, 45.0, 45)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_keep_the_psnr_and_not_much_more(
    side: int, asked: float | None, kept: float, channels: int
) -> None:
    before = pictures(channels=channels, side=side)
    after = Mark(SECRET, "m", psnr=asked).embed(before, ["ann"] * 4)

    assert psnr(before, after).min() >= kept
    assert psnr(before, after).max() < kept + 1.5


def test_black_white_and_grey_pictures_are_marked_within_the_psnr() -> None:
    flat = torch.tensor([0.0, 1.0, 0.5]).view(3, 1, 1, 1).expand(3, 1, 28, 28)
    marked = Mark(SECRET, "m").embed(flat, ["ann"] * 3)

    assert psnr(flat, marked).min() >= 38
    assert (marked != flat).flatten(1).any(dim=1).all()


def test_bits_that_a_large_picture_speaks_against_get_more_of_its_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After it was halved and enlarged again, the worst bit says more than with equal parts."""
    key, before = Mark(SECRET, "m").key, pictures(6, side=128)
    worst = {}
    for emphasis in (mark_module.EMPHASIS, (1.0, 1.0)):
        monkeypatch.setattr(mark_module, "EMPHASIS", emphasis)
        after = Mark(SECRET, "m").embed(before, ["ann"] * 6)
        half = torch.nn.functional.interpolate(
            after, scale_factor=0.5, mode="bilinear", antialias=True
        )
        back = torch.nn.functional.interpolate(half, size=(128, 128), mode="bilinear")
        said = [payload(detect(one[None], key), key) * key.bits("ann") for one in back]
        worst[emphasis] = float(torch.stack([s.min() / s.mean() for s in said]).mean())

    assert worst[0.6, 2.0] > worst[1.0, 1.0] + 0.1


def test_rows_of_several_clients_are_marked_as_each_alone() -> None:
    mark, before = Mark(SECRET, "m"), pictures()
    clients = ["ann", "bob", "ann", "cyd"]
    together = mark.embed(before, clients)
    alone = [mark.embed(before[[i]], [client]) for i, client in enumerate(clients)]

    assert torch.allclose(together, torch.cat(alone), atol=1e-6)
    assert not torch.allclose(together[0] - before[0], together[1] - before[1], atol=1e-3)


def test_colours_are_moved_alike() -> None:
    grey = torch.full((1, 3, 32, 32), 0.5)
    change = Mark(SECRET, "m").embed(grey, ["ann"]) - grey

    assert torch.allclose(change[:, 0], change[:, 1], atol=1e-6)
    assert torch.allclose(change[:, 0], change[:, 2], atol=1e-6)


def test_the_clients_whose_signs_are_kept_are_bounded() -> None:
    mark, one = Mark(SECRET, "m"), pictures(1)
    for client in range(1100):
        mark.embed(one, [f"client {client}"])

    assert mark._own.cache_info().currsize <= 1024


def test_masking_moves_the_mark_off_flat_grey() -> None:
    half = torch.full((1, 1, 32, 32), 0.5)
    half[..., 16:] += 0.2 * torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    half = half.clamp(0.1, 0.9)
    shares = []
    for masking in (0.0, 1.0):
        change = Mark(SECRET, "m", masking=masking).embed(half, ["ann"]) - half
        shares.append(change[..., :13].square().sum() / change.square().sum())

    assert shares[1] < 0.6 * shares[0]


def test_a_sparse_mark_brightens_black_less_and_keeps_the_psnr() -> None:
    before = pictures(8)
    dark = before < 0.01
    haze = []
    for sparse in (0.0, 0.5, 1.0):
        after = Mark(SECRET, "m", masking=0.0, sparse=sparse).embed(before, ["ann"] * 8)
        haze.append(float((after - before)[dark].mean()))

        assert 38 <= psnr(before, after).min() <= psnr(before, after).max() < 41

    assert haze[2] < 0.7 * haze[0]
    assert haze[2] < haze[1] < haze[0]


@pytest.mark.parametrize("masking", [0.0, 0.5, 1.0])
def test_the_same_dots_are_drawn_on_black_whatever_is_taken_from_it(masking: float) -> None:
    before = torch.zeros(1, 1, 28, 28)
    whole = Mark(SECRET, "m", sparse=1.0).embed(before, ["ann"])
    less = Mark(SECRET, "m", sparse=1.0, masking=masking, black=0.2).embed(before, ["ann"])

    assert whole.any()
    torch.testing.assert_close(less, whole)


def test_a_sparse_mark_is_found() -> None:
    mark, before = Mark(SECRET, "m", sparse=1.0), pictures(64)
    served = mark.embed(before, ["ann"] * 64)

    assert detect(served, mark.key).p < 1e-6
    assert detect(served, Mark(b"another", "m").key).p > 1e-3
