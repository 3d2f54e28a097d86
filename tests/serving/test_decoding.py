"""From bytes to rows: what is taken, what is refused, and that nothing is allocated on a claim."""

import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mantlet.errors import RequestError
from mantlet.types import OPEN, InputSpec
from serving import decoding

GREY = InputSpec((1, 4, 6), 0.0, 1.0)
COLOUR = InputSpec((3, 4, 6), 0.0, 1.0)
TABLE = InputSpec((5,))
LIMIT = 8
MESSAGES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(0, 1) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=30,
)


def refused(status: int, telling: str, call: Any, *arguments: Any) -> None:
    with pytest.raises(RequestError, match=telling) as caught:
        call(*arguments)

    assert caught.value.status == status


def tried(call: Any, *arguments: Any) -> Any:
    """What is read, or the status of the refusal."""
    try:
        return call(*arguments)
    except RequestError as error:
        return error.status


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


# lists


@pytest.mark.parametrize("shape", [(1, 4, 6), (4, 6), (24,)])
def test_grey_rows_come_in_three_shapes(shape: tuple[int, ...]) -> None:
    rows = np.linspace(0, 1, 72, dtype=np.float32).reshape(3, *shape)
    read = decoding.rows_from_lists(rows.tolist(), GREY, LIMIT)

    assert read.shape == (3, 1, 4, 6)
    assert read.dtype == np.float32
    assert (read.ravel() == rows.ravel()).all()


@pytest.mark.parametrize("shape", [(3, 4, 6), (72,)])
def test_colour_rows_come_in_two(shape: tuple[int, ...]) -> None:
    rows = np.zeros((2, *shape)).tolist()

    assert decoding.rows_from_lists(rows, COLOUR, LIMIT).shape == (2, 3, 4, 6)


def test_colour_rows_need_their_channels() -> None:
    rows = np.zeros((2, 4, 6)).tolist()

    refused(400, r"shape \[4, 6\]; wanted", decoding.rows_from_lists, rows, COLOUR, LIMIT)


def test_a_table_has_flat_rows_and_no_range() -> None:
    rows = [[-1e6, 0, 1, 2, 1e6]]

    assert decoding.rows_from_lists(rows, TABLE, LIMIT).tolist() == rows


def test_whole_numbers_are_numbers() -> None:
    assert decoding.rows_from_lists([[0, 1] * 12], GREY, LIMIT).sum() == 12


@given(MESSAGES)
def test_any_json_is_read_or_refused(message: object) -> None:
    read = tried(decoding.rows_from_lists, message, GREY, LIMIT)

    assert read in (400, 413) if isinstance(read, int) else read.shape[1:] == GREY.shape


@given(st.binary(max_size=200))
def test_any_bytes_are_a_json_object_or_refused(body: bytes) -> None:
    read = tried(decoding.parse_json, body)

    assert read == 400 or orjson.loads(body) == read


def test_texts_among_numbers_are_not_copied() -> None:
    rows = [["x" * 100_000] + [0.5] * 23]
    tracemalloc.start()
    refused(400, "a JSON string", decoding.rows_from_lists, rows, GREY, LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 100_000


def test_rows_of_a_list_may_be_as_many_as_the_limit() -> None:
    rows = [[0.0] * 24] * (LIMIT + 1)

    assert len(decoding.rows_from_lists(rows[1:], GREY, LIMIT)) == LIMIT
    refused(413, "9 rows in one request; at most 8", decoding.rows_from_lists, rows, GREY, LIMIT)


# .npy


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(2, 1, 4, 6), (2, 4, 6), (2, 24), (1, 4, 6), (4, 6), (24,)])
def test_arrays_are_read_as_numpy_writes_them(
    dtype: str, order: str, shape: tuple[int, ...]
) -> None:
    values = np.arange(int(np.prod(shape))).reshape(shape)
    array = (values if dtype == "u1" else values / 255).astype(dtype, order=order)  # type: ignore[call-overload]
    read = decoding.rows_from_npy(npy(array), GREY, LIMIT)

    assert read.shape[1:] == (1, 4, 6)
    assert read.ravel() == pytest.approx(values.ravel() / 255, abs=1e-3)


def test_rows_are_free_to_be_written_to() -> None:
    """Torch warns of an array that is the client's bytes themselves."""
    assert decoding.rows_from_npy(npy(np.zeros((1, 24), "<f4")), GREY, LIMIT).flags.writeable


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 24), }",
        '{"shape":(1,24),"fortran_order":False,"descr":"<f4"}',
        "{ 'shape' : ( 1 , 24 ) , 'descr' : '<f4' , 'fortran_order' : False }",
    ],
)
def test_other_writers_headers_are_read(header: str) -> None:
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(96)

    assert decoding.rows_from_npy(body, GREY, LIMIT).shape == (1, 1, 4, 6)


def test_a_header_of_version_2_is_read() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 24), }"
    body = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + bytes(96)

    assert decoding.rows_from_npy(body, GREY, LIMIT).shape == (1, 1, 4, 6)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_any_header_is_read_or_refused(header: bytes, data: bytes) -> None:
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data

    refused(400, ".npy header", decoding.rows_from_npy, body, GREY, LIMIT)


