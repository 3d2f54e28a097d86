"""KServe's REST client, unchanged, from PyPI and in an environment of its own."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.harness import Running
from tests.environments import environment

pytestmark = pytest.mark.external


@pytest.fixture(scope="session")
def kserve_python() -> Path:
    """The Python of an environment with KServe."""
    return environment("kserve", "kserve==0.21.0") / "python"


def test_kserves_client_finds_it_ready_and_infers(
    kserve_python: Path, running: Running, rows: np.ndarray, labels: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "rows.npy"
    np.save(file, rows[:30, None])
    script = Path(__file__).with_name("kserve_asks.py")

    done = subprocess.run(
        [kserve_python, script, running.url, running.new_key(), file],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )
    said = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr

    assert said == {
        "live": True,
        "ready": True,
        "model_ready": True,
        "stranger_ready": False,
        "json": labels[:30].tolist(),
        "json_id": "json",
        "binary": labels[:30].tolist(),
        "binary_id": "binary",
        "v1_live": True,
        "v1_model_ready": True,
        "v1": labels[:30].tolist(),
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 28, 28]}],
    }
