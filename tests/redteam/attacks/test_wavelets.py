"""The wavelet transform, beside PyWavelets."""

from typing import get_args

import numpy as np
import pytest
import pywt
import torch

from redteam.attacks import wavelets
from redteam.attacks.wavelets import Basis


@pytest.mark.parametrize("basis", get_args(Basis))
@pytest.mark.parametrize("size", [(28, 28), (17, 30), (5, 4)])
def test_details_are_those_of_pywavelets(basis: Basis, size: tuple[int, int]) -> None:
    pictures = torch.from_numpy(np.random.default_rng(0).random((2, 3, *size)))
    ours = wavelets.high_bands(pictures, basis=basis, levels=2)
    rest = pictures.numpy()
    for bands in ours:
        rest, details = pywt.dwt2(rest, basis, mode="zero")
        theirs = np.stack(details, axis=2)  # (B, C, 3, h, w)

        assert np.abs(bands.numpy() - theirs.reshape(bands.shape)).max() < 1e-9


def test_gradients_flow_and_the_error_of_equal_pictures_is_zero() -> None:
    pictures = torch.rand(2, 1, 12, 12, dtype=torch.float64, requires_grad=True)
    wanted = torch.rand(2, 1, 12, 12, dtype=torch.float64)

    def error(x: torch.Tensor) -> torch.Tensor:
        return wavelets.high_band_error(x, wanted, basis="db3", levels=2)

    assert torch.autograd.gradcheck(error, pictures)
    assert float(wavelets.high_band_error(wanted, wanted, basis="haar", levels=1)) == 0.0


def test_details_do_not_see_how_bright_a_picture_is_but_at_its_edge() -> None:
    flat = torch.full((1, 1, 16, 16), 0.6)
    fine, coarse = wavelets.high_bands(flat, basis="haar", levels=2)

    assert fine.abs().max() < 1e-6
    assert coarse.abs().max() < 1e-6
