"""Upstream victims against a server that misbehaves: every failure is named, none is asked twice."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mantlet.errors import ConfigError, MantletError, VictimError, VictimTimeout
from mantlet.types import Kind
from serving.explaining import Explain
from serving.victims.upstream import UpstreamVictim
from tests.e2e import upstream_servers as servers
from tests.e2e.upstream_servers import METADATA, SCORES, HostileServer, saying
from tests.helpers import SETUP

ROWS = torch.tensor([[0.0, 0.25, 0.5, 1.0], [1.0, 0.0, 0.0, 0.0]])
Load = Callable[..., UpstreamVictim]


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer() as started:
        yield started


@pytest.fixture
def load(server: HostileServer) -> Iterator[Load]:
    """Loads victims of the server, and closes them."""
    opened: list[UpstreamVictim] = []

    def loaded(**settings: Any) -> UpstreamVictim:
        victim = UpstreamVictim.model_validate(
            {"url": server.url, "model": "m", "timeout_s": 30} | settings
        )
        opened.append(victim)
        victim.load(SETUP)
        return victim

    yield loaded
    for victim in opened:
        victim.close()


V1 = {"protocol": "v1", "input_shape": [4], "classes": 3}


@pytest.mark.parametrize(
    ("settings", "path", "binary"),
    [
        ({}, "/v2/models/m/infer", True),
        ({"binary": "never"}, "/v2/models/m/infer", False),
        ({"model_version": "7"}, "/v2/models/m/versions/7/infer", True),
        (V1, "/v1/models/m:predict", False),
    ],
)
def test_rows_arrive_and_answers_come_back(
    server: HostileServer, load: Load, settings: dict[str, Any], path: str, binary: bool
) -> None:
    victim = load(**settings)
    answer = victim.predict(ROWS)
    (asked,) = server.posts

    assert asked.path == path
    assert ("inference-header-content-length" in asked.headers) is binary
    np.testing.assert_array_equal(asked.rows, ROWS.numpy())
    torch.testing.assert_close(answer.values, torch.tensor([SCORES] * 2))
    assert answer.logits is None
    assert (victim.classes, victim.input.shape, victim.version) == (
        3,
        (4,),
        "1" if "protocol" in settings else "7",
    )


def test_names_come_from_the_server(load: Load) -> None:
    victim = load()

    assert (victim.input.name, victim.output) == ("pixels", "scores")


def test_binary_tensors_are_sent_only_where_they_are_announced(
    server: HostileServer, load: Load
) -> None:
    server.about = saying({"name": "t", "extensions": []})
    load().predict(ROWS)
    server.about = saying({"error": "no such path"}, status=404)
    load().predict(ROWS)
    load(binary="always").predict(ROWS)
    sent = ["inference-header-content-length" in asked.headers for asked in server.posts]

    assert sent == [False, False, True]


def test_logits_become_probabilities(load: Load) -> None:
    answer = load(scores="logits").predict(ROWS)

    assert answer.logits is not None
    torch.testing.assert_close(answer.values, torch.softmax(torch.tensor([SCORES] * 2), dim=1))


def test_headers_of_the_config_go_with_every_request(server: HostileServer, load: Load) -> None:
    load(headers={"Authorization": "Bearer sesame", "X-Team": "red"}).predict(ROWS)

    for asked in server.gets + server.posts:
        assert asked.headers["authorization"] == "Bearer sesame"
        assert asked.headers["x-team"] == "red"


def test_credentials_are_not_shown(load: Load) -> None:
    victim = load(headers={"Authorization": "Bearer sesame"})

    assert "sesame" not in repr(victim) + victim.model_dump_json()


def test_inputs_are_normalised_before_they_are_sent(server: HostileServer, load: Load) -> None:
    load(mean=[0.5], std=[0.5]).predict(ROWS)

    np.testing.assert_allclose(server.posts[0].rows, (ROWS.numpy() - 0.5) / 0.5)


def test_connections_are_kept_alive_and_used_again(server: HostileServer, load: Load) -> None:
    victim = load()
    for _ in range(20):
        victim.predict(ROWS)

    assert len(server.posts) == 20
    assert server.connections == 1


def test_pool_bounds_the_connections(server: HostileServer, load: Load) -> None:
    victim = load(pool=3)
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: victim.predict(ROWS).values, range(36)))

    assert len(answers) == len(server.posts) == 36
    assert 1 <= server.connections <= 3
    assert victim.concurrency == 3


def test_connection_that_the_server_closed_is_not_used_again(
    server: HostileServer, load: Load
) -> None:
    victim = load()
    server.answer = servers.closing_afterwards
    for number in range(1, 6):
        victim.predict(ROWS)
        servers.wait_until(lambda: not _alive(victim), "the end of the connection to be noticed")
        assert len(server.posts) == server.connections == number


def _alive(victim: UpstreamVictim) -> int:
    """How many open connections wait in the client's pool."""
    pooled = victim._http.connector._conns.values()  # type: ignore[union-attr]
    return sum(protocol.is_connected() for waiting in pooled for protocol, _ in waiting)


