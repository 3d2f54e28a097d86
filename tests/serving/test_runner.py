"""How the gateway is run; its life and end over real HTTP are in tests/e2e."""

import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from mantlet import __version__
from mantlet.errors import ConfigError
from serving import runner
from serving.events.kinds import EventKind
from serving.events.log import EventLog
from serving.protocol import BoundedProtocol
from tests.e2e.harness import ROOT
from tests.serving.inprocess import load, service


def test_the_line_that_serve_prints_posts_a_picture_and_gets_its_digit(tmp_path: Path) -> None:
    """The embedded default, as a new user starts it."""
    command = [sys.executable, "-m", "serving.cli", "serve", "configs/gateway/default.yaml"]
    sets = ["listen.port=0", "admin.port=0", f"data_dir={tmp_path / 'state'}"]
    with subprocess.Popen(
        [*command, *(part for text in sets for part in ("--set", text))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        guard = threading.Timer(90, process.kill)
        guard.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        curl, _, header, _, body, url = shlex.split(line.removeprefix("Try it: "))
        name, value = header.split(": ")
        content = (ROOT / body.removeprefix("@")).read_bytes()
        answer = httpx.post(url, content=content, headers={name: value}, verify=False)
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        guard.cancel()
    (row,) = answer.json()["predictions"]

    log = EventLog.open(
        "jsonl:///events.jsonl",
        folder=tmp_path / "state",
        secret=(tmp_path / "state/secret").read_bytes(),
        clock=lambda: 0.0,
    )

    assert curl == "curl"
    assert row.index(max(row)) == 7
    assert code == 0
    assert next(log.read()).event.kind == EventKind.CONFIG_LOADED
    assert log.verify().problems == ()


def test_with_keys_on_the_line_asks_for_one(tmp_path: Path) -> None:
    keyed = service(tmp_path, identity={"open": False})
    load(keyed)
    line = runner._try_it(keyed, "0.0.0.0", 8080)

    assert "-H 'Authorization: Bearer YOUR_KEY'" in line
    assert line.endswith(" http://127.0.0.1:8080/v1/models/mnist:predict")


def test_a_start_is_told_by_a_digest_of_the_settings_without_their_secrets(tmp_path: Path) -> None:
    told = {
        runner._config_loaded(service(tmp_path, **changes).settings, 0).digest
        for changes in (
            {},
            {"secret": "a" * 16},
            {"secret": "b" * 16},
            {"threads": 2},
            {"store": "redis://:one@localhost/0"},
            {"store": "redis://:two@localhost/0"},
        )
    }
    event = runner._config_loaded(service(tmp_path).settings, 3)

    assert len(told) == 4
    assert (event.models, event.worker, event.version) == (("mnist",), 3, __version__)


def test_a_port_that_is_taken_is_named_with_a_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(ConfigError, match=rf"admin\.port = {port} on 127.*take another"):
            runner._bind("admin", "127.0.0.1", port, shared=False)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"listen\.port = 0 on 192\.0\.2\.1: cannot listen there"):
        runner._bind("listen", "192.0.2.1", 0, shared=False)


def test_workers_share_a_port() -> None:
    with runner._bind("listen", "127.0.0.1", 0, shared=True) as one:
        port = one.getsockname()[1]
        with runner._bind("listen", "127.0.0.1", port, shared=True) as other:
            assert other.getsockname() == one.getsockname()


def test_both_servers_leave_the_signals_to_us(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    config = runner._data_config(service(tmp_path))
    with runner._Server(config).capture_signals():
        assert signal.getsignal(signal.SIGTERM) is before


def test_the_data_plane_trusts_no_forwarded_address_unless_told(tmp_path: Path) -> None:
    trusted = {"listen": {"port": 0, "trusted_proxies": ["10.0.0.9"]}}

    assert not runner._data_config(service(tmp_path)).proxy_headers
    assert runner._data_config(service(tmp_path, **trusted)).forwarded_allow_ips == ["10.0.0.9"]


def test_the_operators_port_has_the_bounds_of_the_clients(tmp_path: Path) -> None:
    config = runner._admin_config(service(tmp_path))
    config.load()

    assert issubclass(config.http_protocol_class, BoundedProtocol)
