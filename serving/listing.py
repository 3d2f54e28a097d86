"""What is installed: plug-ins for ``mantlet plugins``, the environment for ``mantlet doctor``."""

import inspect
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import torch

import defenses
import detectors
from mantlet import __version__, architectures
from serving import victims

LIBRARIES = ("torch", "numpy", "fastapi", "uvicorn", "uvloop", "orjson", "limits")
EXTRAS = {"onnxruntime": "onnx", "captum": "explain"}
"""What comes with an extra."""


def installed() -> list[dict[str, str]]:
    """Every plug-in, built in or not: kind, type, one-line summary, module."""
    groups: dict[str, Mapping[str, object]] = {
        "defense": dict(defenses.known()),
        "input defense": dict(defenses.known_inputs()),
        "detector": dict(detectors.known()),
        "victim": dict(victims.known()),
        "architecture": architectures.known(),
    }
    return [
        {"kind": kind, "type": name, "summary": _summary(plugin), "module": plugin.__module__}
        for kind, plugins in groups.items()
        for name, plugin in sorted(plugins.items())
    ]


def _summary(plugin: object) -> str:
    return (inspect.getdoc(plugin) or "").partition("\n")[0]


def environment() -> list[str]:
    """Versions, cores and devices, a line each, with a remedy where something is missing."""
    lines = [
        f"mantlet {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"cores: {os.cpu_count()}",
    ]
    for library in (*LIBRARIES, *EXTRAS):
        try:
            lines.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            extra = EXTRAS.get(library)
            remedy = f"pip install 'mantlet[{extra}]'" if extra else "install it"
            lines.append(f"{library}: missing; {remedy}")
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return [*lines, f"devices: {', '.join(devices)}"]
