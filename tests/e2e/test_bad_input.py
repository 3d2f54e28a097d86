"""Hostile and mistaken bodies: the exact status, words that help, and never a forward pass."""

import io
import json
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.e2e.harness import Running, npy, refusal

V1 = "/v1/models/plain:predict"
V2 = "/v2/models/plain/infer"
NPY = {"Content-Type": "application/x-npy"}
PNG = {"Content-Type": "image/png"}
LENGTH = "Inference-Header-Content-Length"
ROW = [0.5] * 784


@pytest.fixture(autouse=True)
def _no_forward_pass(running: Running) -> Iterator[None]:
    """None of this reaches the model."""
    before = running.computed()
    yield

    assert running.computed() == before


def instances(*rows: object) -> bytes:
    return json.dumps({"instances": rows}).encode()


def with_first(literal: str) -> bytes:
    """A V1 body whose first pixel is written as ``literal``."""
    return f'{{"instances": [[{literal}, {", ".join(["0"] * 783)}]]}}'.encode()


JSON_BODIES = {
    "empty": (b"", "zero-length"),
    "not JSON": (b'{"instances": [[0.5,', "the body is no JSON"),
    "not UTF-8": (b'{"instances": "\xff"}', "no JSON"),
    "a list": (b"[1, 2]", "a JSON list; an object is wanted"),
    "a number": (b"7", "a JSON number; an object is wanted"),
    "no instances": (b"{}", 'lacks "instances"'),
    "instances is an object": (b'{"instances": {"a": 1}}', "a JSON object; a list of rows"),
    "instances is a text": (b'{"instances": "0.5"}', "a JSON string; a list of rows"),
    "instances is null": (b'{"instances": null}', "a JSON null; a list of rows"),
    "NaN": (with_first("NaN"), "NaN and Infinity are no JSON"),
    "Infinity": (with_first("-Infinity"), "NaN and Infinity are no JSON"),
    "1e400": (with_first("1e400"), "infinity when parsed as double"),
    "beyond float32": (with_first("1e300"), "not all finite"),
    "400 digits": (with_first("9" * 400), "infinity when parsed as double"),
    "20 digits": (with_first("9" * 20), "reach from 0 to 1e+20"),
    "a text among numbers": (with_first('"0.5"'), "a JSON string where a number is wanted"),
    "a null among numbers": (with_first("null"), "a JSON null where a number is wanted"),
    "a bool among numbers": (with_first("true"), "a JSON boolean where a number is wanted"),
    "an object among numbers": (with_first("{}"), "a JSON object where a number is wanted"),
    "a list among numbers": (with_first("[1]"), "has shape [784, 1]; wanted [1, 28, 28]"),
    "ragged rows": (instances(ROW, ROW[1:]), "ragged: not all of it has shape [784]"),
    "ragged rows of one": (instances([[0] * 28] * 27 + [[0]]), "ragged"),
    "rows of two shapes": (instances(ROW, [[0.5] * 28] * 28), "ragged"),
    "a scalar for a row": (instances(ROW, 0.5), "ragged"),
    "no rows": (instances(), "no rows; send at least one"),
    "an empty row": (instances([]), "first row has shape [0]"),
    "wrong size": (instances([0.5] * 783), "has shape [783]; wanted [1, 28, 28] or [28, 28]"),
    "wrong shape": (instances([[0.5] * 32] * 32), "has shape [32, 32]; wanted"),
    "a row without its list": (json.dumps({"instances": ROW}).encode(), "shape []; wanted"),
    "nested too deep": (b'{"instances": ' + b"[" * 900_000, "depth limit exceeded"),
    "nested deep": (b'{"instances": ' + b"[" * 1000 + b"]" * 1000 + b"}", "first row has shape"),
    "above the range": (instances([255.0] * 784), "divide pixels by 255?"),
    "below the range": (instances([-0.01] * 784), "takes 0.0 to 1.0"),
}


@pytest.mark.parametrize("name", JSON_BODIES)
def test_bad_json_is_refused(client: httpx.Client, name: str) -> None:
    body, telling = JSON_BODIES[name]

    refusal(client.post(V1, content=body), 400, telling)


