"""Pictures leave as PNG, zip, .npy or JSON, and mean the same in all of them."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from serving import encoding

VALUES = np.random.default_rng(0).random((3, 1, 5, 4)).astype(np.float32)


def test_json_says_what_else_is_known() -> None:
    body, kind = encoding.pictures(VALUES, "", {"seed": 7})

    assert kind == "application/json"
    assert json.loads(body)["seed"] == 7
    assert np.allclose(json.loads(body)["predictions"], VALUES)


def test_npy_holds_the_numbers_as_they_are() -> None:
    body, _ = encoding.pictures(VALUES, "application/x-npy", {})

    assert np.array_equal(np.load(io.BytesIO(body), allow_pickle=False), VALUES)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_shows_one_picture_to_eight_bits(channels: int) -> None:
    value = np.repeat(VALUES[:1], channels, axis=1)
    body, _ = encoding.pictures(value, "image/png", {})
    shown = np.asarray(Image.open(io.BytesIO(body)))

    assert np.array_equal(shown.reshape(5, 4, -1)[..., 0], (VALUES[0, 0] * 255).round())


def test_a_png_of_many_is_a_sheet() -> None:
    body, _ = encoding.pictures(VALUES, "image/png", {})
    width, height = Image.open(io.BytesIO(body)).size

    assert width >= 8
    assert height >= 10


def test_a_zip_holds_one_png_a_picture() -> None:
    body, kind = encoding.pictures(VALUES, "application/zip", {})
    folder = zipfile.ZipFile(io.BytesIO(body))

    assert kind == "application/zip"
    assert folder.namelist() == ["0000.png", "0001.png", "0002.png"]
    assert Image.open(folder.open("0002.png")).size == (4, 5)
