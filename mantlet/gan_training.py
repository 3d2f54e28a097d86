"""Trains a generator against a discriminator; nothing that serves imports this."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mantlet.errors import ConfigError
from mantlet.generators import DcganDiscriminator, DcganGenerator
from mantlet.training import Progress

BETAS = (0.5, 0.999)
"""Of Adam, as Radford et al. (2016) found them stable."""

SETTLED = 0.5
"""Share of the steps at the full learning rates, which then fall to 0."""

STATISTICS = 2_000
"""Pictures from which the averaged generator's batch norms take their statistics."""


class GanSettings(BaseModel):
    """How to train a DCGAN: logistic loss, not saturating (Goodfellow et al., 2014), ``steps`` of ``batch`` rows.

    What is kept of the generator is the moving average of its weights, ``average`` of it old at each step.
    The discriminator sees all pictures under ``noise`` (standard deviation, of values in [-1, 1]): it cannot go by
    traces that no eye would see (Sønderby et al., 2017).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent: Annotated[int, Field(ge=1, le=1024)] = 64
    width: Annotated[int, Field(ge=1, le=512)] = 24
    discriminator_width: Annotated[int, Field(ge=1, le=512)] = 24
    steps: PositiveInt = 4000
    batch: Annotated[int, Field(ge=2)] = 64
    lr: PositiveFloat = 4e-3
    discriminator_lr: PositiveFloat = 1e-3
    noise: Annotated[float, Field(ge=0, le=1)] = 0.15
    average: Annotated[float, Field(ge=0, lt=1)] = 0.995


@dataclass(frozen=True, slots=True)
class Gan:
    """A generator (B, latent) to (B, C, 28, 28) in [-1, 1], and the discriminator it was trained against."""

    generator: nn.Module
    discriminator: nn.Module


def untrained(settings: GanSettings, channels: int, generator: torch.Generator) -> Gan:
    """New networks, their weights drawn by ``generator``."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)  # layers draw their first weights from the global generator
        return Gan(
            DcganGenerator(latent=settings.latent, width=settings.width, channels=channels),
            DcganDiscriminator(width=settings.discriminator_width, channels=channels),
        )


def fit_gan(
    images: Tensor,
    settings: GanSettings,
    generator: torch.Generator,
    *,
    start: Gan | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    watch: Callable[[int, Gan], None] = lambda _, __: None,
    watch_every: int = 0,
) -> Gan:
    """A GAN of (n, C, 28, 28) pictures in [0, 1]; same pictures, settings and state of ``generator``: same GAN.

    ``start`` names networks to go on from, which stay as they are. ``watch`` is given the step and the GAN as
    it would be returned there, every ``watch_every`` steps and after the last. Raises `ConfigError` for other
    pictures, and for fewer than a batch.
    """
    if images.ndim != 4 or images.shape[2:] != (28, 28) or len(images) < settings.batch:
        raise ConfigError(
            f"a GAN of pictures of shape {tuple(images.shape)}; wanted (n, C, 28, 28), at least a batch of"
            f" {settings.batch} of them"
        )
    loop = _Loop(start or untrained(settings, images.shape[1], generator), settings, generator)
    drawn = _endless(len(images), settings.batch, generator)
    for step in range(1, settings.steps + 1):
        rows = next(drawn)
        loss = loop.step(images[rows], 1 - (step - 1) / settings.steps)
        progress(
            Progress(step, settings.steps, (step - 1) * settings.batch // len(images) + 1, loss)
        )
        if step == settings.steps or (watch_every and step % watch_every == 0):
            now = loop.now()
            watch(step, now)
    return now


class _Loop:
    """The networks and their optimisers between steps."""

    def __init__(self, start: Gan, settings: GanSettings, generator: torch.Generator) -> None:
        self._batch, self._random = settings.batch, generator
        self._latent, self._noise = settings.latent, settings.noise
        self._rates = (settings.lr, settings.discriminator_lr)
        self._generator, self._discriminator = map(
            _trainable, (start.generator, start.discriminator)
        )
        blend = get_ema_multi_avg_fn(settings.average)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._average = AveragedModel(self._generator, multi_avg_fn=blend)
        self._optimizers = tuple(
            torch.optim.Adam(network.parameters(), rate, BETAS)
            for network, rate in zip(
                (self._generator, self._discriminator), self._rates, strict=True
            )
        )

    def step(self, pictures: Tensor, left: float) -> float:
        """One step of each network, with a share ``left`` of the steps to go; the generator's loss."""
        for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * min(1.0, left / SETTLED)
        real = (2 * pictures - 1).contiguous(memory_format=torch.channels_last)
        made = self._generator(torch.randn(self._batch, self._latent, generator=self._random))
        of_real, of_made = self._judged(real), self._judged(made.detach())
        self._descend(1, softplus(-of_real).mean() + softplus(of_made).mean())
        self._discriminator.requires_grad_(False)
        loss = softplus(-self._judged(made)).mean()
        self._discriminator.requires_grad_(True)
        self._descend(0, loss)
        self._average.update_parameters(self._generator)
        return loss.item()

    def _judged(self, pictures: Tensor) -> Tensor:
        """(B,) scores of pictures under noise."""
        noise = torch.randn(pictures.shape, generator=self._random)
        scores: Tensor = self._discriminator(pictures + self._noise * noise)
        return scores

    def _descend(self, which: int, loss: Tensor) -> None:
        self._optimizers[which].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._optimizers[which].step()

    def now(self) -> Gan:
        """The averaged generator with statistics of its own, and a copy of the discriminator."""
        averaged = _trainable(self._average.module)
        norms = [module for module in averaged.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean of all batches
        latents = torch.randn(
            STATISTICS, self._latent, generator=torch.Generator().manual_seed(0)
        )  # not the loop's own: looking on must not change what is learned
        with torch.inference_mode():
            for part in torch.split(latents, 200):
                averaged(part)
        return Gan(averaged.eval(), deepcopy(self._discriminator).eval())


def _trainable(network: nn.Module) -> nn.Module:
    """A copy in training mode."""
    copied = deepcopy(network).train()
    return copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # the types lack it


def _endless(rows: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of whole batches, shuffled anew whenever all were drawn."""
    while True:
        order = torch.randperm(rows, generator=generator)
        yield from torch.split(order[: rows - rows % size], size)


@torch.no_grad()  # not inference mode: others may learn from what is returned
def drawn(network: nn.Module, latents: Tensor) -> Tensor:
    """Pictures (n, C, H, W) in [0, 1] that a generator makes of (n, latent) latents."""
    low, high = getattr(network, "output_range", (0.0, 1.0))
    parts = [network(part) for part in torch.split(latents, 500)]
    return ((torch.cat(parts) - low) / (high - low)).clamp(0, 1).contiguous()
