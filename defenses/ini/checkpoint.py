"""Keeps a training between epochs, as safetensors and JSON, so that it can go on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mantlet import weights
from mantlet.errors import ConfigError

Parts = Mapping[str, nn.Module | torch.optim.SGD]
RANDOM = "generator"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file for one training, told from others by ``settings``, any text: the recipe and its data."""

    path: Path
    settings: str

    def keep(
        self, parts: Parts, generator: torch.Generator, history: list[dict[str, float]]
    ) -> None:
        """Write the state after an epoch; the file that was there stays until the new one is whole."""
        tensors = {RANDOM: generator.get_state()}
        for name, part in parts.items():
            tensors |= {f"{name}.{key}": value for key, value in _tensors(part).items()}
        metadata = {"settings": self.settings, "history": json.dumps(history)}
        unfinished = self.path.with_name(self.path.name + ".part")
        weights.save_tensors(tensors, unfinished, metadata)
        unfinished.replace(self.path)

    def restore(self, parts: Parts, generator: torch.Generator) -> list[dict[str, float]]:
        """Put the parts back to where they were; the history, empty where there is no file."""
        if not self.path.is_file():
            return []
        metadata = weights.metadata(self.path)
        if metadata.get("settings") != self.settings:
            raise ConfigError(
                f"checkpoint '{self.path}' is of other settings or data; go on with those, or remove it"
            )
        tensors = weights.load_state(self.path)
        generator.set_state(tensors[RANDOM])
        for name, part in parts.items():
            mine = {
                key.removeprefix(f"{name}."): value
                for key, value in tensors.items()
                if key.startswith(f"{name}.")
            }
            _fill(part, mine)
        history: list[dict[str, float]] = json.loads(metadata["history"])
        return history

    def done(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def _tensors(part: nn.Module | torch.optim.SGD) -> dict[str, Tensor]:
    """Tensors of a network, or the momentum of an optimiser by the number of its parameter."""
    if isinstance(part, nn.Module):
        return dict(part.state_dict())
    state = part.state_dict()["state"]
    momentum = {str(number): kept.get("momentum_buffer") for number, kept in state.items()}
    return {number: tensor for number, tensor in momentum.items() if tensor is not None}


def _fill(part: nn.Module | torch.optim.SGD, tensors: dict[str, Tensor]) -> None:
    if isinstance(part, nn.Module):
        part.load_state_dict(tensors)
        return
    state = part.state_dict()
    state["state"] = {int(number): {"momentum_buffer": kept} for number, kept in tensors.items()}
    part.load_state_dict(state)
