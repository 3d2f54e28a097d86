"""Accounts that are each too quiet for an alarm are treated as the one thief they are, also after a restart."""

import time
from pathlib import Path

import numpy as np

from tests.e2e.harness import GUARDED, Running, gateway, npy

CONFIG = {
    "identity": {"open": False},
    "models": {
        "mnist": GUARDED
        | {
            "detectors": [{"type": "foreign"}],
            "defenses": [{"type": "label_only"}],
            "policy": [
                {"name": "normal"},
                {"name": "alarmed", "alarm": True, "defenses": ["label_only"]},
                {"name": "in a campaign", "campaign": True, "deny_s": 3600},
            ],
            "campaigns": {"every_s": 0.3},
        }
    },
}
THIEVES = 16


def status(running: Running, key: str, inputs: np.ndarray) -> int:
    with running.client(key) as client:
        headers = {"Content-Type": "application/x-npy"}
        answer = client.post("/v1/models/mnist:predict", content=npy(inputs), headers=headers)
        return answer.status_code


def test_sixteen_accounts_of_one_thief_are_refused_as_one(tmp_path: Path, rows: np.ndarray) -> None:
    noise = np.random.default_rng(0).random((THIEVES, 5, 28, 28)).astype(np.float32)
    with gateway(tmp_path, CONFIG, clients=THIEVES + 8) as running:
        thieves, honest = running.keys[:THIEVES], running.keys[THIEVES:]
        first = [status(running, key, rows[:20]) for key in honest]
        first += [status(running, key, noise[i]) for i, key in enumerate(thieves)]
        running.wait_for("campaign")
        for _ in range(300):  # a look in the midst of it finds some; the next one the others
            then = [status(running, key, rows[:1]) for key in thieves]
            if then.count(403) == THIEVES:
                break
            time.sleep(0.2)
        kept = [status(running, key, rows[20:22]) for key in honest]
        alarms = running.total("mantlet_alarms_total", detector="foreign")
        running.stop()
    with gateway(tmp_path, CONFIG) as again:
        after = [status(again, key, rows[:1]) for key in thieves]

    assert set(first) == set(kept) == {200}
    assert alarms == 0
    assert then.count(403) == after.count(403) == THIEVES
