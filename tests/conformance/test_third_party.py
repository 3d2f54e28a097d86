"""Somebody else's package, installed beside Mantlet, is used in a config like a built-in plug-in."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

SERVE = """
import json, sys
from pathlib import Path
import torch
import defenses, detectors
from mantlet import Query, architectures
from serving import build, settings

loaded = settings.load(Path(sys.argv[1]))
pipeline = build.load_pipeline("own", loaded.models["own"], loaded)
inputs = torch.zeros(6, 1, 5, 5)
inputs[3:] = 1.0
outcome = pipeline.run(Query(["ann"] * 6, inputs, 0.0), {})
print(json.dumps({
    "known": [sorted(defenses.known()), sorted(detectors.known()), sorted(architectures.known())],
    "levels": outcome.decision.levels.tolist(),
    "values": outcome.released.values.tolist(),
    "suspicion": outcome.signals["confident"].suspicion.tolist(),
}))
"""


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package of tests/data/third_party is installed in."""
    target = tmp_path_factory.mktemp("site")
    quiet = ["-q", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    package = root / "tests/data/third_party"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *quiet, "--target", str(target), str(package)],
        check=True,
    )
    return target


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config that uses all three plug-ins of the package."""
    folder = tmp_path_factory.mktemp("gateway")
    weight = torch.zeros(3, 25)
    weight[0], weight[1] = -1.0, 1.0
    state = {"output.weight": weight, "output.bias": torch.tensor([5.0, 0.0, 0.0])}
    save_file(state, folder / "own.safetensors")
    raw: dict[str, Any] = {
        "identity": {"open": True},
        "data_dir": str(folder / "data"),
        "listen": {"port": 0},
        "admin": {"port": 0},
        "models": {
            "own": {
                "victim": {
                    "type": "torch",
                    "weights": "own.safetensors",
                    "architecture": "acme_linear",
                    "settings": {"side": 5},
                },
                "detectors": [{"type": "repeats", "name": "confident", "patience": 4}],
                "defenses": [{"type": "uniform_mix", "share": 0.6}],
                "policy": [
                    {"name": "normal"},
                    {"name": "alarmed", "alarm": True, "defenses": ["uniform_mix"]},
                ],
            }
        },
    }
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def run(*command: str, path: Path | None) -> subprocess.CompletedProcess[str]:
    """A Python of its own, which sees the folder of the package or does not."""
    environment = os.environ | {"PYTHONPATH": str(path) if path else ""}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, check=False
    )


def test_its_plugins_are_found_configured_and_run(installed: Path, gateway: Path) -> None:
    """Six rows, all of them answered with confidence: the fourth raises the alarm of the detector."""
    program = run("-c", SERVE, str(gateway), path=installed)
    assert program.returncode == 0, program.stderr
    told = json.loads(program.stdout.splitlines()[-1])
    known_defenses, known_detectors, known_architectures = told["known"]
    mixed = [0.4 * p + 0.2 for p in torch.softmax(torch.tensor([-20.0, 25.0, 0.0]), 0).tolist()]

    assert "uniform_mix" in known_defenses
    assert "repeats" in known_detectors
    assert "acme_linear" in known_architectures
    assert told["suspicion"] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert told["levels"] == [0, 0, 0, 1, 1, 1]
    assert told["values"][0] == pytest.approx([0.98670, 0.00665, 0.00665], abs=1e-4)
    assert told["values"][3] == pytest.approx(mixed, abs=1e-4)


def test_the_command_line_lists_and_checks_them(installed: Path, gateway: Path) -> None:
    listed = run("-m", "serving.cli", "plugins", "--json", path=installed)
    checked = run("-m", "serving.cli", "check", str(gateway), path=installed)
    found = {entry["type"]: entry["module"] for entry in json.loads(listed.stdout)}

    assert found["uniform_mix"] == "acme_mantlet.uniform_mix"
    assert found["repeats"] == "acme_mantlet.repeats"
    assert found["acme_linear"] == "acme_mantlet.linear"
    assert (checked.returncode, checked.stdout) == (
        0,
        f"{gateway}: good, apart from the warnings: 1\n",
    )


def test_without_the_package_its_names_are_mistakes(gateway: Path) -> None:
    checked = run("-m", "serving.cli", "check", str(gateway), path=None)

    assert checked.returncode == 2
    assert "no defense of type 'uniform_mix' is installed" in checked.stderr
    assert "no detector of type 'repeats' is installed" in checked.stderr


def test_the_conformance_suite_holds_its_plugins_to_the_same_promises(
    installed: Path, root: Path
) -> None:
    """Whoever writes a plug-in runs this suite on it, as it is, with their package installed."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    suite = [f"tests/conformance/test_{kind}.py" for kind in ("defenses", "detectors")]
    program = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "uniform_mix or repeats", *suite],
        capture_output=True,
        text=True,
        cwd=root,
        env=environment,
        check=False,
    )

    assert program.returncode == 0, program.stdout
    assert " passed" in program.stdout
