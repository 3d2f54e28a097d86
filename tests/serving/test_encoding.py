"""Pictures leave as PNG, zip, .npy or JSON, and mean the same in all of them."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from mantlet.errors import RequestError
from serving import encoding

VALUES = np.random.default_rng(0).random((3, 1, 5, 4)).astype(np.float32)


def test_json_says_what_else_is_known() -> None:
    body = encoding.pictures(VALUES, "application/json", {"seed": 7})

    assert json.loads(body)["seed"] == 7
    assert np.allclose(json.loads(body)["predictions"], VALUES)


def test_npy_holds_the_numbers_as_they_are() -> None:
    body = encoding.pictures(VALUES, "application/x-npy", {})

    assert np.array_equal(np.load(io.BytesIO(body), allow_pickle=False), VALUES)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_shows_one_picture_to_eight_bits(channels: int) -> None:
    value = np.repeat(VALUES[:1], channels, axis=1)
    body = encoding.pictures(value, "image/png", {})
    shown = np.asarray(Image.open(io.BytesIO(body)))

    assert np.array_equal(shown.reshape(5, 4, -1)[..., 0], (VALUES[0, 0] * 255).round())


def test_a_png_of_many_is_a_sheet() -> None:
    body = encoding.pictures(VALUES, "image/png", {})
    width, height = Image.open(io.BytesIO(body)).size

    assert width >= 8
    assert height >= 10


def test_a_zip_holds_one_png_a_picture() -> None:
    body = encoding.pictures(VALUES, "application/zip", {})
    folder = zipfile.ZipFile(io.BytesIO(body))

    assert folder.namelist() == ["0000.png", "0001.png", "0002.png"]
    assert Image.open(folder.open("0002.png")).size == (4, 5)


def test_json_holds_numbers_in_any_order_of_memory() -> None:
    turned = VALUES.transpose(0, 1, 3, 2)

    assert np.allclose(
        json.loads(encoding.pictures(turned, "application/json", {}))["predictions"], turned
    )


def test_json_of_too_many_numbers_is_refused() -> None:
    with pytest.raises(RequestError, match="accept image/png") as refused:
        encoding.pictures(np.zeros((1, 1, 2049, 2048), np.float32), "application/json", {})

    assert refused.value.status == 413


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "default"),
        ("*/*", "default"),
        ("text/html,*/*;q=0.8", "default"),
        ("image/avif,image/webp,image/*,*/*;q=0.8", "image/png"),
        ("image/jpeg", "image/jpeg"),
        ("application/json", "application/json"),
        ("Application/X-NPY;q=1", "application/x-npy"),
    ],
)
def test_the_first_kind_that_is_accepted_and_written_counts(accept: str, kind: str) -> None:
    assert encoding.kind_for(accept, "default") == kind