def test_too_many_rows_are_refused(client: httpx.Client) -> None:
    body = instances(*[[0] * 784] * 257)

    refusal(client.post(V1, content=body), 413, "257 rows in one request; at most 256")


def test_a_text_among_numbers_is_not_spread_over_memory(client: httpx.Client) -> None:
    """An array of texts would take 784 times four bytes a character: 6 GB here."""
    started = time.monotonic()

    refusal(client.post(V1, content=with_first('"' + "x" * 2_000_000 + '"')), 400, "JSON string")
    refusal(client.post(V1, content=instances(["x" * 2_000_000, *ROW[1:]])), 400, "JSON string")

    assert time.monotonic() - started < 10


WRONG_DEPTH = {
    "v1 deep": (V1, b'{"instances": [[' + b"[[0.5]]," * 112_000 + b"[[0.5]]]]}"),
    "v1 wide": (V1, b'{"instances": [[' + b"0.5," * 225_000 + b"0.5]]}"),
    "v1 empty lists": (V1, b'{"instances": [[[[' + b"[]," * 300_000 + b"[]]]]]}"),
    "v2 empty lists": (V2, b"[[" + b"[]," * 300_000 + b"[]]]"),
    "v2 deep": (V2, b"[[" + b"[[[0]]]," * 112_000 + b"[[[0]]]]]"),
    "v2 second row": (V2, b"[[[" + b"[0]," * 225_000 + b"[0]]]]"),
}


@pytest.mark.parametrize("name", WRONG_DEPTH)
def test_a_large_body_of_wrong_depth_is_refused_at_once(client: httpx.Client, name: str) -> None:
    """0.9 MB; pydantic takes five seconds and answers with 10 MB."""
    path, body = WRONG_DEPTH[name]
    if path == V2:
        frame = b'{"inputs":[{"name":"input","datatype":"FP32","shape":[1,1,28,28],"data":%s}]}'
        body = frame % body
    started = time.monotonic()
    response = client.post(path, content=body)
    took = time.monotonic() - started

    refusal(response, 400, "wanted" if path == V1 else "")
    assert len(body) > 800_000
    assert took < 2  # 20 ms on an idle machine


# pictures


