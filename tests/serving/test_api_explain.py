"""Explanations over HTTP: what may be asked, in what forms it comes, and what is refused in which words."""

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from serving.explaining import Explain, Explaining
from serving.policy import Level
from serving.settings import Queue
from tests.e2e.harness import TALE
from tests.helpers import Slopes, TinyVictim, rows
from tests.serving.inprocess import Client, client_of, load, service

EXPLAIN, INFER = "/v1/models/mnist:explain", "/v2/models/mnist/infer"
NPY = {"Content-Type": "application/x-npy"}
INPUTS = rows(3).numpy()
VICTIM = TinyVictim()
TOP = VICTIM.predict(torch.from_numpy(INPUTS)).values.argmax(dim=1)


def serving(folder: Path, *, explain: dict[str, Any] | None = None, **parts: Any) -> Client:
    ready = service(folder, **parts.pop("settings", {}))
    settings = Explain.model_validate({"classes": "any"} | (explain or {}))
    explaining = Explaining(Slopes(VICTIM), VICTIM.classes, settings)
    load(ready, victim=VICTIM, explaining=explaining, queue=Queue(), **parts)
    return client_of(ready)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return serving(tmp_path)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def slopes(*classes: int) -> list[Any]:
    told: list[Any] = VICTIM.slopes(torch.tensor(classes)).tolist()
    return told


def refused(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    said: str = response.json()["error"]
    return said


def test_json_rows_are_explained_with_their_predictions(client: Client) -> None:
    answer = client.post(EXPLAIN, json={"instances": INPUTS.tolist()}).json()

    assert np.allclose(answer["explanations"], slopes(*TOP.tolist()))
    assert np.argmax(answer["predictions"], axis=1).tolist() == TOP.tolist()


def test_a_class_for_all_or_for_each_may_be_named(client: Client) -> None:
    body = {"instances": INPUTS.tolist()}
    one = client.post(EXPLAIN, json=body | {"class": 2}).json()
    each = client.post(EXPLAIN, json=body | {"classes": [4, 0, 1]}).json()

    assert np.allclose(one["explanations"], slopes(2, 2, 2))
    assert np.allclose(each["explanations"], slopes(4, 0, 1))


def test_behind_a_question_mark_stands_what_arrays_and_pictures_cannot_say(client: Client) -> None:
    path = f"{EXPLAIN}?method=twice&class=3"
    answer = client.post(path, content=npy(INPUTS), headers=NPY).json()

    assert np.allclose(answer["explanations"], 2 * np.array(slopes(3, 3, 3)))


def test_what_the_json_says_counts_more_than_what_the_query_string_says(client: Client) -> None:
    path, body = f"{EXPLAIN}?method=twice&class=3", {"instances": INPUTS.tolist()}
    answers = [
        client.post(path, json=body | asked).json()["explanations"]
        for asked in ({}, {"class": 2}, {"method": "gradient"})
    ]
    both = client.post(path, json=body | {"classes": [0, 1, 2]})

    assert np.allclose(answers[0], 2 * np.array(slopes(3, 3, 3)))
    assert np.allclose(answers[1], 2 * np.array(slopes(2, 2, 2)))
    assert np.allclose(answers[2], slopes(3, 3, 3))
    assert "send one of them" in refused(both, 400)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("class=12345678901", "class 12345678901 does not exist; this model has 0 to 4"),
        ("class=seven", "'class' is 'seven'; wanted a whole number"),
        (
            "classes=7",
            "'classes' must be a list of whole numbers, one for each row; send it in JSON",
        ),
    ],
)
def test_behind_a_question_mark_mistakes_are_told_as_well(
    client: Client, asked: str, message: str
) -> None:
    answer = client.post(f"{EXPLAIN}?{asked}", content=npy(INPUTS), headers=NPY)

    assert message in refused(answer, 400)


def test_an_array_comes_back_where_it_is_accepted(client: Client) -> None:
    headers = NPY | {"Accept": "application/x-npy"}
    answer = client.post(EXPLAIN, content=npy(INPUTS), headers=headers)

    assert answer.headers["content-type"] == "application/x-npy"
    assert np.load(io.BytesIO(answer.content)).tolist() == slopes(*TOP.tolist())


