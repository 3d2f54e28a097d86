"""Honest clients are what their names say, and mixtures keep to their shares and their order."""

import numpy as np
import pytest
import torch

from mantlet.data import Images
from redteam.detection import streams
from redteam.detection.streams import Device, Stream

HOW = {"clients": 4, "rows": 200}


@pytest.fixture(scope="module")
def pictures(digits: Images) -> np.ndarray:
    return (digits.x[:1200] * 255).round().astype(np.uint8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ramp(clients: int, rows: int, first: int = 0) -> Stream:
    """A crowd whose pictures are their own numbers."""
    count = clients * rows
    pool = np.full((first + count, 1, 1, 1), 0, dtype=np.uint8)
    pool[:, 0, 0, 0] = np.arange(first + count) % 250
    return Stream(pool, first + np.arange(count).reshape(clients, rows))


def test_no_honest_client_sends_a_picture_twice(pictures: np.ndarray) -> None:
    for stream in (
        streams.benign(pictures, **HOW, rng=rng()),
        streams.slow_drift(pictures, **HOW, rng=rng()),
        streams.other_device(pictures, [Device.drawn(rng())], **HOW, rng=rng()),
        streams.near_duplicates(pictures, **HOW, rng=rng()),
    ):
        assert stream.order.shape == (4, 200)
        assert all(len(set(own.tolist())) == 200 for own in stream.order)


def test_more_rows_than_pictures_are_refused(pictures: np.ndarray) -> None:
    with pytest.raises(ValueError, match="1300 rows of 1200 pictures; ask for fewer rows"):
        streams.benign(pictures, clients=1, rows=1300, rng=rng())


def test_a_client_of_one_class_sends_nothing_else(digits: Images, pictures: np.ndarray) -> None:
    assert digits.y is not None
    labels = digits.y[: len(pictures)]
    stream = streams.one_class(pictures, labels, **HOW, rng=rng())

    assert [set(labels[own % len(pictures)].tolist()) for own in stream.order] == [
        {0},
        {1},
        {2},
        {3},
    ]
    assert len(set(stream.order[0].tolist())) == min(200, 2 * int((labels == 0).sum()))


def test_frames_of_a_burst_are_near_and_bursts_are_not(pictures: np.ndarray) -> None:
    stream = streams.near_duplicates(pictures, **HOW, rng=rng())
    frames = stream.inputs(stream.order[0]).flatten(1)
    steps = (frames[1:] - frames[:-1]).norm(dim=1)
    between = torch.arange(1, 200) % streams.FRAMES == 0

    assert float(steps[~between].median()) < 0.5 * float(steps[between].median())


def test_drift_starts_at_nothing_and_grows(pictures: np.ndarray) -> None:
    """What a blur does to a picture is seen in how much its neighbours differ."""
    stream = streams.slow_drift(pictures, **HOW, rng=rng())
    blurring = stream.inputs(stream.order[1])  # every second client
    rough = (blurring[..., 1:] - blurring[..., :-1]).abs().mean(dim=(1, 2, 3))
    first = stream.order[:, : 200 // streams.FRAMES]

    assert np.array_equal(stream.pool[first[0]], pictures[first[0] % len(pictures)])
    assert float(rough[-40:].mean()) < 0.9 * float(rough[:40].mean())


def test_each_client_has_one_device_and_devices_differ(pictures: np.ndarray) -> None:
    devices = [Device(1, 0, 0, gain, 1) for gain in (1.0, 0.5)]
    stream = streams.other_device(pictures, devices, clients=4, rows=200, rng=rng())

    assert [int(stream.pool[own].max()) for own in stream.order] == [255, 128, 255, 128]


@pytest.mark.parametrize(
    ("device", "more"),
    [
        (Device(1.15, 0, 0, 1, 1), True),
        (Device(0.85, 0, 0, 1, 1), False),
        (Device(1, 0.4, 0, 1, 1), True),
        (Device(1, -0.4, 0, 1, 1), False),
        (Device(1, 0, 0, 1, 1.4), False),
    ],
)
def test_a_device_does_what_its_settings_say_to_the_ink(
    pictures: np.ndarray, device: Device, more: bool
) -> None:
    assert (device.seen(pictures).mean() > pictures.mean()) == more


def test_a_device_without_any_change_shows_the_pictures_as_they_are(pictures: np.ndarray) -> None:
    assert np.array_equal(Device(1, 0, 0, 1, 1).seen(pictures), pictures)


def test_a_mixture_has_its_share_of_attack_rows_in_their_order() -> None:
    attack, honest = ramp(2, 1000), ramp(2, 1000)
    both = streams.mixed(attack, honest, 0.2, rng=rng())
    bad = both.order < len(attack.pool)

    assert both.order.shape == (2, 1000)
    assert abs(bad.mean() - 0.2) < 0.03
    for client in range(2):
        assert np.array_equal(
            both.order[client, bad[client]], attack.order[client, : bad[client].sum()]
        )
    assert np.array_equal(
        both.pool[both.order[~bad]], honest.pool[both.order[~bad] - len(attack.pool)]
    )


def test_an_attack_after_honest_rows_starts_where_they_end() -> None:
    attack, honest = ramp(3, 10), ramp(2, 50)
    both = streams.after(honest, attack)

    assert both.start == 50
    assert both.order.shape == (3, 60)
    assert np.array_equal(both.order[:, 50:], attack.order)
    assert np.array_equal(both.pool[both.order[2, :50]], honest.pool[honest.order[0]])


def test_a_split_deals_every_row_once_in_turn() -> None:
    attack = ramp(2, 65)
    accounts = streams.split(attack, 8)

    assert accounts.order.shape == (16, 8)
    assert accounts.order[1].tolist() == list(range(1, 65, 8))
    assert sorted(accounts.order[:8].ravel().tolist()) == list(range(64))


def test_runs_become_one_client_each_as_long_as_the_shortest() -> None:
    stream = streams.runs(lambda number: torch.full((5 + number, 1, 2, 2), number / 4), 3)

    assert stream.order.shape == (3, 5)
    assert stream.inputs(stream.order[2]).unique().tolist() == [0.5]


def test_bytes_and_floats_join_as_floats() -> None:
    grey = np.full((1, 1, 2, 2), 255, dtype=np.uint8)
    joined = streams.joined(grey, np.full((1, 1, 2, 2), 0.25, np.float32))

    assert joined.dtype == np.float32
    assert joined[:, 0, 0, 0].tolist() == [1.0, 0.25]
    assert streams.joined(grey, grey).dtype == np.uint8
