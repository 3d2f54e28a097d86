"""A gateway in front of another server: our own, one that misbehaves, and one that is not there."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from serving.victims.torch import TorchVictim
from serving.victims.upstream import UpstreamVictim
from tests.e2e import upstream_servers as servers
from tests.e2e.harness import OPEN, Running, gateway, refusal
from tests.e2e.upstream_servers import SCORES, HostileServer, free_port, saying, wait_until
from tests.helpers import SETUP

ROW = {"instances": [[0.0, 0.25, 0.5, 1.0]]}
TWO_ROWS = {"instances": ROW["instances"] * 2}
V1 = {"protocol": "v1", "input_shape": [1, 28, 28], "classes": 10}


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Our own gateway as the upstream: the shipped network without defenses, open."""
    with gateway(tmp_path_factory.mktemp("behind"), OPEN) as running:
        yield running


@pytest.mark.parametrize(
    "settings", [{"binary": "always"}, {"binary": "never"}, V1, {"model_version": "1"}]
)
def test_victim_behind_our_own_gateway_answers_like_the_model_itself(
    behind: Running, rows: np.ndarray, shipped_victim: TorchVictim, settings: dict[str, Any]
) -> None:
    victim = UpstreamVictim.model_validate({"url": behind.url, "model": "mnist"} | settings)
    inputs = torch.from_numpy(rows[:7, None])
    try:
        victim.load(SETUP)
        answer = victim.predict(inputs)
    finally:
        victim.close()

    assert victim.input.shape == (1, 28, 28)
    assert victim.classes == 10
    torch.testing.assert_close(
        answer.values, shipped_victim.predict(inputs).values, atol=1e-5, rtol=0
    )


def test_chain_of_two_gateways_answers_like_one(
    behind: Running, tmp_path: Path, rows: np.ndarray
) -> None:
    """The names and shapes on the wire are those of the server behind."""
    victims: dict[str, dict[str, Any]] = {
        "binary": {"binary": "always"},
        "json": {"binary": "never"},
    }
    models = {
        name: {"victim": {"type": "upstream", "url": behind.url, "model": "mnist"} | settings}
        for name, settings in (victims | {"v1": V1}).items()
    }
    with gateway(tmp_path, OPEN | {"models": models}) as front:
        with behind.client() as direct, front.client() as through:
            body = {"instances": rows[:5].tolist()}
            wanted = direct.post("/v1/models/mnist:predict", json=body).json()["predictions"]
            for name in models:
                answered = through.post(f"/v1/models/{name}:predict", json=body)

                assert answered.status_code == 200, answered.text
                np.testing.assert_allclose(answered.json()["predictions"], wanted, atol=1e-5)

            metadata = through.get("/v2/models/binary").json()
            assert metadata["inputs"] == direct.get("/v2/models/mnist").json()["inputs"]
            assert metadata["outputs"] == direct.get("/v2/models/mnist").json()["outputs"]
        assert front.stop() == 0


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer() as started:
        yield started