def test_a_picture_for_people_comes_back_where_it_is_accepted(client: Client) -> None:
    headers = {"Accept": "image/png"}
    answer = client.post(EXPLAIN, json={"instances": INPUTS.tolist()}, headers=headers)
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert answer.headers["content-type"] == "image/png"
        assert min(picture.size) > 400


def test_a_posted_picture_is_explained(client: Client) -> None:
    stream = io.BytesIO()
    Image.fromarray((INPUTS[0, 0] * 255).astype(np.uint8)).save(stream, "PNG")
    answer = client.post(EXPLAIN, content=stream.getvalue(), headers={"Content-Type": "image/png"})

    assert np.shape(answer.json()["explanations"]) == (1, 1, 4, 4)


def test_labels_come_with_explanations_too(tmp_path: Path) -> None:
    client = serving(tmp_path, answer="labels")
    body = {"instances": INPUTS.tolist()}
    answer = client.post(EXPLAIN, json=body).json()
    picture = client.post(EXPLAIN, json=body, headers={"Accept": "image/png"})

    assert answer["predictions"] == TOP.tolist()
    assert picture.status_code == 200


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({"class": 5}, 400, "class 5 does not exist; this model has 0 to 4"),
        ({"class": -1}, 400, "class -1 does not exist"),
        ({"class": True}, 400, "wanted a whole number"),
        ({"class": 1.5}, 400, "wanted a whole number"),
        ({"class": "seven"}, 400, "wanted a whole number"),
        ({"class": 10**30}, 400, "does not exist; this model has 0 to 4"),
        ({"classes": [0, 1, 10**30]}, 400, "does not exist; this model has 0 to 4"),
        ({"classes": [0, 1]}, 400, "2 classes for 3 rows"),
        ({"classes": [0, 1, 9]}, 400, "class 9 does not exist"),
        ({"classes": "012"}, 400, "'classes' must be a list"),
        ({"classes": [0, 1, None]}, 400, "'classes' must be a list"),
        ({"class": 1, "classes": [0, 1, 2]}, 400, "send one of them"),
        ({"method": "lime"}, 400, "method 'lime' is not known here"),
        ({"method": "gradient_"}, 400, "did you mean 'gradient'"),
        ({"method": 7}, 400, "'method' is 7"),
        ({"method": "x" * 5000}, 400, "is not known here"),
    ],
)
def test_what_does_not_exist_is_refused_in_clear_words(
    client: Client, asked: dict[str, Any], status: int, message: str
) -> None:
    said = refused(client.post(EXPLAIN, json={"instances": INPUTS.tolist()} | asked), status)

    assert message in said
    assert len(said) < 300


def test_without_rows_there_is_nothing_to_explain(client: Client) -> None:
    assert 'lacks "instances"' in refused(client.post(EXPLAIN, json={"class": 1}), 400)
    assert "no rows" in refused(client.post(EXPLAIN, json={"instances": []}), 400)


def test_too_many_rows_are_refused(tmp_path: Path) -> None:
    client = serving(tmp_path, explain={"max_rows_per_request": 2})
    body = {"inputs": [v2(INPUTS)], "outputs": [{"name": "explanation"}]}

    assert "at most 2" in refused(client.post(EXPLAIN, json={"instances": INPUTS.tolist()}), 413)
    assert "at most 2" in refused(client.post(INFER, json=body), 413)


def test_where_the_likeliest_class_alone_is_explained_others_are_refused(tmp_path: Path) -> None:
    client = serving(tmp_path, explain={"classes": "top"})
    said = refused(client.post(EXPLAIN, json={"instances": INPUTS.tolist(), "class": 1}), 403)

    assert said == "only the likeliest class of a row is explained; leave 'class' out"


def test_a_section_that_says_nothing_explains_the_likeliest_class_alone(tmp_path: Path) -> None:
    ready = service(tmp_path)
    load(ready, victim=VICTIM, explaining=Explaining(Slopes(VICTIM), VICTIM.classes), queue=Queue())
    client, body = client_of(ready), {"instances": INPUTS.tolist()}
    named = [client.post(EXPLAIN, json=body | {"class": label}) for label in range(5)]
    unnamed = client.post(EXPLAIN, json=body)

    assert {refused(answer, 403) for answer in named} == {
        "only the likeliest class of a row is explained; leave 'class' out"
    }
    assert unnamed.status_code == 200


