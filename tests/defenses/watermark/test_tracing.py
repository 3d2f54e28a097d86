"""The client to whom pictures were answered is named, and nobody else."""

import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.watermark.carriers import BITS, MarkKey
from defenses.watermark.detection import detect
from defenses.watermark.mark import Mark
from defenses.watermark.tracing import payload, trace
from mantlet.data import Images

MARK = Mark(b"a secret of the tests", "m")
CLIENTS = [f"client {i}" for i in range(1000)]


@pytest.fixture(scope="module")
def clean(digits: Images) -> Tensor:
    return torch.from_numpy(digits.x[:64])


def test_a_client_is_traced_among_a_thousand(clean: Tensor) -> None:
    for leaker in ("client 3", "client 500"):
        served = MARK.embed(clean, [leaker] * 64)
        suspects = trace(detect(served, MARK.key), MARK.key, CLIENTS)

        assert [s.client for s in suspects[:1]] == [leaker]
        assert suspects[0].p < 1e-3
        assert suspects[1].p > 0.01
        assert suspects[0].agreeing >= 28


def test_the_bits_are_read_off_one_large_picture(clean: Tensor) -> None:
    large = torch.nn.functional.interpolate(clean[:2], size=(200, 240), mode="bilinear")
    served = MARK.embed(large, ["client 7", "client 8"])
    for i, client in enumerate(["client 7", "client 8"]):
        said = payload(detect(served[[i]][..., 9:, 4:], MARK.key), MARK.key)

        assert said.shape == (BITS,)
        assert (said.sign() == MARK.key.bits(client)).float().mean() >= 30 / 32


def test_nobody_is_accused_where_the_leaker_is_not_listed(clean: Tensor) -> None:
    """At most one list in a hundred has somebody at p <= 0.01, marked pictures or not."""
    clean = clean[:32]
    found = detect(MARK.embed(clean, ["somebody else"] * 32), MARK.key)
    lists = [[f"{i}/{j}" for j in range(20)] for i in range(300)]
    p = np.array([trace(found, MARK.key, names)[0].p for names in lists])

    assert (p <= 0.1).mean() < 0.15
    assert (p <= 0.01).mean() < 0.03
    unmarked = trace(detect(clean, MarkKey(b"other", "m")), MARK.key, CLIENTS)
    assert unmarked[0].p > 0.01


def test_without_clients_there_is_nobody_to_name(clean: Tensor) -> None:
    assert trace(detect(clean[:2], MARK.key), MARK.key, []) == []
