import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from mantlet.data import load_images, numbers_in, numbers_of, parse_rows
from mantlet.errors import ConfigError

GREY = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array, allow_pickle=array.dtype == object)
    return path


def damaged(path: Path) -> Path:
    """An archive whose compressed bytes were overwritten; its directory is whole."""
    whole = npz(path, x=np.random.default_rng(0).integers(0, 255, (20, 9, 9)).astype(np.uint8))
    data = bytearray(whole.read_bytes())
    data[100:160] = b"\xff" * 60
    path.write_bytes(data)
    return path


def text(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_of_pairs_the_first_pictures_of_the_split_are_read(tmp_path: Path) -> None:
    path = npz(tmp_path / "p.npz", a_train=GREY[:1], b_train=GREY[1:], a_test=GREY[1:])

    assert load_images(path).x.max() == 15 / 255
    assert load_images(path, "test").x.max() == 31 / 255


def test_grey_bytes_become_pictures_with_a_channel_in_zero_to_one(tmp_path: Path) -> None:
    images = load_images(npz(tmp_path / "a.npz", x=GREY, y=np.array([3, 1], dtype=np.uint8)))

    assert images.x.shape == (2, 1, 4, 4)
    assert images.x.dtype == np.float32
    assert np.allclose(images.x[:, 0], GREY / 255)
    assert images.y is not None
    assert images.y.tolist() == [3, 1]
    assert images.y.dtype == np.int64


def test_a_split_is_read_before_the_plain_names(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x_test=GREY[:1], y_test=np.array([7]), x=GREY, y=np.arange(2))

    assert len(load_images(path, "test").x) == 1
    assert len(load_images(path, "train").x) == 2


def test_rows_are_cut_from_pictures_and_labels_alike(tmp_path: Path) -> None:
    images = load_images(npz(tmp_path / "a.npz", x=GREY, y=np.arange(2)), rows=slice(1, None))

    assert images.x.shape == (1, 1, 4, 4)
    assert images.first == 1
    assert images.y is not None
    assert images.y.tolist() == [1]


def test_a_plain_array_is_all_inputs(tmp_path: Path) -> None:
    floats = np.linspace(0, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    images = load_images(npy(tmp_path / "a.npy", floats), rows=slice(0, 1))

    assert images.x.shape == (1, 3, 4, 4)
    assert images.x.flags.c_contiguous
    assert images.y is None


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p / "none.npz", "no such file; give"),
    "folder": (lambda p: p, "no such file; give"),
    "empty": (lambda p: text(p / "a.npy", b""), "is no .npz or .npy file"),
    "text": (lambda p: text(p / "a.npz", b"hello"), "is no .npz or .npy file"),
    "truncated": (lambda p: text(p / "a.npz", b"PK\x03\x04" + bytes(20)), "is no .npz or .npy"),
    "damaged": (lambda p: damaged(p / "a.npz"), "is no .npz or .npy file"),
    "pickle": (lambda p: npy(p / "a.npy", np.array([{}, None])), "without pickles"),
    "pickled labels": (
        lambda p: npz(p / "a.npz", x=GREY, y=np.array([{}, None])),
        "without pickles",
    ),
    "no x": (lambda p: npz(p / "a.npz", pictures=GREY), "has pictures; wanted one of x_train, x"),
    "integers": (lambda p: npy(p / "a.npy", GREY.astype(np.int64)), "holds int64; wanted uint8"),
    "words": (lambda p: npy(p / "a.npy", np.array([["a"]])), "holds <U1; wanted uint8"),
    "flat": (lambda p: npy(p / "a.npy", GREY.reshape(2, 16)), r"has shape \(2, 16\); wanted \(n"),
    "no rows": (lambda p: npy(p / "a.npy", GREY[:0]), r"has shape \(0, 4, 4\)"),
    "one number": (lambda p: npy(p / "a.npy", np.array(0.5)), r"has shape \(\)"),
    "range": (lambda p: npy(p / "a.npy", GREY.astype(float)), "must be in .0, 1.; divide by 255"),
    "nan": (lambda p: npy(p / "a.npy", np.full((1, 2, 2), np.nan)), "must be in .0, 1."),
    "labels": (lambda p: npz(p / "a.npz", x=GREY, y=np.arange(3)), "2 pictures and 3 labels"),
    "label rows": (lambda p: npz(p / "a.npz", x=GREY, y=np.ones((2, 1))), r"labels .*\(2, 1\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_named_and_nothing_is_unpickled(name: str, tmp_path: Path) -> None:
    create, words = BAD[name]

    with pytest.raises(ConfigError, match=words):
        load_images(create(tmp_path))


def test_an_archive_member_that_is_no_array_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x", b"hello")

    with pytest.raises(ConfigError, match="'x'"):
        load_images(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("written", "start", "stop"),
    [("100:200", 100, 200), ("55000:", 55000, None), (":500", None, 500), (":", None, None)],
)
def test_rows_are_written_as_a_slice(written: str, start: int | None, stop: int | None) -> None:
    assert parse_rows(written) == slice(start, stop)


@pytest.mark.parametrize("written", ["", "5", "a:b", "1:2:3", "1.5:"])
def test_rows_written_otherwise_are_refused(written: str) -> None:
    with pytest.raises(ConfigError, match="write START:STOP"):
        parse_rows(written)


def npy_saying(header: str, data: bytes = b"") -> bytes:
    """A .npy of version 1 with a header of our own."""
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + data


def npy_of(shape: str, descr: str = "<f8") -> bytes:
    said = "{'descr': '%s', 'fortran_order': False, 'shape': %s}\n"
    return npy_saying(said % (descr, shape), bytes(8))


@pytest.mark.parametrize(
    "body",
    [
        npy_of("(100000000000000,)"), npy_of("(2,)"), npy_of("'a'"), npy_of("(-1,)"),
        npy_of("(4294967296, 4294967296)"), npy_of("(100000000000,)", "|V0"), npy_of("(1,)", "<M8[s]"),
        npy_saying('{"descr": """<f8'), npy_saying("[" * 9000), npy_saying(""),
        b"PK\3\4 no zip", b"\x93NUMPY\3\0", b"\x93NUMPY\1\0\xff\xff",
    ],
    ids=[
        "a shape beyond all memory", "more than is there", "a shape that is none", "a negative shape",
        "a shape that overflows", "items of no bytes", "dates", "a text without end", "brackets without end",
        "no header", "a zip", "another version", "a header that is cut",
    ],
)  # fmt: skip
def test_an_array_file_that_lies_is_refused_before_an_array_is_made(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^its header says|^it does not begin as a \.npy"):
        numbers_of(body)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_that_was_sent_is_read_as_it_was(order: Literal["C", "F"]) -> None:
    sent = np.arange(6, dtype=np.float32).reshape(2, 3, order=order)
    file = io.BytesIO()
    np.save(file, sent)

    np.testing.assert_array_equal(numbers_of(file.getvalue()), sent)


@pytest.mark.parametrize("values", [3, None, [True], ["1"], [[1], [1, 2]], [{}], [[1, None]]])
def test_what_is_no_lists_of_numbers_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match=r"no lists of numbers|inhomogeneous"):
        numbers_in(values)


def test_lists_of_numbers_are_read_as_they_are() -> None:
    assert numbers_in([[1, 2.5], [3, 4]]).tolist() == [[1, 2.5], [3, 4]]