def test_what_the_policy_withholds_is_refused_without_a_hint(tmp_path: Path) -> None:
    client = serving(tmp_path, levels=(Level(name="all", explanations=False),))
    asked = {"inputs": [v2(INPUTS)], "outputs": [{"name": "explanation"}]}
    answers = [
        client.post(EXPLAIN, json={"instances": INPUTS.tolist()}),
        client.post(EXPLAIN, content=npy(INPUTS), headers=NPY | {"Accept": "image/png"}),
        client.post(INFER, json=asked),
    ]
    said = {refused(answer, 403) for answer in answers}

    assert said == {"explanations are not available to this client"}
    assert not TALE.search(said.pop())
    assert client.post(INFER, json={"inputs": [v2(INPUTS)]}).status_code == 200


def test_a_budget_that_is_used_up_is_told(tmp_path: Path) -> None:
    tiers = {"default": {"explanations": "4/day"}}
    client = serving(tmp_path, settings={"tiers": tiers})
    body = {"instances": INPUTS.tolist()}
    first, second = (client.post(EXPLAIN, json=body) for _ in range(2))

    assert first.status_code == 200
    assert "3 explanations asked, 1 of 4 per 1 day left" in refused(second, 429)
    assert int(second.headers["retry-after"]) >= 1


def test_a_model_without_explanations_says_so(tmp_path: Path) -> None:
    ready = service(tmp_path)
    load(ready)
    client = client_of(ready)
    asked = {"inputs": [v2(INPUTS)], "outputs": [{"name": "explanation"}]}

    assert refused(client.post(EXPLAIN, json={"instances": INPUTS.tolist()}), 404) == (
        "model 'mnist' gives no explanations"
    )
    assert "this model has 'probabilities'" in refused(client.post(INFER, json=asked), 400)


def test_a_path_that_takes_post_says_so(client: Client) -> None:
    assert refused(client.get(EXPLAIN), 405) == "this path takes POST"


def v2(array: np.ndarray) -> dict[str, Any]:
    data = array.ravel().tolist()
    return {"name": "input", "datatype": "FP32", "shape": list(array.shape), "data": data}


def test_v2_answers_both_tensors_to_those_who_ask(client: Client) -> None:
    asked = {
        "inputs": [v2(INPUTS)],
        "outputs": [{"name": "explanation"}],
        "parameters": {"class": 2, "method": "twice"},
    }
    both = client.post(INFER, json=asked).json()["outputs"]
    plain = client.post(INFER, json={"inputs": [v2(INPUTS)]}).json()["outputs"]
    told = {tensor["name"]: np.reshape(tensor["data"], tensor["shape"]) for tensor in both}

    assert [tensor["name"] for tensor in both] == ["probabilities", "explanation"]
    assert np.allclose(told["explanation"], 2 * np.array(slopes(2, 2, 2)))
    assert [tensor["name"] for tensor in plain] == ["probabilities"]


def test_v2_answers_both_tensors_as_bytes(client: Client) -> None:
    outputs = [{"name": "explanation", "parameters": {"binary_data": True}}]
    answer = client.post(INFER, json={"inputs": [v2(INPUTS)], "outputs": outputs})
    cut = int(answer.headers["inference-header-content-length"])
    maps = np.frombuffer(answer.content[cut + 3 * 5 * 4 :], np.float32)

    assert maps.reshape(3, 1, 4, 4).tolist() == slopes(*TOP.tolist())


def test_the_metadata_say_what_explanations_there_are(client: Client) -> None:
    about = client.get("/v2/models/mnist").json()

    assert about["parameters"]["explanation"] == "gradient, twice"
    assert [output["name"] for output in about["outputs"]] == ["probabilities"]


def test_rows_that_are_no_pictures_cannot_be_shown(tmp_path: Path) -> None:
    """They are refused before anything is paid."""

    class Line(TinyVictim):
        def __init__(self) -> None:
            super().__init__()
            self.input = type(self.input)((16,), 0.0, 1.0)

    ready, line = service(tmp_path), Line()
    load(ready, victim=line, explaining=Explaining(Slopes(line), line.classes))
    said = client_of(ready).post(
        EXPLAIN, json={"instances": [[0.5] * 16]}, headers={"Accept": "image/png"}
    )

    assert "cannot be shown; accept JSON or application/x-npy" in refused(said, 400)
    assert line.batches == []
