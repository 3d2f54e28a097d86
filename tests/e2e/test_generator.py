"""The generator that ships, served as its config says: honest clients are given pictures, a thief is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.e2e.harness import ROOT, gateway


def shipped() -> dict[str, Any]:
    """configs/gateway/gan.yaml with absolute paths, and a budget that a test does not exhaust."""
    folder = ROOT / "configs/gateway"
    raw: dict[str, Any] = yaml.safe_load((folder / "gan.yaml").read_text())
    model = raw["models"]["digits"]
    model["victim"]["weights"] = str(folder / model["victim"]["weights"])
    model["calibration"] = str(folder / model["calibration"])
    raw["tiers"]["default"] = {}
    return raw


def test_digits_are_drawn_for_who_samples_and_refused_to_who_walks(tmp_path: Path) -> None:
    walk = np.cumsum(np.random.default_rng(0).standard_normal((40, 64)), axis=0)
    walk *= 8 / np.linalg.norm(walk, axis=1, keepdims=True)
    verb = "/v1/models/digits:generate"
    with gateway(tmp_path, shipped()) as running, running.client() as client:
        honest = [client.post(verb, json={"n": 50, "seed": seed}) for seed in (0, 1, 2, 3, 4, 0)]
        thief = [client.post(verb, json={"latents": [row]}) for row in walk.tolist()]
    drawn = np.array([answer.json()["predictions"] for answer in honest])
    statuses = [answer.status_code for answer in thief]

    assert drawn.shape == (6, 50, 1, 28, 28)
    assert np.array_equal(drawn[0], drawn[5])
    assert drawn[0].std(axis=0).mean() > 0.1
    assert statuses[0] == 200
    assert statuses[-1] == 403
    assert statuses.index(403) <= 20
    assert sorted(statuses) == statuses
