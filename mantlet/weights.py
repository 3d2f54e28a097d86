"""Weights are data, never code: safetensors in, a SHA-256 that names them, and a safe way to convert."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from mantlet.errors import WeightsError

UNSAFE_SUFFIXES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib"})


def refuse_unsafe(path: Path) -> None:
    """Raise `WeightsError` for formats that can run code when they are opened."""
    if path.suffix.lower() in UNSAFE_SUFFIXES:
        raise WeightsError(
            f"weights '{path}': a {path.suffix} file is a pickle and can run code when it is opened;"
            f" convert it once with: mantlet convert {path} {path.with_suffix('.safetensors')}"
        )


def fingerprint(path: Path) -> str:
    """SHA-256 of the file, in hex."""
    if not path.is_file():
        raise WeightsError(f"weights '{path}': no such file; give the path of a weight file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_state(path: Path) -> dict[str, Tensor]:
    """Named tensors of a safetensors file, on the CPU."""
    refuse_unsafe(path)
    with _reading(path):
        return load_file(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise WeightsError(f"weights '{path}': no such file; give the path of a .safetensors file")
    try:
        yield
    except SafetensorError as error:
        raise WeightsError(
            f"weights '{path}': not a safetensors file ({error}); is it damaged or of another format?"
        ) from error


def load_into(module: nn.Module, path: Path, architecture: str) -> None:
    """Fill ``module`` from a safetensors file; every tensor must be there and have its shape."""
    state = load_state(path)
    wanted = {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    missing = sorted(wanted.keys() - state.keys())
    unknown = sorted(state.keys() - module.state_dict().keys())
    wrong = [
        f"{name} is {tuple(state[name].shape)}, wanted {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing or unknown or wrong:
        details = "; ".join(
            ([f"missing {', '.join(missing[:3])}"] if missing else [])
            + ([f"unknown {', '.join(unknown[:3])}"] if unknown else [])
            + wrong[:3]
        )
        raise WeightsError(
            f"weights '{path}' do not fit architecture '{architecture}': {details};"
            " name the architecture they were trained with"
        )
    module.load_state_dict(state, strict=False)


def save(module: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a module's tensors, as `save_tensors` does."""
    save_tensors(module.state_dict(), path, metadata)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors with ``metadata`` in the header.

    The same tensors and metadata give the same bytes, and so the same fingerprint.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_in_order(to_bytes(state, dict(metadata))))


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted; the library writes them in any order."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[end:]


def metadata(path: Path) -> dict[str, str]:
    """The header of a safetensors file."""
    with _reading(path), safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def convert(source: Path, target: Path) -> list[str]:
    """Rewrite a PyTorch checkpoint as safetensors without running code from it; returns the names.

    Reads with ``weights_only=True``, which unpickles tensors and containers and nothing else. A
    checkpoint that nests its tensors (``state_dict``, ``model``) is unwrapped.
    """
    if not source.is_file():
        raise WeightsError(f"checkpoint '{source}': no such file")
    if target.exists():
        raise WeightsError(f"'{target}' exists; remove it or give another target")
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)  # noqa: TID251  # the one safe use
    except (
        Exception
    ) as error:  # unpickling fails in many ways; all of them mean: not a plain checkpoint
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"checkpoint '{source}' holds more than tensors, or is damaged, and was not opened"
            f" ({reason}); save its state_dict() with torch.save and convert that"
        ) from error
    state = _tensors(loaded)
    if not state:
        raise WeightsError(f"checkpoint '{source}' holds no tensors; save a module's state_dict()")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(to_bytes(state, {"converted_from": source.name}))
    return sorted(state)


def _tensors(loaded: object) -> dict[str, Tensor]:
    if not isinstance(loaded, Mapping):
        return {}
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded.get(key), Mapping):
            return _tensors(loaded[key])
    # cloned: tied tensors share memory, which safetensors refuses to write
    return {
        str(name): tensor.detach().contiguous().clone()
        for name, tensor in loaded.items()
        if isinstance(tensor, Tensor)
    }
