"""The oracle over HTTP, against a real gateway and against a server that misbehaves."""

import asyncio
import json
import signal

import numpy as np
import pytest
import torch

from mantlet.data import Images
from mantlet.errors import ConfigError, TargetError
from redteam.client import over_http
from redteam.client.oracle import Cut, Refused, Withheld
from redteam.client.over_http import RETRIES, OverHttp
from serving.explaining import Explain
from serving.victims.torch import TorchVictim
from tests.e2e import upstream_servers
from tests.e2e.harness import Running
from tests.e2e.upstream_servers import (
    SCORES,
    Answer,
    HostileServer,
    free_port,
    honest,
    saying,
)

PROTOCOLS = ("v2", "v2-json", "v1")


@pytest.fixture(scope="module")
def pictures(digits: Images) -> torch.Tensor:
    """(100, 1, 28, 28)"""
    return torch.from_numpy(digits.x[:100])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_answers_are_the_victims_in_every_protocol_whatever_the_batches(
    running: Running,
    shipped_victim: TorchVictim,
    pictures: torch.Tensor,
    protocol: str,
    concurrency: int,
) -> None:
    wanted = shipped_victim.predict(pictures).values
    with OverHttp(
        running.url,
        "mnist",
        key=running.new_key(),
        protocol=protocol,  # type: ignore[arg-type]  # one of PROTOCOLS
        batch=7,
        concurrency=concurrency,
    ) as oracle:
        answers = oracle.query(pictures)

        assert torch.allclose(answers, wanted, atol=1e-5)
        assert (oracle.rows, oracle.floats) == (100, 1000)


def test_an_explanation_comes_with_the_prediction_and_is_counted_as_a_row_of_many_numbers(
    running: Running, shipped_victim: TorchVictim, pictures: torch.Tensor
) -> None:
    with OverHttp(running.url, "explained", key=running.new_key(), batch=7) as oracle:
        told = oracle.explain(pictures[:10])
        counts = (oracle.rows, oracle.floats)

    wanted = shipped_victim.predict(pictures[:10]).values
    explainer = shipped_victim.explainer(Explain(), b"any")
    maps = explainer.explain(pictures[:10], wanted.argmax(dim=1), "gradient").values
    assert torch.allclose(told.answers, wanted, atol=1e-5)
    torch.testing.assert_close(told.maps, maps)
    assert counts == (10, 10 * (10 + 784))


@pytest.mark.parametrize("model", ["mnist", "explained"])
def test_a_refused_explanation_refuses_no_prediction(
    running: Running, pictures: torch.Tensor, model: str
) -> None:
    """Of a model that explains nothing, and of a class that is not the top one."""
    with OverHttp(running.url, model, key=running.new_key()) as oracle:
        with pytest.raises(Withheld, match=r"400|denies"):
            oracle.explain(pictures[:4], torch.zeros(4, dtype=torch.int64))

        assert oracle.query(pictures[:4]).shape == (4, 10)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_labels_are_one_number_a_row(
    running: Running, shipped_victim: TorchVictim, pictures: torch.Tensor, protocol: str
) -> None:
    with OverHttp(running.url, "labels", key=running.new_key(), protocol=protocol) as oracle:  # type: ignore[arg-type]
        answers = oracle.query(pictures)

    assert torch.equal(answers, shipped_victim.predict(pictures).values.argmax(dim=1))
    assert oracle.floats == 100


@pytest.mark.parametrize("protocol", PROTOCOLS[:2])
def test_a_generator_answers_latents_with_pictures(running: Running, protocol: str) -> None:
    latents = torch.randn(9, 64, generator=torch.Generator().manual_seed(0))
    with OverHttp(
        running.url, "digits", key=running.new_key(), protocol=protocol, batch=4
    ) as oracle:  # type: ignore[arg-type]
        pictures = oracle.query(latents)

        assert pictures.shape == (9, 1, 28, 28)
        assert oracle.describe().shape == (64,)
        assert (oracle.rows, oracle.floats) == (9, 9 * 784)


def test_a_generator_draws_for_seeds_and_the_same_for_the_same(running: Running) -> None:
    with OverHttp(running.url, "digits", key=running.new_key()) as oracle:
        first, again, other = (oracle.generate(seed, 5) for seed in (1, 1, 2))

        assert first.shape == (5, 1, 28, 28)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert oracle.rows == 15


def test_a_ban_midway_refuses_and_what_was_sent_is_counted(
    running: Running, pictures: torch.Tensor
) -> None:
    with OverHttp(running.url, "denying", key=running.new_key(), batch=20) as oracle:
        with pytest.raises(Refused, match="denies this account"):
            oracle.query(pictures.repeat(2, 1, 1, 1))
        rows = oracle.rows
        with pytest.raises(Refused):
            oracle.query(pictures[:1])

        assert 100 <= rows <= 130
        assert oracle.rows == rows + 1


