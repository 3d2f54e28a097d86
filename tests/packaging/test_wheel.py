"""The wheel holds the five packages and nothing else, and serves where it is installed alone."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml

from mantlet import __version__
from tests.e2e.harness import GUARDED, MODELS, Running

PACKAGES = {"mantlet", "defenses", "detectors", "serving", "redteam"}


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the folder of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, root]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)

    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of an environment where the wheel is installed and the project is not.

    What it depends on comes from the environment of the tests: torch is large, and pinned there.
    """
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    ours, theirs = (sysconfig.get_path("purelib", vars=v) for v in ({"base": str(folder)}, {}))
    # a path file in here is read, those in the folder that it names are not: no editable install
    Path(ours, "dependencies.pth").write_text(f"{theirs}\n")
    return folder / "bin"


def run(program: Path, *arguments: str, cwd: Path) -> str:
    """What a program prints, run away from the project."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, cwd=cwd, env=environment
    )

    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_every_module_of_the_five_packages_and_nothing_else(
    wheel: Path, root: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(root)) for name in PACKAGES for path in (root / name).rglob("*.py")
    }
    wanted.add("redteam/grid/report.html")  # the template of the report
    wanted.add("defenses/watermark/learned.safetensors")  # the networks of a mark

    assert files == wanted


def test_its_metadata_are_those_of_the_project(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = BytesParser().parsebytes(archive.read(name))
        licences = [n for n in archive.namelist() if "/licenses/" in n]

    assert metadata["Name"] == "mantlet"
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert [Path(n).name for n in licences] == ["LICENSE"]


def test_the_project_is_not_importable_where_the_wheel_is_installed(
    programs: Path, root: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, mantlet, serving; print(sys.path); print(mantlet.__file__, serving.__file__)"
    )
    path, files = run(programs / "python", "-c", code, cwd=tmp_path).splitlines()

    assert repr(str(root)) not in path
    assert all(file.startswith(str(programs.parent)) for file in files.split())


def test_it_tells_its_version(programs: Path, tmp_path: Path) -> None:
    assert run(programs / "mantlet", "--version", cwd=tmp_path) == f"{__version__}\n"


def test_it_lists_its_plug_ins(programs: Path, tmp_path: Path) -> None:
    found = orjson.loads(run(programs / "mantlet", "plugins", "--json", cwd=tmp_path))

    kinds = {"defense", "input defense", "detector", "victim", "architecture"}
    assert kinds == {e["kind"] for e in found}
    assert {"rounding", "foreign", "upstream", "lenet"} <= {e["type"] for e in found}


@pytest.fixture(scope="module")
def serving(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The chain of the embedded default, served by the wheel away from the project."""
    folder = tmp_path_factory.mktemp("served")
    config: dict[str, Any] = {
        "listen": {"port": 0},
        "admin": {"port": 0},
        "identity": {"open": True},
        "data_dir": str(folder / "state"),
        "tiers": {"default": {}, "free": {}},
        "models": {"mnist": GUARDED},
    }
    (folder / "gateway.yaml").write_text(yaml.safe_dump(config))
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "mantlet", "serve", "gateway.yaml"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )
    try:
        running = Running(process, folder)
        running.port = running.wait_for("listening")["port"]
        running.wait_for("ready")
        yield running
        assert running.stop() == 0
    finally:
        process.kill()
        process.wait()


def test_it_serves(serving: Running) -> None:
    digit = (MODELS / "digit-7.png").read_bytes()
    answer = httpx.post(
        f"{serving.url}/v1/models/mnist:predict",
        content=digit,
        headers={"Content-Type": "image/png"},
        trust_env=False,
        timeout=60,
    )
    (scores,) = answer.json()["predictions"]

    assert max(range(10), key=scores.__getitem__) == 7


def test_its_api_pages_are_there(serving: Running) -> None:
    """They bring files of their own, which a wheel may forget."""
    page = httpx.get(f"{serving.url}/docs", trust_env=False, timeout=60)

    assert page.status_code == 200
    assert "swagger" in page.text.lower()
