"""ONNX Runtime sessions on the CPU: one thread, no surprises, and a clear error when it is missing."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mantlet.errors import ConfigError, VictimError, WeightsError
from serving.victims.base import first_line

if TYPE_CHECKING:
    import onnxruntime

AT_ONCE = 256
"""Rows of a pass: a session never gives back what its largest one took, and small ones are faster."""


def installed() -> bool:
    """Whether ONNX Runtime can be imported."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return False
    return True


def open_session(model: Path | bytes) -> "onnxruntime.InferenceSession":
    """A CPU session, of one thread, of an ONNX file or of its bytes."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(
            "ONNX Runtime is not installed; install it with: pip install 'mantlet[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # spinning threads steal the core that the event loop needs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = str(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except (
        Exception
    ) as error:  # onnxruntime raises a dozen kinds; all mean that the file is no good
        name = f"'{model}'" if isinstance(model, Path) else "(exported)"
        raise WeightsError(f"ONNX model {name} does not load: {first_line(error)}") from error


def run(
    session: "onnxruntime.InferenceSession",
    outputs: list[str],
    name: str,
    inputs: np.ndarray,
    *,
    at_once: int = AT_ONCE,
) -> list[np.ndarray]:
    """A forward pass for each ``at_once`` rows of (n, *shape) inputs; arrays in the order of ``outputs``."""
    parts = []
    for start in range(0, max(len(inputs), 1), at_once):
        rows = inputs[start : start + at_once]
        try:
            parts.append(session.run(outputs, {name: rows}))
        except Exception as error:  # onnxruntime raises a dozen kinds, none of them public
            shape = tuple(rows.shape)
            raise VictimError(f"ONNX Runtime cannot run {shape}: {first_line(error)}") from error
    return [
        np.concatenate(column) if len(parts) > 1 else column[0]
        for column in zip(*parts, strict=True)
    ]
