"""The Dockerfile: clean for its linter, complete in what it copies, and healthy when the gateway is."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from serving import settings
from tests.e2e.harness import OPEN, ROOT, Running, gateway
from tests.e2e.upstream_servers import free_port

GATEWAYS = ROOT / "configs/gateway"


def instructions(root: Path, name: str) -> list[str]:
    """The arguments of every instruction of that name, with continued lines joined."""
    text = (root / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{name}\s+(.*)$", text, re.MULTILINE)


def test_linter_finds_nothing_of_any_severity(root: Path) -> None:
    hadolint, file = Path(sys.executable).with_name("hadolint"), root / "Dockerfile"
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", "--disable-ignore-pragma", "-f", "json", file],
        capture_output=True,
        text=True,
        cwd=root,
    )

    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_everything_that_is_copied_exists_and_is_not_ignored(root: Path) -> None:
    ignored = (root / ".dockerignore").read_text().split()
    copied = [
        source
        for copy in instructions(root, "COPY")
        if not copy.startswith("--from")
        for source in copy.split()[:-1]
    ]

    assert copied
    for source in copied:
        assert (root / source).exists(), source
        assert not any(fnmatch(source, pattern) for pattern in ignored), source


def test_every_package_of_the_wheel_is_copied(root: Path) -> None:
    copied = {source for copy in instructions(root, "COPY") for source in copy.split()[:-1]}

    assert {"mantlet", "defenses", "detectors", "serving", "redteam"} <= copied


def test_it_does_not_run_as_root(root: Path) -> None:
    assert instructions(root, "USER") == ["10001"]


def test_its_command_serves_a_config_that_it_copies(root: Path) -> None:
    command = json.loads(instructions(root, "CMD")[-1])
    config = root / "configs" / Path(command[1]).relative_to("/etc/mantlet")
    loaded = settings.load(config, [command[3]])

    assert (command[0], command[2]) == ("serve", "--set")
    assert json.loads(instructions(root, "ENTRYPOINT")[0]) == ["mantlet"]
    assert [str(loaded.listen.port)] == instructions(root, "EXPOSE")
    assert loaded.listen.host == "0.0.0.0"
    assert loaded.admin.host == "127.0.0.1"


@pytest.mark.parametrize("name", sorted(path.stem for path in GATEWAYS.glob("*.yaml")))
def test_every_config_that_is_copied_finds_what_it_names_without_the_project(
    root: Path, tmp_path: Path, name: str
) -> None:
    """Where the image has them, started from the folder of its user."""
    (target,) = (
        copy.split()[1] for copy in instructions(root, "COPY") if copy.startswith("configs ")
    )
    etc, home = (
        tmp_path / path.removeprefix("/") for path in (target, instructions(root, "WORKDIR")[-1])
    )
    shutil.copytree(root / "configs", etc)
    home.mkdir(parents=True)
    config = etc / f"gateway/{name}.yaml"
    done = subprocess.run(
        [Path(sys.executable).with_name("mantlet"), "check", config],
        capture_output=True,
        text=True,
        cwd=home,
    )

    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (etc / "gateway").iterdir()) == sorted(
        path.name for path in GATEWAYS.iterdir()
    ), "nothing is written beside a config"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with gateway(tmp_path_factory.mktemp("container"), OPEN) as started:
        yield started


def health(root: Path, port: int) -> int:
    """The exit code of the health check, asked at another port."""
    (check,) = instructions(root, "HEALTHCHECK")
    command = json.loads(check.partition(" CMD ")[2])
    assert command[0] == "python"
    assert command[2].count(":8080/") == 1
    code = command[2].replace(":8080/", f":{port}/")
    return subprocess.run([sys.executable, command[1], code], capture_output=True).returncode


def test_health_check_succeeds_when_the_gateway_is_ready(root: Path, running: Running) -> None:
    assert health(root, running.port) == 0


def test_health_check_fails_when_nobody_answers(root: Path) -> None:
    assert health(root, free_port()) != 0


def test_health_check_fails_while_the_gateway_is_not_ready(root: Path, tmp_path: Path) -> None:
    victim = {"type": "upstream", "url": f"http://127.0.0.1:{free_port()}", "model": "m"}
    config = OPEN | {"models": {"late": {"victim": victim}}}
    with gateway(tmp_path, config, until="victim_not_ready") as waiting:
        assert health(root, waiting.port) != 0
