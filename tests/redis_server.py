"""A real Redis in a process of its own, on a port of the loopback that the system chose."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis

BINARY = shutil.which("redis-server")
START_S = 30.0
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@dataclass
class Server:
    """A Redis whose files are in ``folder``; ended and started again it keeps port and files."""

    folder: Path
    options: tuple[str, ...]
    password: str = ""
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = field(default=None)

    @property
    def url(self) -> str:
        return f"redis://{f':{self.password}@' * bool(self.password)}127.0.0.1:{self.port}/0"

    def client(self) -> "redis.Redis":
        """A plain client, to look at what is stored."""
        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert BINARY is not None, "redis-server is not installed"
        self.port = self.port or free_port()
        command = [BINARY, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--save", "", *self.options]
        command += ["--requirepass", self.password] if self.password else []
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "redis.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:  # not there yet, or still loading
                return False

    def signal(self, number: int) -> None:
        """Stop it for a while (SIGSTOP), let it go on (SIGCONT)."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def redis_server(folder: Path, *options: str, password: str = "") -> Iterator[Server]:
    """A Redis until the end of the block; by default one that keeps nothing on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(folder, options, password)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def free_port() -> int:
    """A port of the loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