def test_a_rate_is_waited_out_and_a_row_budget_is_not(
    running: Running, pictures: torch.Tensor
) -> None:
    hasty, frugal = (running.named[name] for name in ("hasty", "frugal"))
    with OverHttp(running.url, "mnist", key=hasty, batch=20) as oracle:
        answers = oracle.query(pictures)
    with (
        OverHttp(running.url, "mnist", key=frugal, batch=20) as poor,
        pytest.raises(Refused, match="puts this account off beyond the patience: 429"),
    ):
        poor.query(pictures)

    assert len(answers) == 100
    assert oracle.rows > 100, "rows that were put off were sent twice"
    assert (poor.rows, poor.floats) == (60, 400)


def test_mistakes_about_the_target_are_named(running: Running, pictures: torch.Tensor) -> None:
    with (
        OverHttp(running.url, "mnist", key="mk_none") as wrong,
        pytest.raises(ConfigError, match="refuses the key"),
    ):
        wrong.query(pictures[:1])
    with (
        OverHttp(running.url, "mnits", key=running.new_key()) as unknown,
        pytest.raises(ConfigError, match="no model 'mnits'; did you mean 'mnist'"),
    ):
        unknown.query(pictures[:1])
    with (
        OverHttp(running.url, "mnist", key=running.new_key()) as misshapen,
        pytest.raises(TargetError, match="refuses what is sent: 400, the input has shape"),
    ):
        misshapen.query(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ConfigError, match="'localhost' is no address"):
        OverHttp("localhost", "mnist")


def test_a_target_that_is_down_is_told_and_no_row_is_counted() -> None:
    port = free_port()
    with (
        OverHttp(f"http://127.0.0.1:{port}", "m", protocol="v1") as oracle,
        pytest.raises(TargetError, match=r"cannot be reached .*is it running\?, 4 tries"),
    ):
        oracle.query(torch.zeros(5, 4))

    assert oracle.rows == 0


@pytest.mark.parametrize(
    ("answer", "telling"),
    [
        (upstream_servers.hanging_up, "closes the connection"),
        (upstream_servers.breaking_off, "closes the connection"),
        (upstream_servers.silent, "takes over 0.2 s to answer"),
    ],
)
def test_a_connection_that_fails_is_tried_again_and_each_try_is_counted(
    answer: upstream_servers.Answer, telling: str
) -> None:
    with HostileServer(answer=answer) as server:
        with (
            OverHttp(server.url, "m", timeout_s=0.2) as oracle,
            pytest.raises(TargetError, match=telling),
        ):
            oracle.query(torch.zeros(5, 4))

        assert oracle.rows == 5 * (1 + RETRIES)
        assert oracle.floats == 0


def test_a_server_that_closes_after_each_answer_loses_nothing() -> None:
    with HostileServer(answer=upstream_servers.closing_afterwards) as server:
        with OverHttp(server.url, "m", batch=2) as oracle:
            answers = oracle.query(torch.zeros(9, 4))

        np.testing.assert_allclose(answers, [SCORES] * 9)


def test_an_overloaded_target_is_waited_for_within_the_patience() -> None:
    busy = saying({"error": "busy"}, status=503, Retry_After="1")
    with HostileServer(answer=busy) as server:
        with (
            OverHttp(server.url, "m", patience_s=1.5) as oracle,
            pytest.raises(TargetError, match=r"does not answer within 1.5 s: 503, busy"),
        ):
            oracle.query(torch.zeros(3, 4))

        assert len(server.posts) == 2
        assert oracle.rows == 6


@pytest.mark.parametrize(
    ("answer", "telling"),
    [
        (
            saying(b"\x89PNG", Content_Type="image/png"),
            "answers a file of image/png; wanted numbers",
        ),
        (saying({"predictions": [[[0.0] * 8] * 8] * 2}), "wanted .* or pictures"),
        (saying({"predictions": [[0.5, 0.5]]}), r"answers shape \(1, 2\) to 2 rows"),
        (saying(b"hello"), "answers no JSON"),
        (saying({}, status=302, Location="http://else"), "refuses what is sent: 302"),
    ],
)
def test_what_is_no_answer_to_learn_from_is_named(
    answer: upstream_servers.Answer, telling: str
) -> None:
    with (
        HostileServer(answer=answer) as server,
        OverHttp(server.url, "m", protocol="v1") as oracle,
        pytest.raises(TargetError, match=telling),
    ):
        oracle.query(torch.zeros(2, 4))