async def crowd_out(asked: servers.Asked, writer: asyncio.StreamWriter) -> None:
    """Closes the connection just as the next request comes in: it may or may not have been computed."""
    if not hasattr(writer, "used"):
        writer.used = True  # type: ignore[attr-defined]
        await servers.honest(asked, writer)
        return
    writer.close()


def test_request_on_a_connection_that_just_closed_is_not_sent_again(
    server: HostileServer, load: Load
) -> None:
    victim = load()
    server.answer = crowd_out
    victim.predict(ROWS)

    with pytest.raises(VictimError, match="broke off: ServerDisconnectedError"):
        victim.predict(ROWS)
    assert len(server.posts) == 2


def output(**changes: Any) -> dict[str, Any]:
    one = {"name": "scores", "datatype": "FP32", "shape": [2, 3], "data": SCORES * 2} | changes
    return {"outputs": [one]}


def lying_binary(size: int) -> servers.Answer:
    tensor = {"name": "scores", "datatype": "FP32", "shape": [2, 3]}
    tensor["parameters"] = {"binary_data_size": size}
    head = json.dumps({"outputs": [tensor]}).encode()
    raw = np.array(SCORES * 2, "<f4").tobytes()
    return saying(head + raw, Inference_Header_Content_Length=str(len(head)))


