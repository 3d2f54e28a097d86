"""Other people's plug-ins that break their promises: 503, and nothing is released."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from mantlet.registry import type_name
from tests.e2e import gremlins
from tests.e2e.harness import PLAIN, ROOT, Running, gateway, npy, refusal

SPECIAL = (gremlins.Gate, gremlins.Quits)
BAD_DEFENSES = [type_name(p) for p in gremlins.DEFENSES if p not in SPECIAL]
BAD_DETECTORS = [type_name(p) for p in gremlins.DETECTORS]
NPY = {"Content-Type": "application/x-npy"}


@pytest.fixture(scope="module")
def infested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with one model for every gremlin, and one without."""
    folder = tmp_path_factory.mktemp("infested")
    models = {"plain": PLAIN}
    models |= {name: PLAIN | {"defenses": [{"type": name}]} for name in BAD_DEFENSES}
    models |= {"quits": PLAIN | {"defenses": [{"type": "quits"}]}}
    models |= {name: PLAIN | {"detectors": [{"type": name}]} for name in BAD_DETECTORS}
    config = {"tiers": {"default": {"rows": "6/day"}}, "models": models}
    env = gremlins.install(folder / "site")
    with gateway(folder, config, clients=40, env=env) as started:
        yield started


@pytest.mark.parametrize("plugin", [*BAD_DEFENSES, *BAD_DETECTORS])
def test_a_broken_promise_releases_nothing(
    infested: Running, rows: np.ndarray, plugin: str
) -> None:
    with infested.client(infested.new_key()) as client:
        v1 = client.post(f"/v1/models/{plugin}:predict", content=npy(rows[:2]), headers=NPY)
        body = {
            "inputs": [
                {
                    "name": "input",
                    "datatype": "FP32",
                    "shape": [2, 1, 28, 28],
                    "data": rows[:2].ravel().tolist(),
                }
            ]
        }
        v2 = client.post(f"/v2/models/{plugin}/infer", json=body)

    refusal(v1, 503, "no answer can be given now; try again later")
    refusal(v2, 503, "no answer can be given now; try again later")
    assert plugin not in v1.json()["error"]


@pytest.mark.parametrize("plugin", [*BAD_DEFENSES, *BAD_DETECTORS])
def test_the_log_names_the_plugin_that_broke(
    infested: Running, rows: np.ndarray, plugin: str
) -> None:
    with infested.client(infested.new_key()) as client:
        client.post(f"/v1/models/{plugin}:predict", content=npy(rows[:2]), headers=NPY)
    errors = [e["error"] for e in infested.events("failed_closed") if e["model"] == plugin]

    assert f"'{plugin}'" in errors[0]


def test_a_plugin_that_quits_ends_nothing(infested: Running, rows: np.ndarray) -> None:
    with infested.client(infested.new_key()) as client:
        for _ in range(3):
            response = client.post("/v1/models/quits:predict", content=npy(rows[:6]), headers=NPY)
            refusal(response, 503, "no answer can be given now; try again later")
        other = client.post("/v1/models/plain:predict", content=npy(rows[:6]), headers=NPY)

    assert other.status_code == 200
    assert infested.events("unexpected_error")[0]["kind"] == "RuntimeError"


def test_rows_without_an_answer_are_not_charged(infested: Running, rows: np.ndarray) -> None:
    with infested.client(infested.new_key()) as client:
        for _ in range(5):
            client.post("/v1/models/raises:predict", content=npy(rows[:5]), headers=NPY)
        rest = client.post("/v1/models/plain:predict", content=npy(rows[:6]), headers=NPY)

    assert rest.status_code == 200


def test_what_a_plugin_says_reaches_no_log(infested: Running, rows: np.ndarray) -> None:
    with infested.client(infested.new_key()) as client:
        client.post("/v1/models/raises:predict", content=npy(rows[:1]), headers=NPY)
    log = infested.log_path.read_text()

    assert "failed_closed" in log
    assert gremlins.SECRET not in log
    assert "tensor" not in log


def test_installed_plugins_are_listed(infested: Running) -> None:
    command = [sys.executable, "-m", "serving.cli", "plugins", "--json"]
    env = {**os.environ, "PYTHONPATH": str(infested.folder / "site")}
    listed = json.loads(subprocess.run(command, cwd=ROOT, env=env, stdout=-1, check=True).stdout)
    found = {entry["type"] for entry in listed if entry["module"] == "gremlins"}

    assert found == {*BAD_DEFENSES, *BAD_DETECTORS, "gate", "quits"}
