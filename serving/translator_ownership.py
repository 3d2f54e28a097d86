"""Whether a suspect that translates learned from this service, by the filter of `high_band_dither`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from defenses.high_band_dither import HighBandDither, found
from mantlet.errors import ConfigError
from mantlet.plugin import Setup
from mantlet.types import Task
from serving.generator_ownership import PICTURES, Reading, Report, along
from serving.ownership import PROVEN, secret_of_gateway
from serving.settings import Settings, chosen_model
from serving.suspects import PLAIN, ROWS, Opening, open_model
from serving.victims.base import VictimPlugin


def marks(settings: Settings, model: str = "") -> bool:
    """Whether the model's pictures leave with the filter."""
    return any(isinstance(d, HighBandDither) for d in chosen_model(settings, model)[1].defenses)


def verify(
    settings: Settings,
    pictures: np.ndarray,
    suspect: str,
    *,
    independent: Sequence[str] = (),
    model: str = "",
    count: int = PICTURES,
    opening: Opening = PLAIN,
) -> Report:
    """Look for the filter in what a suspect, and models known to be independent, make of (n, C, H, W) ``pictures``.

    Each is a .safetensors or .onnx file, or the address of a served model, and is asked about the first ``count``.
    Raises `ConfigError` where nothing could be said, and what opening and asking a model raises.
    """
    name, chosen = chosen_model(settings, model)
    if not marks(settings, name):
        raise ConfigError(
            f"model '{name}' has no defense 'high_band_dither'; give the config with which its pictures were answered"
        )
    secret, asked = secret_of_gateway(settings), torch.from_numpy(pictures[:count])
    with _loaded(chosen.victim) as victim:
        if victim.task is not Task.TRANSLATE:
            raise ConfigError(
                f"the protected model is there to {victim.task}, and not to translate"
            )
        if not victim.input.takes(tuple(asked.shape[1:])):
            raise ConfigError(
                f"the pictures of --queries have shape {tuple(asked.shape[1:])}; the model takes"
                f" {victim.input.shape}"
            )
        clean = _answers(victim, asked)
    readings = [
        read(one, _answers_of(one, asked, clean, opening), clean, secret)
        for one in (suspect, *independent)
    ]
    return Report(readings[0], readings[1:])


def read(name: str, made: Tensor, clean: Tensor, secret: bytes) -> Reading:
    """What pictures (n, C, H, W) of a model show beside the ``clean`` ones of the same inputs; all of them count.

    The null hypothesis is that the secret was drawn independently of the model; `found` bounds the p-value
    under it whatever the pictures are.
    """
    return along(name, len(made), lambda count: found(made[:count], clean[:count], secret))


def _answers_of(name: str, asked: Tensor, clean: Tensor, opening: Opening) -> Tensor:
    """What a model by its name makes of the same inputs, of the same size; one of brightness gets that of colours."""
    untold = {"input_shape": tuple(asked.shape[1:]), "output_shape": tuple(clean.shape[1:])}
    scale = max(1, clean.shape[2] // asked.shape[2])
    about: Mapping[str, Any] = {"task": Task.TRANSLATE, "untold": untold, "scale": scale}
    with ExitStack() as stack:
        model = stack.enter_context(_loaded(open_model(name, opening, **about)))
        if (model.task, model.input.shape[0], asked.shape[1]) == (Task.TRANSLATE, 1, 3):
            model = stack.enter_context(_loaded(open_model(name, opening, luma=True, **about)))
        if model.task is not Task.TRANSLATE:
            raise ConfigError(f"suspect '{name}' is there to {model.task}, and not to translate")
        if not model.input.takes(tuple(asked.shape[1:])):
            raise ConfigError(
                f"suspect '{name}' takes pictures of {model.input.shape}, and those of --queries have"
                f" {tuple(asked.shape[1:])}: they cannot be compared"
            )
        made = _answers(model, asked)
    if made.shape != clean.shape:
        raise ConfigError(
            f"suspect '{name}' makes pictures of {tuple(made.shape[1:])}, and the protected model"
            f" {tuple(clean.shape[1:])}, of the same: they cannot be compared"
        )
    return made


@contextmanager
def _loaded(model: VictimPlugin) -> Iterator[VictimPlugin]:
    with closing(model):
        model.load(Setup(torch.device("cpu"), b""))
        yield model


def _answers(model: VictimPlugin, asked: Tensor) -> Tensor:
    return torch.cat([model.predict(part).values for part in torch.split(asked, ROWS)])


def verdict(report: Report) -> Sequence[str]:
    """In plain words, what the report shows and what it does not."""
    first = report.said(
        unsound="An independent model shows the filter too: this proves nothing. Is it no copy, and is the secret that of"
        " the service?",
        found=f"The suspect has learned the filter: one secret in {report.keys} or fewer would fit a model"
        " that knows nothing of the answers so well.",
        hidden=f"The filter is not shown (p above {PROVEN:g}). That does not clear the suspect: it may have learned from"
        " few pictures, or from the truth beside them. Give more pictures.",
    )
    return (
        first,
        "The filter says that a model learned from this service, itself or through another, and not who asked; the"
        " secret can plant it. It is one signal, never sole proof.",
    )