FAILURES = {
    "429": (saying({"error": "slow down"}, status=429), "answered 429: it limits our rate"),
    "401": (saying({"error": "who?"}, status=401), "answered 401: it does not know our cred"),
    "403": (saying({"error": "no"}, status=403), "answered 403: it refuses our credentials"),
    "404": (saying({"error": "what?"}, status=404), "answered 404: it does not know the model"),
    "500": (saying({"error": "oops"}, status=500), "answered 500: it cannot answer"),
    "503": (saying({"error": "busy"}, status=503), "answered 503: it is overloaded or not ready"),
    "redirect": (
        saying(b"", status=307, Location="http://127.0.0.1:1/elsewhere"),
        "answered 307: it redirects: set url",
    ),
    "breaks off": (servers.breaking_off, "broke off: ClientPayloadError"),
    "hangs up": (servers.hanging_up, "broke off: ServerDisconnectedError"),
    "no HTTP": (saying(b"", status=200, Content_Length="many"), "broke off: "),
    "no JSON": (saying(b"<html>welcome</html>"), "answered no JSON"),
    "NaN": (saying(b'{"outputs": [{"data": [NaN]}]}'), "answered no JSON"),
    "null": (saying(output(data=[0.7, 0.3, None] * 2)), "answered no tensor of numbers"),
    "infinite": (saying(output(data=[1e300, 0, 0] * 2)), "values that are not finite"),
    "too few rows": (
        saying(output(shape=[1, 3], data=SCORES)),
        r"shape \(1, 3\) to 2 rows, wanted",
    ),
    "too few classes": (saying(output(shape=[3, 2])), r"shape \(3, 2\) to 2 rows, wanted \(2, 3\)"),
    "wrong shape": (saying(output(shape=[2, 4])), r"answered 6 numbers of shape \[2, 4\]"),
    "wrong dtype": (saying(output(datatype="BYTES", data=["a"] * 6)), "no tensor of numbers"),
    "other output": (saying(output(name="label")), "answered without output 'scores'"),
    "no output": (saying({"outputs": []}), "answered without output 'scores'"),
    "long binary": (lying_binary(1000), "answered 24 bytes of 'FP32', and says 1000"),
    "short binary": (lying_binary(12), r"answered 3 numbers of shape \[2, 3\]"),
    "endless": (servers.endless, "answered more than 1000000 bytes"),
    "compressed": (
        saying(b"\x1f\x8b" + b"0" * 100, Content_Encoding="gzip"),
        "answered no JSON",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failure_is_named_and_the_request_was_sent_once(
    server: HostileServer, load: Load, name: str
) -> None:
    answer, message = FAILURES[name]
    victim = load(max_answer_bytes=1_000_000)
    server.answer = answer

    with pytest.raises(VictimError, match=f"upstream 'http://127.0.0.1:.*{message}"):
        victim.predict(ROWS)
    assert len(server.posts) == 1

    server.answer = servers.honest
    torch.testing.assert_close(victim.predict(ROWS).values, torch.tensor([SCORES] * 2))


@pytest.mark.parametrize("answer", [servers.silent, servers.dripping])
def test_slow_answer_is_a_timeout_and_the_request_was_sent_once(
    server: HostileServer, load: Load, answer: servers.Answer
) -> None:
    victim = load(timeout_s=0.5)
    server.answer = answer
    since = time.monotonic()

    with pytest.raises(VictimTimeout, match=r"took over 0.5 s"):
        victim.predict(ROWS)
    assert time.monotonic() - since >= 0.5
    assert len(server.posts) == 1


def test_gateway_timeout_of_the_upstream_is_a_timeout(server: HostileServer, load: Load) -> None:
    victim = load()
    server.answer = saying({"error": "slow"}, status=504)

    with pytest.raises(VictimTimeout, match="answered 504: the server behind it is too slow"):
        victim.predict(ROWS)
    assert len(server.posts) == 1


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the client makes between its tries, which take no time in the test."""
    made: list[float] = []

    async def pause(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", pause)
    return made


def test_refused_connection_is_tried_three_times(
    server: HostileServer, load: Load, pauses: list[float]
) -> None:
    victim = load()
    server.stop()

    with pytest.raises(
        VictimError, match=r"cannot be reached: connection refused; is it running\?"
    ):
        victim.predict(ROWS)
    assert len(pauses) == 2
    assert pauses[0] < pauses[1] <= 0.5


def test_refused_connection_is_answered_when_the_server_comes_back(
    server: HostileServer, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = load()
    server.stop()
    returning = HostileServer(port=server.port)

    async def meanwhile(seconds: float) -> None:
        await asyncio.to_thread(returning.__enter__)

    monkeypatch.setattr(asyncio, "sleep", meanwhile)
    try:
        torch.testing.assert_close(victim.predict(ROWS).values, torch.tensor([SCORES] * 2))
        assert len(returning.posts) == 1
    finally:
        returning.stop()


def test_upstream_that_is_down_at_load_can_be_loaded_later() -> None:
    port = servers.free_port()
    victim = UpstreamVictim.model_validate({"url": f"http://127.0.0.1:{port}", "model": "m"})
    try:
        with pytest.raises(VictimError, match="cannot be reached"):
            victim.load(SETUP)
        with HostileServer(port=port):
            victim.load(SETUP)
            assert victim.predict(ROWS).values.shape == (2, 3)
    finally:
        victim.close()


def test_close_may_be_called_twice_and_before_load(load: Load) -> None:
    victim = load()
    victim.close()
    victim.close()

    UpstreamVictim.model_validate({"url": "http://localhost", "model": "m"}).close()


def test_v1_needs_shape_and_classes(load: Load) -> None:
    with pytest.raises(ConfigError, match="v1 has no metadata; set input_shape and classes"):
        load(protocol="v1")


def changed(**tensor: Any) -> dict[str, Any]:
    return METADATA | {"inputs": [METADATA["inputs"][0] | tensor]}


@pytest.mark.parametrize(
    ("metadata", "settings", "message"),
    [
        (changed(shape=[-1, -1]), {}, r"leaves axes open: \[-1\]; set input_shape"),
        (changed(shape=[]), {}, r"leaves axes open: \[\]; set input_shape"),
        (changed(datatype="BYTES"), {}, "takes BYTES; served are FP32, FP64, FP16"),
        (METADATA | {"outputs": []}, {}, "does not say how many classes it answers; set classes"),
        (METADATA, {"input_name": "other"}, "has inputs pixels; name one of them with input_name"),
        (METADATA, {"output_name": "x"}, "has outputs scores; name one of them with output_name"),
        (
            METADATA | {"outputs": METADATA["outputs"] * 2},
            {},
            "has outputs scores, scores; name one of them with output_name",
        ),
        (METADATA, {"mean": [1, 2], "std": [1, 2]}, "mean has 2 numbers"),
        ({"inputs": "none"}, {}, "answered no metadata: inputs"),
        ([], {}, "answered JSON that is no object"),
    ],
)
def test_metadata_that_does_not_do_is_named_with_the_remedy(
    server: HostileServer, load: Load, metadata: Any, settings: dict[str, Any], message: str
) -> None:
    server.metadata = saying(metadata)

    with pytest.raises(MantletError, match=message):
        load(**settings)


def test_settings_stand_in_for_metadata_that_is_missing(server: HostileServer, load: Load) -> None:
    server.metadata = saying({"name": "m", "inputs": [], "outputs": []})
    victim = load(input_shape=[4], classes=3, input_name="pixels", output_name="scores")

    assert victim.predict(ROWS).values.shape == (2, 3)
    assert server.posts[0].json["inputs"][0]["name"] == "pixels"


def test_fingerprint_follows_the_metadata(server: HostileServer, load: Load) -> None:
    first, same = load().fingerprint, load().fingerprint
    server.metadata = saying(METADATA | {"versions": ["8"]})
    other = load().fingerprint

    assert first == same != other


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("url", "up.example"),
        ("url", "ftp://up.example"),
        ("url", "http://"),
        ("url", "http://up:99999"),
        ("url", "http://up:0"),
        ("url", "http://up/?model=m"),
        ("url", "http://me:secret@up"),
        ("model", ""),
        ("model", "a/../b"),
        ("model", "a?b"),
        ("model_version", "1/infer#"),
        ("headers", {"X Team": "red"}),
        ("headers", {"X-Team": "red\r\nHost: other"}),
        ("timeout_s", 0),
        ("protocol", "v3"),
    ],
)
def test_setting_that_cannot_work_is_refused_before_anything_is_sent(
    setting: str, value: object
) -> None:
    whole = {"url": "http://up", "model": "m"} | {setting: value}

    with pytest.raises(ValidationError, match=setting) as refused:
        UpstreamVictim.model_validate(whole)
    assert refused.value.error_count() == 1


@pytest.mark.parametrize("settings", [{}, V1, {"model_version": "7"}])
def test_explanations_of_the_server_come_through(
    server: HostileServer, load: Load, settings: dict[str, Any]
) -> None:
    explainer = load(**settings).explainer(Explain(), b"key")
    maps = explainer.explain(ROWS, torch.zeros(2, dtype=torch.int64), "upstream")

    assert explainer.methods == ("upstream",)
    assert maps.kind is Kind.ATTRIBUTIONS
    assert torch.equal(maps.values, ROWS)
    assert {asked.path for asked in server.posts} == {"/v1/models/m:explain"}


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_that_explains_nothing_is_refused_at_load(
    server: HostileServer, load: Load, status: int
) -> None:
    victim = load()
    server.answer = saying({"error": "no such path"}, status=status)

    with pytest.raises(ConfigError, match=r"the server explains nothing.*remove 'explain'"):
        victim.explainer(Explain(), b"key")


def test_a_server_that_is_not_ready_to_explain_is_waited_for(
    server: HostileServer, load: Load
) -> None:
    victim = load()
    server.answer = saying({"error": "loading"}, status=503)

    with pytest.raises(VictimError, match="not ready"):
        victim.explainer(Explain(), b"key")


@pytest.mark.parametrize(
    "settings", [{"classes": "any"}, {"methods": ["gradient"]}], ids=["classes", "methods"]
)
def test_what_an_upstream_cannot_be_told_is_refused(load: Load, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="remove 'methods' and 'classes'"):
        load().explainer(Explain.model_validate(settings), b"key")


@pytest.mark.parametrize(
    "told",
    [
        {"explanations": [[1.0, 2.0, 3.0]]},
        {"explanations": [[1.0, 2.0, 3.0, 1e39], [1.0, 2.0, 3.0, 4.0]]},
        {"explanations": {"anchor": ["x > 1"]}},
        {"predictions": [[1.0, 2.0, 3.0, 4.0]] * 2},
        b"<html>",
    ],
    ids=["shape", "infinite", "words", "other", "no JSON"],
)
def test_explanations_that_are_no_maps_are_refused(
    server: HostileServer, load: Load, told: Any
) -> None:
    explainer = load().explainer(Explain(), b"key")
    server.answer = saying(told)

    with pytest.raises(VictimError, match="upstream"):
        explainer.explain(ROWS, torch.zeros(2, dtype=torch.int64), "upstream")