def encoded(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims any size, with a few bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    about = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


GREY = Image.new("L", (28, 28), 128)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8))
PICTURES = {
    "empty": (b"", "no whole PNG picture"),
    "not a picture": (b"<html>", "no whole PNG picture"),
    "truncated": (encoded(NOISE)[:-200], "no whole PNG picture"),
    "truncated in the header": (encoded(NOISE)[:30], "no whole PNG picture"),
    "damaged": (encoded(NOISE).replace(b"IDAT", b"IDAU"), "no whole PNG picture"),
    "bomb": (png_header(50_000, 50_000), "far too many pixels; this model takes 28x28"),
    "largest": (png_header(2**31 - 1, 2**31 - 1), "pixels"),
    "large": (png_header(9_000, 9_000), "9000x9000 pixels; this model takes 28x28"),
    "of another size": (encoded(Image.new("L", (32, 32))), "32x32 pixels; this model takes 28x28"),
    "16 bit": (encoded(Image.new("I;16", (28, 28))), "mode I;16; send 8 bit grey or RGB"),
    "30 megapixels": (png_header(6_000, 5_000), "6000x5000 pixels; this model takes 28x28"),
    "one pixel": (encoded(Image.new("L", (1, 1))), "1x1 pixels; this model takes 28x28"),
    "animated": (
        encoded(GREY, save_all=True, append_images=[NOISE]),
        "the picture is animated; send one picture",
    ),
    "a GIF": (encoded(GREY, "GIF"), "no whole PNG picture"),
    "a JPEG": (encoded(GREY, "JPEG"), "no whole PNG picture"),
}
JPEG = {"Content-Type": "image/jpeg"}
JPEGS = {
    "CMYK": (encoded(Image.new("CMYK", (28, 28)), "JPEG"), "mode CMYK; send 8 bit grey or RGB"),
    "truncated": (encoded(NOISE, "JPEG")[:-200], "no whole JPEG picture"),
    "a PNG": (encoded(GREY), "no whole JPEG picture"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_bad_pictures_are_refused(client: httpx.Client, name: str) -> None:
    body, telling = PICTURES[name]

    refusal(client.post(V1, content=body, headers=PNG), 400, telling)


@pytest.mark.parametrize("name", JPEGS)
def test_bad_jpegs_are_refused(client: httpx.Client, name: str) -> None:
    body, telling = JPEGS[name]

    refusal(client.post(V1, content=body, headers=JPEG), 400, telling)


def test_a_png_bomb_costs_no_memory(client: httpx.Client, running: Running) -> None:
    def peak_kb() -> int:
        status = (running.process.pid, "status")
        with open(f"/proc/{status[0]}/{status[1]}") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

    before = peak_kb()
    for _ in range(3):
        client.post(V1, content=png_header(50_000, 50_000), headers=PNG)

    assert peak_kb() - before < 50_000  # the claimed pixels would be 2.5 GB


# .npy


def npy_file(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy file with any header."""
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header.encode("latin-1") + data


def described(shape: str, descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"


GOOD = npy(np.zeros((1, 28, 28), np.float32))
ARRAYS = {
    "empty": (b"", "no .npy file"),
    "not npy": (b"x" * 4000, "no .npy file"),
    "magic only": (b"\x93NUMPY", "version ()"),
    "version 3": (npy_file(described("(1, 28, 28)"), version=(3, 0)), "version (3, 0)"),
    "pickled objects": (
        npy(np.array([{"a": 1}] * 784, dtype=object).reshape(1, 28, 28), allow_pickle=True),
        "without pickled objects",
    ),
    "int64": (npy(np.zeros((1, 28, 28), np.int64)), "holds <i8; send float32 or uint8"),
    "bool": (npy(np.zeros((1, 28, 28), np.bool_)), "holds |b1; send float32 or uint8"),
    "complex": (npy(np.zeros((1, 28, 28), np.complex64)), "holds <c8; send float32"),
    "texts": (npy(np.full((1, 28, 28), "a")), "holds <U1; send float32"),
    "long double": (npy(np.zeros((1, 28, 28), np.longdouble)), "holds <f16; send float32"),
    "fields": (npy(np.zeros((1, 28, 28), [("a", "<f4"), ("b", "<f4")])), "of a plain array"),
    "truncated": (GOOD[:-1], "but 3135 bytes follow"),
    "truncated in the header": (GOOD[:40], "lacks 'descr'"),
    "too long": (GOOD + b"\0", "but 3137 bytes follow"),
    "a shape that lies": (npy_file(described("(250, 28, 28)")), "but 0 bytes follow"),
    "a shape that overflows": (
        npy_file(described("(4294967297, 4294967296, 4294967296)")),
        "wanted [n, 1, 28, 28]",
    ),
    "many digits": (npy_file(described(f"({'9' * 70},)")), "wanted [n, 1, 28, 28]"),
    "negative": (npy_file(described("(-1, 28, 28)")), "lacks 'descr'"),
    "no rows": (npy_file(described("(0, 28, 28)")), "no rows; send at least one"),
    "wrong shape": (npy(np.zeros((1, 32, 32), np.float32)), "shape [1, 32, 32]; wanted [n, 1, 28"),
    "a scalar": (npy(np.float32(1)), "shape []; wanted"),
    "header flood": (npy_file(described("(1, 28, 28)") + " " * 60_000), "at most 4096 are read"),
    "header flood of version 2": (
        npy_file(described("(1, 28, 28)") + " " * 6_000_000, version=(2, 0)),
        "at most 4096 are read",
    ),
    "header length beyond the body": (
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
        "4294967295 bytes; at most 4096",
    ),
    "code in the header": (npy_file("__import__('os').abort()"), "lacks 'descr'"),
    "unclosed header": (npy_file("{'descr': ("), "lacks 'descr'"),
    "a header nested deep": (npy_file("(" * 4000), "lacks 'descr'"),
    "NaN": (npy(np.full((1, 28, 28), np.nan, np.float32)), "not all finite"),
    "infinite": (npy(np.full((1, 28, 28), -np.inf, np.float32)), "not all finite"),
    "double beyond float32": (npy(np.full((1, 28, 28), 1e300)), "not all finite"),
    "out of range": (npy(np.full((1, 28, 28), 2.0, np.float32)), "divide pixels by 255?"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_bad_arrays_are_refused(client: httpx.Client, name: str) -> None:
    body, telling = ARRAYS[name]

    refusal(client.post(V1, content=body, headers=NPY), 400, telling)


def test_too_many_rows_of_an_array_are_refused(client: httpx.Client) -> None:
    body = npy_file(described("(257, 28, 28)"))

    refusal(client.post(V1, content=body, headers=NPY), 413, "257 rows in one request")


# the V2 protocol

TENSOR: dict[str, Any] = {
    "name": "input",
    "shape": [1, 1, 28, 28],
    "datatype": "FP32",
    "data": ROW,
}


def v2(request: object = None, **changes: Any) -> bytes:
    """A V2 body: the request, or one good tensor with changes."""
    return json.dumps({"inputs": [TENSOR | changes]} if request is None else request).encode()


V2_BODIES = {
    "no inputs": (v2({}), "'inputs' must be a list with the model's one input"),
    "inputs empty": (v2({"inputs": []}), "'inputs' must be a list"),
    "inputs an object": (v2({"inputs": TENSOR}), "'inputs' must be a list"),
    "two inputs": (v2({"inputs": [TENSOR, TENSOR]}), "the model's one input"),
    "an input that is none": (v2({"inputs": [7]}), "the model's one input"),
    "wrong name": (v2(name="image"), "named 'image'; this model takes 'input'"),
    "no name": (v2(name=None), "named None; this model takes 'input'"),
    "a name nested deep": (
        v2(name="X").replace(b'"X"', b"[" * 1000 + b"]" * 1000),
        "this model takes 'input'",
    ),
    "a long name": (v2(name="x" * 100_000), "this model takes 'input'"),
    "INT64": (v2(datatype="INT64"), "datatype 'INT64' is not taken; this model takes FP32"),
    "BYTES": (v2(datatype="BYTES"), "datatype 'BYTES' is not taken"),
    "datatype a list": (v2(datatype=["FP32"]), "is not taken"),
    "no shape": (v2(shape=None), "'shape' must be a list of whole numbers"),
    "shape a text": (v2(shape="1,1,28,28"), "'shape' must be a list of whole numbers"),
    "shape of texts": (v2(shape=["1", "1", "28", "28"]), "'shape' must be a list"),
    "shape of a bool": (v2(shape=[True, 1, 28, 28]), "'shape' must be a list of whole"),
    "shape of a float": (v2(shape=[1.0, 1, 28, 28]), "'shape' must be a list of whole"),
    "shape empty": (v2(shape=[]), "'shape' must be a list of whole numbers"),
    "no rows": (v2(shape=[0, 1, 28, 28]), "no rows; send at least one"),
    "negative rows": (v2(shape=[-1, 1, 28, 28]), "no rows; send at least one"),
    "negative pixels": (v2(shape=[1, 1, -28, -28]), "wanted [n, 1, 28, 28]"),
    "huge shape": (v2(shape=[1, 1, 2**62, 2**62]), "wanted [n, 1, 28, 28]"),
    "long shape": (v2(shape=[1] * 100_000), "wanted [n, 1, 28, 28]"),
    "flat shape": (v2(shape=[1, 784]), "the input has shape [1, 784]; wanted [n, 1, 28, 28]"),
    "no data": (v2(data=None), "'data' must be a list of numbers"),
    "data a number": (v2(data=0.5), "'data' must be a list of numbers"),
    "data empty": (v2(data=[]), "'data' has 0 elements; shape [1, 1, 28, 28] takes 784"),
    "too little data": (v2(data=ROW[1:]), "'data' has 783 elements"),
    "too much data": (v2(data=ROW * 2), "'data' has 1568 elements"),
    "nested otherwise": (v2(data=[ROW]), "ragged: not all of it has shape [1, 28, 28]"),
    "ragged data": (v2(data=[[[[0] * 28] * 27 + [[0]]]]), "ragged"),
    "texts in data": (v2(data=["0.5", *ROW[1:]]), "a JSON string where a number is wanted"),
    "nulls in data": (v2(data=[None] * 784), "a JSON null where a number is wanted"),
    "bools in data": (v2(data=[True, *ROW[1:]]), "a JSON boolean where a number is wanted"),
    "out of range": (v2(data=[2] * 784), "divide pixels by 255?"),
    "NaN": (v2(data=ROW).replace(b"[0.5,", b"[NaN,"), "NaN and Infinity are no JSON"),
    "parameters a list": (v2(parameters=[1]), "'parameters' must be an object"),
    "id a number": (v2({"id": 7, "inputs": [TENSOR]}), "'id' must be a string"),
    "a long id": (v2({"id": "x" * 1025, "inputs": [TENSOR]}), "at most 1024 characters"),
    "half a character": (b'{"id": "\\ud800"}', "the body is no JSON"),
    "unknown output": (
        v2({"inputs": [TENSOR], "outputs": [{"name": "logits"}]}),
        "output 'logits' is unknown; this model has 'probabilities'",
    ),
    "one output too many": (
        v2({"inputs": [TENSOR], "outputs": [{"name": "probabilities"}, {"name": "features"}]}),
        "output 'features' is unknown",
    ),
    "outputs an object": (v2({"inputs": [TENSOR], "outputs": {}}), "'outputs' must be a list"),
    "outputs of texts": (v2({"inputs": [TENSOR], "outputs": ["a"]}), "'outputs' must be a list"),
}


@pytest.mark.parametrize("name", V2_BODIES)
def test_bad_tensors_are_refused(client: httpx.Client, name: str) -> None:
    body, telling = V2_BODIES[name]

    refusal(client.post(V2, content=body), 400, telling)


def test_too_many_rows_of_a_tensor_are_refused(client: httpx.Client) -> None:
    refusal(client.post(V2, content=v2(shape=[257, 1, 28, 28])), 413, "at most 256 are taken")
    refusal(client.post(V2, content=v2(shape=[2**63, 1, 28, 28])), 413, "at most 256 are taken")


RAW = np.full(784, 0.5, "<f4").tobytes()


def binary(size: object, tail: bytes = RAW, **changes: Any) -> tuple[bytes, str]:
    """A body with a binary tensor, and the length of its JSON."""
    described = {k: v for k, v in TENSOR.items() if k != "data"} | changes
    head = json.dumps({"inputs": [described | {"parameters": {"binary_data_size": size}}]})
    return head.encode() + tail, str(len(head))


SIZES = {
    "too small": (3132, RAW, "binary_data_size is 3132 and 3136 bytes follow"),
    "too large": (3140, RAW, "binary_data_size is 3140"),
    "huge": (2**62, RAW, "FP32 [1, 1, 28, 28] takes 3136"),
    "negative": (-3136, RAW, "binary_data_size is -3136"),
    "a text": ("3136", RAW, "binary_data_size is '3136'"),
    "a bool": (True, RAW, "binary_data_size is True"),
    "a list": ([3136], RAW, "binary_data_size is [3136]"),
    "tail too short": (3136, RAW[:-1], "3135 bytes follow the JSON"),
    "tail too long": (3136, RAW + b"\0", "3137 bytes follow the JSON"),
    "no tail": (3136, b"", "0 bytes follow the JSON"),
    "NaN inside": (3136, np.full(784, np.nan, "<f4").tobytes(), "not all finite"),
    "another width": (6272, np.zeros(784, "<f8").tobytes(), "takes 3136"),
}


@pytest.mark.parametrize("name", SIZES)
def test_binary_sizes_that_lie_are_refused(client: httpx.Client, name: str) -> None:
    size, tail, telling = SIZES[name]
    body, length = binary(size, tail)

    refusal(client.post(V2, content=body, headers={LENGTH: length}), 400, telling)


def test_binary_rows_beyond_the_tail_are_refused(client: httpx.Client) -> None:
    body, length = binary(200 * 3136, shape=[200, 1, 28, 28])

    refusal(client.post(V2, content=body, headers={LENGTH: length}), 400, "takes 627200")


@pytest.mark.parametrize(
    "length",
    ["100000000", "-1", "abc", "", "1e3", "0x10", "+5", "1" * 5000, b"\xb2"],
    ids=["beyond", "negative", "letters", "empty", "exponent", "hex", "plus", "digits", "squared"],
)
def test_json_lengths_that_lie_are_refused(client: httpx.Client, length: str | bytes) -> None:
    body, _ = binary(3136)

    response = client.post(V2, content=body, headers={LENGTH: length})

    refusal(response, 400, f"the body has {len(body)} bytes")


def test_a_json_length_that_cuts_the_json_is_refused(client: httpx.Client) -> None:
    body, length = binary(3136)
    headers = {LENGTH: str(int(length) - 1)}

    refusal(client.post(V2, content=body, headers=headers), 400, "the body is no JSON")


def test_bytes_that_no_tensor_claims_are_refused(client: httpx.Client) -> None:
    head = v2()

    response = client.post(V2, content=head + b"1234", headers={LENGTH: str(len(head))})

    refusal(response, 400, "4 bytes follow the JSON, and no input claims them")


# types, paths, methods


@pytest.mark.parametrize("path", [V1, V2])
def test_a_compressed_body_is_refused(client: httpx.Client, path: str) -> None:
    response = client.post(path, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})

    refusal(response, 415, "Content-Encoding 'gzip' is not taken")


@pytest.mark.parametrize("path", [V1, V2])
def test_an_unknown_media_type_is_refused(client: httpx.Client, path: str) -> None:
    response = client.post(path, content=b"a,b", headers={"Content-Type": "text/csv"})

    refusal(response, 415, "Content-Type 'text/csv' is not taken; send application/json")


@pytest.mark.parametrize(
    ("method", "path", "status", "telling"),
    [
        ("POST", "/v1/models/nobody:predict", 404, "model 'nobody' is not served here"),
        ("POST", "/v2/models/nobody/infer", 404, "model 'nobody' is not served here"),
        ("POST", "/v2/models/plain/versions/2/infer", 404, "version 1, not '2'"),
        ("GET", "/v2/models/plain/versions/2", 404, "version 1, not '2'"),
        ("GET", "/v2/models/plain/versions/2/ready", 404, "version 1, not '2'"),
        ("GET", "/v2/models/nobody/ready", 404, "model 'nobody' is not served here"),
        ("GET", "/v1/models/nobody", 404, "model 'nobody' is not served here"),
        ("GET", "/v1/models/" + "x" * 5000, 404, "is not served here"),
        ("GET", "/v1/models/plain:predict", 405, "takes POST"),
        ("GET", "/v1/models/plain:explain", 405, "takes POST"),
        ("POST", "/v1/models/plain:explain", 404, "model 'plain' gives no explanations"),
        ("GET", "/v2/models/plain/infer", 405, "another method"),
        ("PUT", "/v2/models/plain/infer", 405, "another method"),
        ("DELETE", "/v2", 405, "another method"),
        ("POST", "/v2/health/ready", 405, "another method"),
        ("GET", "/nothing", 404, "no such path; see /docs"),
        ("GET", "/v2/", 404, "no such path"),
        ("POST", "/docs", 405, "another method"),
        ("GET", "/metrics", 404, "no such path"),
        ("POST", "/v2/models/../../etc/passwd/infer", 404, "no such path"),
        ("POST", "/v2/models/%2e%2e%2fplain/infer", 404, "no such path"),
        ("GET", "/v1/models/%00%ff%0a", 404, "is not served here"),
    ],
)
def test_wrong_paths_and_methods(
    client: httpx.Client, method: str, path: str, status: int, telling: str
) -> None:
    response = client.request(method, path)

    refusal(response, status, telling)
    if status == 405:
        assert response.headers["allow"]