def test_a_target_that_puts_off_by_no_time_is_not_asked_for_ever() -> None:
    with HostileServer(answer=saying({"error": "now"}, status=503, Retry_After="0")) as server:
        with (
            OverHttp(server.url, "m", patience_s=0.5) as oracle,
            pytest.raises(TargetError, match=r"does not answer within 0.5 s: 503, now"),
        ):
            oracle.query(torch.zeros(3, 4))

        assert 2 <= len(server.posts) <= 6


def test_an_answer_without_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_http, "LARGEST", 1 << 16)
    with (
        HostileServer(answer=saying(bytes(1 << 17))) as server,
        OverHttp(server.url, "m", protocol="v1") as oracle,
        pytest.raises(TargetError, match="answers over 65536 bytes to one request"),
    ):
        oracle.query(torch.zeros(2, 4))


def test_nothing_more_is_sent_after_a_refusal() -> None:
    no = saying(json.dumps({"error": "no"}).encode(), status=403)
    with HostileServer(answer=no) as server:
        with OverHttp(server.url, "m", batch=1) as oracle, pytest.raises(Refused, match="no"):
            oracle.query(torch.zeros(50, 4))

        assert len(server.posts) == oracle.rows == 1


NO = saying({"error": "no"}, status=403)
LATER = saying({"error": "later"}, status=503, Retry_After="30")


def _in_a_bad_order(then: Answer, held: int) -> Answer:
    """Rows that begin with 2 are answered as told once ``held`` other requests are there, and these after that."""
    failed, under_way, waiting = asyncio.Event(), asyncio.Event(), []

    async def answer(asked: upstream_servers.Asked, writer: asyncio.StreamWriter) -> None:
        if asked.rows[0, 0] == 2:
            await under_way.wait()
            await then(asked, writer)
            failed.set()
            return
        waiting.append(asked)
        if len(waiting) == held:
            under_way.set()
        await failed.wait()
        await honest(asked, writer)

    return answer


@pytest.mark.parametrize(("then", "kind"), [(NO, Refused), (saying(b"no"), Cut)])
def test_requests_under_way_at_a_failure_are_read_to_their_end(
    then: Answer, kind: type[Refused | Cut]
) -> None:
    inputs = torch.arange(8.0).repeat_interleave(2)[:, None].repeat(1, 4)  # two rows a request
    with HostileServer() as server:
        server.answer = _in_a_bad_order(then, held=3)
        with OverHttp(server.url, "m", batch=2, concurrency=4) as oracle:
            with pytest.raises(kind) as end:
                oracle.query(inputs)
            server.answer = honest

            assert oracle.query(inputs[:2]).shape == (2, 3), "one query that failed stops no other"

    came = end.value.came
    assert came is not None
    assert {0, 1, 2, 3, 6, 7} <= set(came.places.tolist()) <= set(range(16)) - {4, 5}
    assert torch.allclose(came.answers, torch.tensor(SCORES).expand(len(came.places), 3))


def test_a_request_that_is_put_off_is_not_waited_for_once_another_is_refused() -> None:
    inputs = torch.arange(3.0)[:, None].repeat(1, 4)
    put_off = asyncio.Event()

    async def answer(asked: upstream_servers.Asked, writer: asyncio.StreamWriter) -> None:
        if asked.rows[0, 0] == 1:
            await LATER(asked, writer)
            put_off.set()
            return
        await put_off.wait()
        await (NO if asked.rows[0, 0] == 2 else honest)(asked, writer)

    with HostileServer(answer=answer) as server:
        with (
            OverHttp(server.url, "m", batch=1, concurrency=3, patience_s=3600) as oracle,
            pytest.raises(Refused, match="no") as refusal,
        ):
            oracle.query(inputs)

        assert len(server.posts) == oracle.rows == 3
    assert refusal.value.came is not None
    assert refusal.value.came.places.tolist() == [0]


def test_an_interrupt_brings_what_came() -> None:
    async def answer(asked: upstream_servers.Asked, writer: asyncio.StreamWriter) -> None:
        if asked.rows[0, 0] == 1:
            signal.raise_signal(signal.SIGINT)
            return
        await honest(asked, writer)

    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with (
            HostileServer(answer=answer) as server,
            OverHttp(server.url, "m", batch=1, concurrency=1) as oracle,
            pytest.raises(Cut, match="interrupted") as cut,
        ):
            oracle.query(torch.arange(3.0)[:, None].repeat(1, 4))
    finally:
        signal.signal(signal.SIGINT, ours)

    assert isinstance(cut.value.why, KeyboardInterrupt)
    assert cut.value.came.places.tolist() == [0]
    assert oracle.rows == 2
