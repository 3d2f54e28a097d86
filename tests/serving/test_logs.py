"""Logs: a JSON object a line on standard error."""

import json
import logging
import subprocess
import sys

import pytest

SCRIPT = """
import logging, structlog
from serving import logs
logs.configure({level!r})
log = structlog.get_logger()
log.debug("one", a=1)
log.info("two")
log.warning("three", text="ü\\n")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("four")
logging.getLogger("uvicorn.error").info("a line of uvicorn's own")
"""


def logged(level: str) -> list[dict[str, object]]:
    """What a process of its own logs; the configuration is global."""
    command = [sys.executable, "-c", SCRIPT.format(level=level)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_is_an_object_with_its_level_and_time() -> None:
    lines = logged("debug")

    assert [line["event"] for line in lines] == ["one", "two", "three", "four"]
    assert [line["level"] for line in lines] == ["debug", "info", "warning", "error"]
    assert all(str(line["timestamp"]).endswith("Z") for line in lines)
    assert lines[2]["text"] == "ü\n"
    assert "ZeroDivisionError" in str(lines[3]["exception"])


FAILING = """
import sys, structlog
from serving import logs
sys.stderr.isatty = lambda: {terminal}
logs.configure("info")

def decode(key, row):
    raise KeyError("unforeseen")

try:
    decode("mk_" + 3 * "hush", [0.125 + 0.0078125])
except KeyError:
    structlog.get_logger().exception("unexpected_error")
"""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_traceback_tells_where_and_not_with_what(terminal: bool) -> None:
    """On a terminal as well: keys and inputs are local variables of the functions it went through."""
    command = [sys.executable, "-c", FAILING.format(terminal=terminal)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert "KeyError" in told
    assert "decode" in told
    assert "hushhush" not in told
    assert "0.1328125" not in told


@pytest.mark.parametrize(("level", "count"), [("info", 3), ("warning", 2), ("error", 1)])
def test_what_is_below_the_level_is_not_written(level: str, count: int) -> None:
    assert len(logged(level)) == count


def test_the_levels_are_pythons() -> None:
    from serving.logs import LEVELS

    assert {getattr(logging, name.upper()) for name in LEVELS} == set(LEVELS.values())
