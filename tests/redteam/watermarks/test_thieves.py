"""Washes and accounts that act together are measured as they are named."""

import pytest
import torch

from defenses.watermark.mark import Mark
from mantlet.data import Images
from redteam.watermarks import thieves
from redteam.watermarks.thieves import WASHES, colluding, washed

CLIENTS = [f"client {i}" for i in range(40)]


def made(secret: bytes) -> Mark:
    return Mark(secret, "m")


@pytest.fixture(scope="module")
def clean(digits: Images) -> torch.Tensor:
    return torch.from_numpy(digits.x[:80])


def test_black_washes_digits_and_brings_them_nearer_to_what_they_were(
    clean: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thieves, "SEEN", (64,))
    found = {r["wash"]: r for r in washed(clean, made, 2, "client 0")}

    assert found.keys() == WASHES.keys()
    assert found["none"]["p_most"] < 1e-6
    assert all(r["pictures"] == 64 and r["keys"] == 2 for r in found.values())
    assert found["black below 0.05"]["p_median"] > 1e6 * found["none"]["p_median"]
    assert found["black below 0.05"]["psnr"] > found["none"]["psnr"] >= 38


def test_accounts_together_are_harder_to_name_and_no_innocent_is(clean: torch.Tensor) -> None:
    found = {(r["accounts"], r["how"]): r for r in colluding(clean, made, 2, CLIENTS)}
    alone, many = found[1, "alone"], found[10, "mean"]

    assert len(found) == 9
    assert alone["right"] == 1
    assert alone["p_median"] < 1e-3 < many["p_median"]
    assert all(r["p_honest_least"] > 1e-3 for r in found.values())
    assert all(r["p_model_most"] < 1e-6 for r in found.values())
