"""What a key makes of a model and of clients."""

import torch

from defenses.watermark.carriers import BAND, BIT_OF, BITS, COUNT, TILE, MarkKey, radii, tiles

KEY = MarkKey(b"a secret of the tests", "digits")


def test_signs_are_those_of_secret_and_model_and_of_nothing_else() -> None:
    again = MarkKey(b"a secret of the tests", "digits")
    others = MarkKey(b"another secret", "digits"), MarkKey(b"a secret of the tests", "clothes")

    assert torch.equal(KEY.model, again.model)
    assert torch.equal(KEY.payload("ann"), again.payload("ann"))
    for other in others:
        assert abs(float(KEY.model @ other.model)) / COUNT < 0.3
        assert abs(float(KEY.client @ other.client)) / COUNT < 0.3
    assert abs(float(KEY.model @ KEY.client)) / COUNT < 0.3


def test_clients_differ_in_about_half_of_their_bits() -> None:
    bits = torch.stack([KEY.bits(f"client {i}") for i in range(2000)])

    assert bits.shape == (2000, BITS)
    assert bits.mean().abs() < 0.02
    assert (bits[1:] == bits[:-1]).float().mean() - 0.5 < 0.01
    assert len(bits.unique(dim=0)) == 2000


def test_each_bit_rides_on_slow_and_fast_waves() -> None:
    radius = radii().repeat_interleave(2)
    means = torch.stack([radius[bit == BIT_OF].mean() for bit in range(BITS)])

    assert means.max() - means.min() < 0.7
    assert torch.bincount(BIT_OF).min() >= 8


def test_waves_lie_between_the_picture_and_what_compression_drops() -> None:
    assert radii().min() >= 2
    assert radii().max() < 9.5
    mirrored = (-BAND) % TILE  # of two waves that are conjugates one is there
    own = {tuple(wave) for wave in BAND.tolist()}
    assert not own & {tuple(wave) for wave in mirrored.tolist()}


def test_every_pattern_is_equally_strong() -> None:
    patterns = tiles(torch.stack([KEY.model, KEY.client, KEY.payload("ann")]))

    assert torch.allclose(patterns.square().mean(dim=(1, 2)), torch.ones(3), atol=1e-4)
    assert torch.allclose(patterns.mean(dim=(1, 2)), torch.zeros(3), atol=1e-5)
