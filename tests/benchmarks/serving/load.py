"""Drives a server on loopback with wrk and reads what it measured."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = """
local bodies, keys, n = {{}}, {{ {keys} }}, 0
for path in io.popen('ls "{bodies}"'):lines() do
  local file = io.open("{bodies}/" .. path, "rb")
  bodies[#bodies + 1] = file:read("*all")
  file:close()
end
wrk.method = "POST"
wrk.headers["Content-Type"] = "{media}"
request = function()
  n = n + 1
  wrk.headers["Authorization"] = "Bearer " .. keys[n % #keys + 1]
  return wrk.format(nil, nil, nil, bodies[n % #bodies + 1])
end
done = function(summary, latency, requests)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.status + summary.errors.timeout
  io.write(string.format(
    'RESULT {{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "errors": %d}}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), bad))
end
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """Requests a second, and latency in milliseconds, of one run without a single error."""

    per_s: float
    p50_ms: float
    p99_ms: float


def require_wrk() -> str:
    """The path of wrk, or a clear end."""
    path = shutil.which("wrk")
    if path is None:
        raise SystemExit("the benchmark drives the servers with wrk: apt-get install wrk")
    return path


def drive(
    url: str, bodies: Path, media: str, keys: Sequence[str], *, connections: int, seconds: float
) -> Measured:
    """Post each of the ``bodies``, the files of a folder, in turn, with each of the keys in turn."""
    script = bodies.with_suffix(".lua")
    quoted = ", ".join(f'"{key}"' for key in keys)
    script.write_text(SCRIPT.format(keys=quoted, bodies=bodies, media=media))
    command = [
        require_wrk(),
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
        url,
    ]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(text[text.index("RESULT ") + 7 :])
    if found["errors"] or not found["requests"]:
        raise SystemExit(
            f"{url}: {found['errors']} errors in {found['requests']} requests:\n{text}"
        )
    return Measured(
        per_s=found["requests"] / (found["duration_us"] / 1e6),
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
    )