@pytest.fixture(scope="module")
def front(server: HostileServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with keys and a budget of four rows a day, in front of the hostile server."""
    victim = {"type": "upstream", "url": server.url, "model": "m", "timeout_s": 2.0}
    config = {
        "identity": {"open": False},
        "tiers": {"default": {"rows": "4/day"}},
        "models": {
            "m": {"victim": victim},
            "small": {"victim": victim | {"max_answer_bytes": 10_000}},
        },
    }
    with gateway(tmp_path_factory.mktemp("front"), config, clients=60) as running:
        yield running
        assert not running.events("unexpected_error")
        assert running.stop() == 0


@pytest.fixture(autouse=True)
def forget(server: HostileServer) -> Iterator[None]:
    yield
    server.answer = servers.honest
    server.posts.clear()


@pytest.fixture
def asking(front: Running) -> Iterator[httpx.Client]:
    """A client that the gateway has never seen."""
    with front.client(front.new_key()) as opened:
        yield opened


def budget_left(client: httpx.Client) -> int:
    """Asks a row at a time until the budget is used up."""
    for answered in range(5):
        response = client.post("/v1/models/m:predict", json=ROW)
        if response.status_code == 429:
            return answered
        assert response.status_code == 200, response.text
    return 5


def test_budget_is_charged_once_a_row(asking: httpx.Client, server: HostileServer) -> None:
    assert asking.post("/v1/models/m:predict", json=TWO_ROWS).status_code == 200
    assert budget_left(asking) == 2
    assert len(server.posts) == 3


BROKEN: dict[str, servers.Answer] = {
    "limits our rate": saying({"error": "slow down"}, status=429),
    "wants credentials": saying({"error": "who?"}, status=401),
    "fails": saying({"error": "Traceback (most recent call last)"}, status=500),
    "redirects": saying(b"", status=302, Location="/elsewhere"),
    "breaks off": servers.breaking_off,
    "hangs up": servers.hanging_up,
    "no JSON": saying(b"<html>welcome</html>"),
    "NaN": saying(b'{"outputs": [{"name": "scores", "shape": [1, 3], "data": [NaN, 0, 1]}]}'),
    "junk": saying({"outputs": [{"name": "scores", "shape": "1x3", "parameters": 7}]}),
    "not on the simplex": saying(
        {"outputs": [{"name": "scores", "shape": [2, 3], "data": [1, 1, 1, 1, 1, 1]}]}
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_upstream_is_a_503_that_costs_nothing_and_is_asked_once(
    asking: httpx.Client, server: HostileServer, name: str
) -> None:
    server.answer = BROKEN[name]
    refusal(asking.post("/v1/models/m:predict", json=TWO_ROWS), 503, "no answer can be given now")

    assert len(server.posts) == 1

    server.answer = servers.honest

    assert budget_left(asking) == 4


@pytest.mark.parametrize("answer", [servers.silent, servers.dripping])
def test_slow_upstream_is_a_504_that_costs_nothing_and_is_asked_once(
    asking: httpx.Client, server: HostileServer, answer: servers.Answer
) -> None:
    server.answer = answer
    refusal(asking.post("/v1/models/m:predict", json=TWO_ROWS), 504, "the model took too long")

    assert len(server.posts) == 1

    server.answer = servers.honest

    assert budget_left(asking) == 4


def test_giant_answer_is_cut_off(asking: httpx.Client, server: HostileServer) -> None:
    server.answer = servers.endless
    refusal(asking.post("/v1/models/small:predict", json=ROW), 503, "no answer can be given now")

    assert len(server.posts) == 1


def test_why_there_is_no_answer_is_in_the_log(
    asking: httpx.Client, server: HostileServer, front: Running
) -> None:
    server.answer = saying({"error": "this goes to nobody"}, status=418)
    asking.post("/v1/models/m:predict", json=ROW)
    last = front.events("failed_closed")[-1]

    assert last["kind"] == "VictimError"
    assert last["error"].endswith("answered 418: it cannot answer")


def test_requests_share_few_connections(asking: httpx.Client, server: HostileServer) -> None:
    before = server.connections
    for _ in range(4):
        asking.post("/v1/models/m:predict", json=ROW)

    assert len(server.posts) == 4
    assert server.connections - before <= 1


def test_two_protocols_of_the_client_reach_one_upstream(asking: httpx.Client) -> None:
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 1]}
    v2 = asking.post("/v2/models/m/infer", json={"inputs": [tensor]}).json()

    assert v2["model_version"] == "7"
    assert [output["name"] for output in v2["outputs"]] == ["scores"]
    np.testing.assert_allclose(v2["outputs"][0]["data"], SCORES, atol=1e-6)


def test_inputs_are_checked_before_the_upstream_is_asked(
    asking: httpx.Client, server: HostileServer
) -> None:
    wrong = asking.post("/v1/models/m:predict", json={"instances": [[1, 2, 3]]})

    refusal(wrong, 400, "wanted [4]")
    assert server.posts == []


def test_gateway_waits_for_its_upstream_and_serves_its_other_models(
    tmp_path: Path, rows: np.ndarray
) -> None:
    port = free_port()
    late = {"victim": {"type": "upstream", "url": f"http://127.0.0.1:{port}", "model": "m"}}
    models = {"late": late} | OPEN["models"]
    with gateway(tmp_path, OPEN | {"models": models}, until="victim_not_ready") as running:
        with running.client() as client:
            assert client.get("/v2/health/live").status_code == 200
            assert client.get("/v2/health/ready").status_code == 503
            refusal(client.post("/v1/models/late:predict", json=ROW), 503, "is not ready yet")
            body = {"instances": rows[:1].tolist()}
            wait_until(
                lambda: client.post("/v1/models/mnist:predict", json=body).status_code == 200,
                "the model that needs no upstream",
            )
            assert client.get("/v2/health/ready").status_code == 503

            with HostileServer(port=port):
                running.wait_for("ready")

                assert client.get("/v2/health/ready").status_code == 200
                answered = client.post("/v1/models/late:predict", json=ROW).json()
                np.testing.assert_allclose(answered["predictions"], [SCORES], atol=1e-6)

            refusal(client.post("/v1/models/late:predict", json=ROW), 503, "no answer can be given")
        assert running.stop() == 0
    assert "cannot be reached" in running.events("victim_not_ready")[0]["error"]
    assert not [line for line in running.log_lines() if "Traceback" in line or "Unclosed" in line]


def test_gateway_that_waits_for_its_upstream_ends_at_once(tmp_path: Path) -> None:
    victim = {"type": "upstream", "url": f"http://127.0.0.1:{free_port()}", "model": "m"}
    config = OPEN | {"models": {"late": {"victim": victim}}}
    with gateway(tmp_path, config, until="victim_not_ready") as running:
        assert running.stop() == 0
    assert [entry["event"] for entry in running.events("stopped")] == ["stopped"]
    assert not [line for line in running.log_lines() if "Traceback" in line or "Unclosed" in line]


def test_request_under_way_is_answered_although_the_gateway_ends(
    server: HostileServer, tmp_path: Path
) -> None:
    """The upstream answers only after the gateway was told to end."""
    ended = threading.Event()

    async def late(asked: servers.Asked, writer: Any) -> None:
        await asyncio.to_thread(ended.wait)
        await servers.honest(asked, writer)

    victim = {"type": "upstream", "url": server.url, "model": "m"}
    server.answer = late
    with (
        gateway(tmp_path, OPEN | {"models": {"m": {"victim": victim}}}) as running,
        running.client() as client,
    ):
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(client.post("/v1/models/m:predict", json=ROW))
        )
        asking.start()
        wait_until(lambda: server.posts, "the request to arrive")
        running.process.terminate()
        running.wait_for("draining")
        ended.set()
        asking.join(60)

        assert [answer.status_code for answer in answers] == [200]
        assert running.stop() == 0
