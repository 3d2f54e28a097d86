"""Answers of an upstream are read with distrust: right ones as numbers, all others as a clear error."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mantlet.errors import VictimError
from serving.victims import answers

URL = "http://up"
NUMBERS = [0.7, 0.2, 0.1]
LENGTH = "Inference-Header-Content-Length"


def output(**changes: Any) -> dict[str, Any]:
    whole = {"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": NUMBERS} | changes
    return {key: value for key, value in whole.items() if value is not None}


def read(outputs: object, *, name: str = "scores") -> np.ndarray:
    return answers.v2_scores({}, json.dumps({"outputs": outputs}).encode(), name, URL)


def read_binary(
    raw: bytes, size: object, *, datatype: object = "FP32", length: str | None = None
) -> np.ndarray:
    parameters = {"binary_data_size": size}
    tensor = output(data=None, datatype=datatype, parameters=parameters)
    head = json.dumps({"outputs": [tensor]}).encode()
    return answers.v2_scores({LENGTH: length or str(len(head))}, head + raw, "scores", URL)


def test_flat_and_nested_numbers_are_read() -> None:
    flat, nested = read([output()]), read([output(data=[NUMBERS])])

    assert flat.shape == nested.shape == (1, 3)
    assert flat.dtype == np.float32
    np.testing.assert_array_equal(flat, nested)


def test_a_long_text_among_numbers_is_not_spread_over_memory() -> None:
    """As large as the text were each of the numbers: 16 GB."""
    with pytest.raises(VictimError, match="no tensor of numbers"):
        read([output(data=["a" * 40_000, *[0.5] * 100_000])])


def test_output_is_found_by_name_and_the_first_without_one() -> None:
    other = output(name="other", data=[1, 0, 0])

    np.testing.assert_array_equal(read([other, output()]), [np.float32(NUMBERS)])
    np.testing.assert_array_equal(read([other, output()], name=""), [[1, 0, 0]])


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_binary_floats_are_read_whatever_their_width(datatype: str) -> None:
    raw = np.array(NUMBERS, answers.DTYPES[datatype]).tobytes()
    values = read_binary(raw, len(raw), datatype=datatype)

    assert values.dtype == np.float32
    assert values.flags.writeable
    np.testing.assert_allclose(values, [NUMBERS], atol=1e-3)


def test_binary_output_behind_another_starts_where_the_other_ends() -> None:
    first = output(name="label", datatype="INT64", shape=[1], data=None)
    second = output(data=None, parameters={"binary_data_size": 12})
    first["parameters"] = {"binary_data_size": 8}
    head = json.dumps({"outputs": [first, second]}).encode()
    body = head + b"\0" * 8 + np.array(NUMBERS, "<f4").tobytes()
    values = answers.v2_scores({LENGTH: str(len(head))}, body, "scores", URL)

    np.testing.assert_array_equal(values, [np.float32(NUMBERS)])


RAW = np.array(NUMBERS, "<f4").tobytes()


@pytest.mark.parametrize("size", [0, 11, 13, 24, 10**12, -12, "12", True, None, 12.0])
def test_lies_about_the_size_of_a_binary_tensor_are_refused(size: object) -> None:
    with pytest.raises(VictimError, match="upstream 'http://up' answered"):
        read_binary(RAW, size)


@pytest.mark.parametrize("length", ["-1", "100000", "1e2", "²", "٣", "", " 5", "9" * 5000])
def test_lies_about_the_length_of_the_json_are_refused(length: str) -> None:
    body = json.dumps({"outputs": [output()]}).encode()

    with pytest.raises(VictimError, match=r"lies about its header: .* of \d+ bytes"):
        answers.v2_scores({LENGTH: length}, body, "scores", URL)


@pytest.mark.parametrize("datatype", ["INT64", "BYTES", "BF16", "", 7, None, ["FP32"]])
def test_binary_tensor_of_another_type_is_refused(datatype: object) -> None:
    with pytest.raises(VictimError, match="answered 12 bytes of "):
        read_binary(RAW, 12, datatype=datatype)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": ["0.7", "0.2", "0.1"]},
        {"data": [True, False, False]},
        {"data": [0.7, None, 0.3]},
        {"data": [[0.7], [0.2, 0.1]]},
        {"data": {"0": 0.7}},
        {"data": 0.7},
        {"data": None},
        {"data": []},
        {"shape": [3, 3]},
        {"shape": [-1, 3]},
        {"shape": ["1", 3]},
        {"shape": [True, 3]},
        {"shape": []},
        {"shape": None},
        {"shape": 3},
        {"shape": [10**9, 10**9, 10**9]},
    ],
)
def test_data_or_shape_that_is_no_tensor_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(VictimError, match="upstream 'http://up' answered "):
        read([output(**changes)])


@pytest.mark.parametrize("outputs", [None, [], {}, "scores", 1, [1], ["scores"], [None], [[]]])
def test_missing_output_is_named(outputs: object) -> None:
    with pytest.raises(VictimError, match="answered without output 'scores'"):
        read(outputs)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"NaN", b'{"outputs": [NaN]}', b"[1]", b"\xff\xfe", b"[" * 100_000]
)
def test_anything_but_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(VictimError, match=r"answered (no JSON: |JSON that is no object)"):
        answers.v2_scores({}, body, "scores", URL)
    with pytest.raises(VictimError, match=r"answered (no JSON: |JSON that is no object)"):
        answers.v1_scores(body, URL)


def test_number_too_large_for_float32_becomes_infinite_without_a_warning() -> None:
    assert np.isinf(read([output(data=[1e300, 0, 0])])[0, 0])


def test_v1_predictions_are_read() -> None:
    values = answers.v1_scores(b'{"predictions": [[0.7, 0.2, 0.1], [1, 0, 0]]}', URL)

    np.testing.assert_array_equal(values, np.float32([NUMBERS, [1, 0, 0]]))


@pytest.mark.parametrize(
    "body", [b"{}", b'{"predictions": null}', b'{"predictions": [[1], [1, 2]]}']
)
def test_v1_answer_without_numbers_is_refused(body: bytes) -> None:
    with pytest.raises(VictimError, match="answered no tensor of numbers"):
        answers.v1_scores(body, URL)


def test_metadata_may_leave_out_what_the_server_does_not_know() -> None:
    metadata = answers.model_metadata(b'{"name": "m", "inputs": null, "versions": null}', URL)

    assert (metadata.inputs, metadata.outputs, metadata.versions) == ((), (), None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"inputs": "pixels"}', "inputs"),
        (b'{"inputs": [{"name": 3}]}', "inputs.0.name"),
        (b'{"inputs": [{"name": "x", "shape": "?"}]}', "inputs.0.shape"),
        (b'{"outputs": [{"shape": [1]}]}', "outputs.0.name"),
        (b'{"versions": 3}', "versions"),
    ],
)
def test_metadata_of_another_form_is_refused_with_the_field(body: bytes, field: str) -> None:
    with pytest.raises(VictimError, match=f"answered no metadata: {field}"):
        answers.model_metadata(body, URL)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["outputs", "name", "shape", "data", "datatype", "parameters"])
            | st.text(max_size=3),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(JUNK, st.sampled_from(["", "scores"]), st.none() | st.text(max_size=4))
def test_no_json_does_more_than_raise_a_victim_error(
    junk: object, name: str, length: str | None
) -> None:
    body = json.dumps(junk).encode()
    headers = {} if length is None else {LENGTH: length}
    with suppress(VictimError):
        assert answers.v2_scores(headers, body, name, URL).dtype == np.float32
