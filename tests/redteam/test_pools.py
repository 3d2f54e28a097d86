"""Families of pictures come as 28x28 grey bytes, whatever their file holds."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mantlet.errors import ConfigError
from redteam.pools import Pools


def test_arrays_are_taken_as_they_are(tmp_path: Path) -> None:
    x = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    np.savez(tmp_path / "mnist.npz", x_test=x, y_test=np.array([3, 4], np.uint8))
    pools = Pools(tmp_path)

    assert np.array_equal(pools.pictures("mnist", "test"), x[:, None])
    assert pools.labels("mnist", "test").tolist() == [3, 4]


def test_colour_jpegs_become_small_and_grey(tmp_path: Path) -> None:
    encoded, offset = b"", [0]
    for level in (0, 200):
        file = io.BytesIO()
        Image.new("RGB", (32, 32), (level, level, level)).save(file, "JPEG")
        encoded += file.getvalue()
        offset.append(len(encoded))
    arrays = {"jpeg_test": np.frombuffer(encoded, np.uint8), "offset_test": np.array(offset)}
    np.savez(tmp_path / "cifar10_jpeg.npz", **arrays)
    pictures = Pools(tmp_path).pictures("cifar", "test")

    assert pictures.shape == (2, 1, 28, 28)
    assert pictures.dtype == np.uint8
    assert [int(picture.mean()) for picture in pictures] == [0, 200]


def test_a_missing_family_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fashion_mnist.npz': no such file; name the folder"):
        Pools(tmp_path).pictures("fashion", "train")