@given(st.data())
def test_a_damaged_array_is_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(npy(np.zeros((1, 4, 6), "<f4")))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 130))
        body[place] = data.draw(st.integers(0, 255))
    read = tried(decoding.rows_from_npy, bytes(body), GREY, LIMIT)

    assert read in (400, 413) if isinstance(read, int) else read.shape[1:] == GREY.shape


def test_a_claim_of_many_rows_allocates_nothing() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (8, 30000, 30000), }"
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    large = InputSpec((30000, 30000))
    tracemalloc.start()
    refused(400, "but 0 bytes follow", decoding.rows_from_npy, body, large, LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 100_000


# pictures


def picture(mode: str, kind: str = "PNG", size: tuple[int, int] = (6, 4)) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, 0).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("spec", [GREY, COLOUR], ids=["grey", "colour"])
def test_pictures_of_eight_bits_are_read(mode: str, spec: InputSpec) -> None:
    read = decoding.rows_from_picture(picture(mode), spec, ("PNG",))

    assert read.shape == (1, *spec.shape)
    assert read.max() == 0


def test_width_and_height_are_not_mixed_up() -> None:
    body = picture("L", size=(4, 6))

    refused(
        400, "4x6 pixels; this model takes 6x4", decoding.rows_from_picture, body, GREY, ("PNG",)
    )


def test_a_picture_of_another_size_is_refused_by_its_header_alone() -> None:
    """Its pixels, which are cut off here, would be millions once they were decoded."""
    body = picture("L", size=(5000, 5000))[:60]

    refused(400, "is 5000x5000 pixels", decoding.rows_from_picture, body, GREY, ("PNG",))


def test_colours_keep_their_planes() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (255, 0, 51)).save(stream, "PNG")
    read = decoding.rows_from_picture(stream.getvalue(), COLOUR, ("PNG",))

    assert [float(plane.mean()) for plane in read[0]] == pytest.approx([1, 0, 0.2])


@pytest.mark.parametrize("mode", ["I;16", "CMYK"])
def test_other_modes_are_refused(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"

    refused(
        400,
        "send 8 bit grey or RGB",
        decoding.rows_from_picture,
        picture(mode, kind),
        GREY,
        (kind,),
    )


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """A chunk of a PNG."""
    sealed = kind + content
    return struct.pack(">I", len(content)) + sealed + struct.pack(">I", zlib.crc32(sealed))


def test_colour_profiles_without_end_are_not_unpacked() -> None:
    """Seven thousand of them, in a body of the usual limit, would take a quarter of a minute."""
    body = picture("L")
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**6)))
    few, many = (body[:33] + profile * times + body[33:] for times in (3, 8))

    assert decoding.rows_from_picture(few, GREY, ("PNG",)).shape == (1, 1, 4, 6)
    refused(400, "over 64 chunks", decoding.rows_from_picture, many, GREY, ("PNG",))


def test_what_follows_a_png_is_not_counted() -> None:
    read = decoding.rows_from_picture(picture("L") + bytes(5000), GREY, ("PNG",))

    assert read.shape == (1, 1, 4, 6)


def test_a_jpeg_of_scans_without_end_is_not_decoded() -> None:
    """Each scan takes as long as the picture; eight million bytes of them take minutes."""
    stream = io.BytesIO()
    Image.new("L", (6, 4)).save(stream, "JPEG", progressive=True)
    body = stream.getvalue()
    last = body[body.rindex(b"\xff\xda") : -2]

    assert decoding.rows_from_picture(body, GREY, ("JPEG",)).shape == (1, 1, 4, 6)
    many = body[:-2] + last * 100 + body[-2:]
    refused(400, "over 100 scans", decoding.rows_from_picture, many, GREY, ("JPEG",))


@pytest.mark.parametrize("spec", [GREY, InputSpec((3, OPEN, OPEN), max_pixels=100)])
def test_a_picture_of_far_more_bytes_than_pixels_is_refused(spec: InputSpec) -> None:
    body = picture("L")
    telling = "leave its metadata out"

    refused(413, telling, decoding.rows_from_picture, body + bytes(1 << 19), spec, ("PNG",))


@pytest.mark.parametrize("spec", [TABLE, InputSpec((4, 4, 6))], ids=["a table", "four channels"])
def test_a_model_without_pictures_takes_none(spec: InputSpec) -> None:
    refused(
        400, "which a picture cannot hold", decoding.rows_from_picture, picture("L"), spec, ("PNG",)
    )


@given(st.data())
def test_a_damaged_picture_is_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(picture("RGB", data.draw(st.sampled_from(["PNG", "JPEG"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    read = tried(decoding.rows_from_picture, cut, GREY, ("PNG", "JPEG"))

    assert read == 400 if isinstance(read, int) else read.shape == (1, 1, 4, 6)


# values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_what_is_not_finite_is_refused(value: float) -> None:
    refused(400, "not all finite", decoding.checked, np.array([[0.0, value]]), TABLE)


@pytest.mark.parametrize("value", [-1e-3, 1.001])
def test_what_is_out_of_range_is_refused(value: float) -> None:
    refused(400, "takes 0.0 to 1.0", decoding.checked, np.array([[0.5, value]]), GREY)


def test_the_ends_of_the_range_are_in_it() -> None:
    assert decoding.checked(np.array([[0.0, 1.0]]), GREY).tolist() == [[0, 1]]
