"""Rows and answers on the wire: what is read is what was meant, and nonsense is named."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from mantlet.errors import TargetError
from redteam.client import wire
from tests.e2e.harness import npy
from tests.e2e.upstream_servers import METADATA

OF = "target 'http://t'"
MODEL = wire.Model("pixels", "FP32", (4,), "scores", 3)
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4) / 8


def said(**changes: Any) -> bytes:
    return json.dumps(METADATA | changes).encode()


def test_metadata_tell_shape_and_classes() -> None:
    labels = [{"name": "label", "datatype": "INT64", "shape": [-1]}]

    assert wire.model(said(), OF) == MODEL
    assert wire.model(said(outputs=labels), OF).classes is None


@pytest.mark.parametrize(
    ("body", "telling"),
    [
        (b"<html>", "no JSON"),
        (b"[]", "no object"),
        (said(inputs=[]), "no 'inputs'"),
        (said(inputs=[{"name": "t", "datatype": "BYTES", "shape": [-1, 4]}]), "takes BYTES"),
        (said(inputs=[{"name": "t", "datatype": "FP32", "shape": [-1, -1]}]), "fixed shape"),
    ],
)
def test_metadata_that_an_attack_cannot_use_are_named(body: bytes, telling: str) -> None:
    with pytest.raises(TargetError, match=telling):
        wire.model(body, OF)


def test_a_tensor_goes_as_bytes_behind_its_header() -> None:
    question = wire.ask_v2("m", MODEL, ROWS, binary=True)
    cut = int(question.headers[wire.HEADER_LENGTH])
    head = json.loads(question.body[:cut])

    assert question.path == "/v2/models/m/infer"
    assert head["inputs"][0]["shape"] == [2, 4]
    np.testing.assert_array_equal(np.frombuffer(question.body[cut:], "<f4").reshape(2, 4), ROWS)


def test_an_explanation_is_asked_for_beside_the_answer_and_read_behind_it() -> None:
    head = json.loads(
        wire.ask_v2("m", MODEL, ROWS, binary=False, explained=True, classes=[2, 0]).body
    )
    values, maps = np.array([[0.25, 0.75]], "<f4"), np.arange(4, dtype="<f4")[None]
    outputs = [
        {
            "name": name,
            "datatype": "FP32",
            "shape": list(part.shape),
            "parameters": {"binary_data_size": part.nbytes},
        }
        for name, part in (("scores", values), ("explanation", maps))
    ]
    said = json.dumps({"outputs": outputs}).encode()
    headers = {wire.HEADER_LENGTH: str(len(said))}
    body = said + values.tobytes() + maps.tobytes()
    read = wire.answers_v2(headers, body, OF, 2)

    assert [output["name"] for output in head["outputs"]] == ["scores", "explanation"]
    assert head["parameters"] == {"classes": [2, 0]}
    np.testing.assert_array_equal(read[0], values)
    np.testing.assert_array_equal(read[1], maps)
    with pytest.raises(TargetError, match="no 'outputs'"):
        wire.answers_v2(headers, body, OF, 3)


@pytest.mark.parametrize("maps", [np.zeros((2, 3)), np.full((2, 4), np.nan)])
def test_maps_of_another_shape_or_without_numbers_are_refused(maps: np.ndarray) -> None:
    with pytest.raises(TargetError, match="explains rows"):
        wire.checked_maps(maps, ROWS, OF)


def test_json_carries_the_same_numbers_in_both_protocols() -> None:
    second = json.loads(wire.ask_v2("m", MODEL, ROWS, binary=False).body)
    first = json.loads(wire.ask_v1("m", ROWS).body)

    np.testing.assert_array_equal(np.reshape(second["inputs"][0]["data"], (2, 4)), ROWS)
    np.testing.assert_array_equal(first["instances"], ROWS)


def v2(tensor: dict[str, Any], tail: bytes = b"") -> tuple[dict[str, str], bytes]:
    head = json.dumps({"outputs": [tensor]}).encode()
    return ({wire.HEADER_LENGTH: str(len(head))} if tail else {}), head + tail


def test_answers_are_read_from_bytes_and_from_json() -> None:
    raw = np.array([[0.25, 0.75]], "<f4")
    tensor = {"name": "s", "datatype": "FP32", "shape": [1, 2]}
    binary = v2(tensor | {"parameters": {"binary_data_size": 8}}, raw.tobytes())
    labels = v2({"name": "s", "datatype": "INT64", "shape": [2], "data": [3, 1]})

    np.testing.assert_array_equal(wire.answer_v2(*binary, OF), raw)
    np.testing.assert_array_equal(wire.answer_v2(*labels, OF), [3, 1])
    np.testing.assert_array_equal(wire.answer_v1(b'{"predictions": [[0.25, 0.75]]}', OF), raw)


@pytest.mark.parametrize(
    ("tensor", "tail"),
    [
        ({"datatype": "FP32", "shape": [1, 3], "data": [0.5, 0.5]}, b""),
        ({"datatype": "FP32", "shape": [1, 2], "data": ["a", "b"]}, b""),
        ({"datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 9}}, b"12345678"),
        ({"datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 6}}, b"12345678"),
        ({"datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 8}}, b"12345678"),
        ({"datatype": "FP32", "shape": "x", "data": [0.5, 0.5]}, b""),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(tensor: dict[str, Any], tail: bytes) -> None:
    with pytest.raises(TargetError, match=r"target 'http://t' answers"):
        wire.answer_v2(*v2(tensor, tail), OF)


@pytest.mark.parametrize("length", ["", "-1", "²", "1e2", "9" * 5000])
def test_a_header_whose_length_is_none_is_refused(length: str) -> None:
    with pytest.raises(TargetError, match="which is no length"):
        wire.answer_v2({wire.HEADER_LENGTH: length}, b"{}", OF)


def test_probabilities_and_labels_are_told_apart() -> None:
    scores = wire.checked(np.array([[0.2, 0.8001], [1.0, 0.0]]), 2, OF)

    assert scores.dtype == torch.float32
    assert float(scores.max()) <= 1
    for values in (np.array([3, 1]), np.array([[3], [1]])):
        assert wire.checked(values, 2, OF).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("values", "telling"),
    [
        (np.zeros((2, 3, 0, 8)), "wanted .* pictures"),
        (np.zeros((2, 3, 8)), r"wanted .* pictures \(2, channels, height, width\)"),
        (np.full((2, 3, 8, 8), -1.0), r"no pictures in \[0, 1\]"),
        (np.zeros((3, 4)), r"\(3, 4\) to 2 rows"),
        (np.zeros(2), r"wanted \(2, classes\)"),
        (np.array([[-3.0, 4.0]] * 2), "logits"),
        (np.array([[np.nan, 0.5]] * 2), "no probabilities"),
    ],
)
def test_what_cannot_be_learned_from_is_named(values: np.ndarray, telling: str) -> None:
    with pytest.raises(TargetError, match=telling):
        wire.checked(values, 2, OF)


def test_pictures_are_taken_as_they_are() -> None:
    pictures = np.linspace(0, 1.0005, 2 * 3 * 16).reshape(2, 3, 4, 4)
    taken = wire.checked(pictures, 2, OF)

    assert taken.dtype == torch.float32
    assert np.allclose(taken.numpy(), pictures.clip(0, 1))


def test_a_long_text_among_numbers_is_not_spread_over_memory() -> None:
    """As large as the text were each of the numbers: 16 GB."""
    said = json.dumps({"predictions": [["a" * 40_000, *[0.5] * 100_000]]}).encode()

    with pytest.raises(TargetError, match="no array of numbers"):
        wire.answer_v1(said, OF)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("[3, 1]", "i"),
        ("[3.0, 1.0]", "f"),
        ("[[0, 1], [0.5, 0.5]]", "f"),
        ("[36893488147419103232]", "f"),
    ],
)
def test_whole_numbers_stay_whole(said: str, kind: str) -> None:
    answer = wire.answer_v1(b'{"predictions": %b}' % said.encode(), OF)

    assert answer.dtype.kind == kind


def test_an_array_file_is_read_and_nothing_else_is() -> None:
    pictures = np.zeros((2, 1, 4, 4), np.float32)

    assert wire.answer_npy(npy(pictures), OF).shape == (2, 1, 4, 4)
    for body in (b"", b"hello", npy(np.array([{}]), allow_pickle=True)):
        with pytest.raises(TargetError, match=r"http://t' answers no \.npy"):
            wire.answer_npy(body, OF)
