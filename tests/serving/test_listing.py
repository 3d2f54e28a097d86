from importlib.metadata import PackageNotFoundError

import pytest

import defenses
import detectors
from mantlet import __version__, architectures
from serving import listing, victims


def test_every_installed_plugin_is_listed_with_what_it_does() -> None:
    found = {(entry["kind"], entry["type"]): entry for entry in listing.installed()}

    assert found.keys() == {
        *(("defense", name) for name in defenses.known()),
        *(("input defense", name) for name in defenses.known_inputs()),
        *(("detector", name) for name in detectors.known()),
        *(("victim", name) for name in victims.known()),
        *(("architecture", name) for name in architectures.known()),
    }
    assert all(entry["summary"].endswith(".") for entry in found.values())
    assert found["defense", "rounding"]["module"] == "defenses.rounding"


def test_the_environment_names_versions_and_devices() -> None:
    lines = listing.environment()

    assert lines[0].startswith(f"mantlet {__version__}, Python 3.")
    assert any(line.startswith("torch 2.") for line in lines)
    assert lines[-1].startswith("devices: cpu")


def test_a_missing_library_gets_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(library: str) -> str:
        if library in ("onnxruntime", "uvloop"):
            raise PackageNotFoundError(library)
        return "1.0"

    monkeypatch.setattr(listing, "version", version)
    lines = listing.environment()

    assert "onnxruntime: missing; pip install 'mantlet[onnx]'" in lines
    assert "uvloop: missing; install it" in lines
