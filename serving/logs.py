"""Structured logs, one JSON object a line; never an input, a clean prediction or a key."""

import logging
import sys

import structlog

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(level: str) -> None:
    """Log to standard error from ``level`` up: for people on a terminal, as JSON elsewhere."""
    terminal = sys.stderr.isatty()
    # with rich installed, the console's own tracebacks show local variables: inputs and keys
    plain = structlog.dev.plain_traceback
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=plain)
        if terminal
        else structlog.processors.JSONRenderer()
    )
    tracebacks = [] if terminal else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *tracebacks,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        # a line in one write, so that the lines of several workers stay whole
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    # uvicorn's own lines are about its lifecycle, which we log ourselves
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
