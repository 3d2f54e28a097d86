"""``check`` finds what ``serve`` would stumble over."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mantlet import architectures
from serving import calibration, checks, settings
from serving.checks import Report
from serving.keys import KeyFile
from serving.stores.sqlite import SqliteStore
from tests.helpers import config, write_config
from tests.redis_server import free_port, redis_server

Raw = dict[str, Any]


def checked(tmp_path: Path, raw: Raw) -> Report:
    return checks.check(settings.load(write_config(tmp_path / "gateway.yaml", raw)))


def victim(raw: Raw) -> Raw:
    found: Raw = raw["models"]["mnist"]["victim"]
    return found


def test_the_embedded_default_is_good(root: Path, tmp_path: Path) -> None:
    report = checked(tmp_path, config(root, tmp_path))

    assert report.mistakes == []
    assert report.warnings == ["identity.open: everybody may ask, told apart by address only"]


def test_explanations_without_a_defense_are_warned_of(root: Path, tmp_path: Path) -> None:
    raw = config(root, tmp_path)
    raw["models"]["mnist"]["explain"] = {}
    report = checked(tmp_path, raw)

    assert report.mistakes == []
    assert any("explanations_undefended: level normal" in warned for warned in report.warnings)


def pickle_weights(raw: Raw, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(architectures.build("lenet", {}).state_dict(), path)
    victim(raw)["weights"] = str(path)


def damaged_weights(raw: Raw, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"hello")
    victim(raw)["weights"] = str(tmp_path / "w.safetensors")


def damaged_calibration(raw: Raw, tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(b"hello")
    raw["models"]["mnist"]["calibration"] = str(tmp_path / "c.safetensors")


def damaged_store(raw: Raw, tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"hello" * 1000)
    raw["store"] = "sqlite:///state.db"


def damaged_keys(raw: Raw, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("[]")


MISTAKES: dict[str, tuple[Callable[[Raw, Path], object], str]] = {
    "missing weights": (
        lambda raw, _: victim(raw).update(weights="/none/model.safetensors"),
        "models.mnist: weights '/none/model.safetensors': no such file",
    ),
    "pickle weights": (pickle_weights, "convert it once with: mantlet convert"),
    "damaged weights": (damaged_weights, "not a safetensors file"),
    "unknown architecture": (
        lambda raw, _: victim(raw).update(architecture="lenett"),
        "architecture 'lenett' is unknown; did you mean 'lenet'?",
    ),
    "wrong architecture": (
        lambda raw, _: victim(raw).update(architecture="resnet"),
        "do not fit architecture 'resnet': missing ",
    ),
    "wrong settings of the architecture": (
        lambda raw, _: victim(raw).update(settings={"classes": 7}),
        "output.bias is (10,), wanted (7,)",
    ),
    "a defense of pictures": (
        lambda raw, _: raw["models"]["mnist"].update(defenses=[{"type": "blur"}], policy=[]),
        "models.mnist: defense 'blur' is for images, and the victim answers probabilities",
    ),
    "missing calibration": (
        lambda raw, _: raw["models"]["mnist"].update(calibration="none.safetensors"),
        "no such file; run: mantlet calibrate CONFIG --benign FILE",
    ),
    "damaged calibration": (damaged_calibration, "is damaged"),
    "unknown store": (lambda raw, _: raw.update(store="etcd://x"), "store 'etcd://x' is of no"),
    "damaged store": (damaged_store, "state.db' cannot be opened"),
    "damaged keys": (damaged_keys, "keys.json' cannot be read"),
    "short secret": (lambda raw, _: raw.update(secret="short"), "secret: has under 16"),
    "unknown device": (lambda raw, _: raw.update(device="abacus"), "device 'abacus' cannot"),
    "unknown host": (
        lambda raw, _: raw["listen"].update(host="no.such.host.invalid"),
        "listen.port = 0 on no.such.host.invalid: cannot listen there",
    ),
    "no host name": (
        lambda raw, _: raw["listen"].update(host="a..b"),
        "listen.port = 0 on a..b: cannot listen there",
    ),
    "another machine's address": (
        lambda raw, _: raw["admin"].update(host="192.0.2.1", token="a token"),
        "admin.port = 0 on 192.0.2.1: cannot listen there",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_and_named(name: str, root: Path, tmp_path: Path) -> None:
    change, words = MISTAKES[name]
    raw = config(root, tmp_path)
    change(raw, tmp_path)
    report = checked(tmp_path, raw)

    assert any(words in mistake for mistake in report.mistakes), report.mistakes
    assert not any("models.mnist: models.mnist" in mistake for mistake in report.mistakes)


@pytest.mark.parametrize("section", ["listen", "admin"])
def test_a_port_in_use_is_found(section: str, root: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        report = checked(tmp_path, config(root, tmp_path, **{section: {"port": port}}))

    assert report.mistakes == [
        f"{section}.port = {port} on 127.0.0.1: cannot listen there (Address already in use);"
        " take another"
    ]


def test_a_redis_that_is_not_there_is_a_mistake_and_its_password_is_not_shown(
    root: Path, tmp_path: Path
) -> None:
    url = f"redis://:sesame@127.0.0.1:{free_port()}/0"
    report = checked(tmp_path, config(root, tmp_path, store=url))
    (mistake,) = report.mistakes

    assert mistake.startswith("store 'redis://:***@127.0.0.1:")
    assert mistake.endswith("does Redis run there?")


@pytest.mark.redis
def test_a_redis_that_would_lose_alarms_is_a_warning(root: Path, tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", "--maxmemory-policy", "allkeys-lru") as server:
        report = checked(tmp_path, config(root, tmp_path, store=server.url))
    _, evicts, forgets = sorted(report.warnings)

    assert report.mistakes == []
    assert evicts.startswith("store: redis_evicts: maxmemory_policy allkeys-lru, ")
    assert evicts.endswith("remedy set maxmemory-policy noeviction")
    assert forgets.startswith("store: redis_forgets: meaning nothing is kept on disk")


def test_all_mistakes_are_found_at_once(root: Path, tmp_path: Path) -> None:
    raw = config(root, tmp_path, secret="short", store="sqlite:///")
    victim(raw)["weights"] = "/none.safetensors"
    mistakes = checked(tmp_path, raw).mistakes

    assert sum("secret" in mistake for mistake in mistakes) >= 1
    assert any("names no file" in mistake for mistake in mistakes)


def test_a_calibration_of_other_weights_is_a_warning_with_a_remedy(
    root: Path, tmp_path: Path
) -> None:
    raw = config(root, tmp_path)
    learned, _ = calibration.read(root / "configs/models/mnist-ini.calibration.safetensors")
    calibration.write(tmp_path / "other.safetensors", learned, "0" * 64)
    raw["models"]["mnist"]["calibration"] = str(tmp_path / "other.safetensors")
    report = checked(tmp_path, raw)
    warnings = "\n".join(report.warnings)

    assert report.mistakes == []
    assert "models.mnist: calibration_of_other_weights: " in warnings
    assert "models.mnist: detector_observes_only: detector foreign" in warnings
    assert "remedy run: mantlet calibrate CONFIG --benign FILE" in warnings


@pytest.mark.parametrize(
    ("changed", "level", "dead"),
    [
        ({}, {"alarm": True, "campaign": True}, False),
        ({"calibration": None}, {"alarm": True}, True),
        ({"calibration": None}, {"campaign": True}, True),
        ({"calibration": None}, {"signals": {"similarity": 0.5}}, True),
        ({"calibration": None}, {"signals": {"coverage": 0.5}}, False),
        ({"calibration": None}, {"alarm": True, "rows": 9}, False),
        ({"campaigns": {"every_s": None}}, {"campaign": True}, True),
        ({"campaigns": {"every_s": None}}, {"campaign": True, "suspicion": 0.5}, False),
    ],
)
def test_a_level_to_which_nothing_can_speak_is_warned_of(
    root: Path, tmp_path: Path, changed: Raw, level: Raw, dead: bool
) -> None:
    raw = config(root, tmp_path)
    detectors = [d for d in raw["models"]["mnist"]["detectors"] if d["type"] != "rate"]
    policy = [{"name": "normal"}, {"name": "late", **level}]
    raw["models"]["mnist"] |= {"detectors": detectors, "policy": policy, **changed}
    report = checked(tmp_path, raw)

    assert report.mistakes == []
    assert any("'late' never holds" in warning for warning in report.warnings) is dead


def test_an_upstream_that_is_down_is_a_warning_for_serve_waits_for_it(
    root: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    raw = config(root, tmp_path)
    raw["models"]["mnist"] |= {
        "victim": {"type": "upstream", "url": f"http://127.0.0.1:{port}", "model": "mnist"},
        "calibration": None,
    }
    report = checked(tmp_path, raw)

    assert report.mistakes == []
    assert any("models.mnist.victim: " in w and "serve waits" in w for w in report.warnings)


def test_a_gateway_that_lets_nobody_in_is_a_warning(root: Path, tmp_path: Path) -> None:
    report = checked(tmp_path, config(root, tmp_path, identity={}))

    assert any("no key is in force" in warning for warning in report.warnings)


def test_a_key_of_a_tier_that_is_gone_is_a_warning(root: Path, tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    _, key = keys.create("acme", "gold", 0.0)
    _, gone = keys.create("acme", "silver", 0.0)
    keys.revoke(gone.id)
    report = checked(tmp_path, config(root, tmp_path, identity={}))

    assert report.warnings == [
        f"key {key.id} of 'acme': tier 'gold' is not in tiers; 'default' holds"
    ]


def test_checking_leaves_the_counts_of_a_running_gateway_alone(root: Path, tmp_path: Path) -> None:
    now = 1_000_000_000.0
    running = SqliteStore(tmp_path / "state.db", lambda: now, 3600.0)
    running.counters.incr("rows", 60, 5)
    running.swap_many({}, now)
    report = checked(tmp_path, config(root, tmp_path, store="sqlite:///state.db"))
    running.counters.incr("rows", 60, 1)
    running.swap_many({}, now)

    assert report.mistakes == []
    assert running.counters.get("rows") == 6
    running.close()
