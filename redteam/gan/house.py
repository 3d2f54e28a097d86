"""A victim of the bench of generators: trained once, served behind any defense, compared with anything."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

import defenses
from mantlet import architectures, weights
from mantlet.data import load_images
from mantlet.fidelity import embedded
from mantlet.gan_training import Gan, fit_gan, untrained
from mantlet.plugin import Defense, InputDefense, Setup
from redteam.attacks.gan import ByLatents, GanTheft
from redteam.client.accounts import Split
from redteam.client.oracle import InProcess
from redteam.gan.cases import FULL, Size, classifier_of, defense
from redteam.pools import Pools
from serving.pipeline import Pipeline
from serving.victims.torch import TorchVictim

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the bench reads and keeps its things, and how much it runs."""

    pools: Pools
    work: Path
    size: Size = FULL


@dataclass(frozen=True)
class House:
    """The victim of a family of pictures and a seed."""

    bench: Bench
    family: str
    seed: int
    utilities: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """What each defense was found to cost clients."""
    _served: dict[str, Pipeline] = field(default_factory=dict)

    @property
    def secret(self) -> bytes:
        """The owner's."""
        return f"the owner's secret {self.seed}".encode()

    @cached_property
    def classifier(self) -> nn.Module:
        """Whose features are compared: the shipped one of the family."""
        path = classifier_of(self.family)
        network = architectures.build("lenet", {})
        weights.load_into(network, path, "lenet")
        return network.eval()

    @cached_property
    def gan(self) -> Gan:
        """The victim, trained once and kept."""
        settings = self.bench.size.victim
        made, leak = untrained(settings, 1, torch.Generator()), self._leak
        if not self.path.is_file():
            pictures = self.real(0, self.bench.size.learned)
            trained = fit_gan(pictures, settings, torch.Generator().manual_seed(self.seed))
            weights.save(trained.discriminator, leak, {})
            weights.save(trained.generator, self.path, {})
        weights.load_into(made.generator, self.path, "dcgan")
        weights.load_into(made.discriminator, leak, "its discriminator")
        return Gan(made.generator.eval(), made.discriminator.eval())

    @property
    def path(self) -> Path:
        """The victim's weights."""
        settings = self.bench.size.victim
        name = f"{self.family}-{self.seed}-{settings.width}-{settings.steps}"
        return self.bench.work / f"{name}.safetensors"

    @property
    def _leak(self) -> Path:
        return self.path.with_suffix(".discriminator.safetensors")

    def real(self, first: int, count: int) -> Tensor:
        """(count, 1, 28, 28) real pictures of the family."""
        path, split = self.bench.pools.path(self.family), self.family.rpartition("-")[2]
        rows = slice(first, first + count)
        return torch.from_numpy(load_images(path, split if split == "test" else "train", rows).x)

    @cached_property
    def unseen(self) -> Tensor:
        """(n, 1, 28, 28) real pictures that nobody learned from."""
        return self.real(self.bench.size.unseen, self.bench.size.compared)

    @cached_property
    def compared(self) -> Tensor:
        """(n, D) features of real pictures."""
        return self.features(self.unseen)

    @cached_property
    def clean(self) -> Tensor:
        """(n, 1, 28, 28) what the model draws without any defense."""
        return self.asked("none", seed=1)

    @cached_property
    def clean_features(self) -> Tensor:
        """(n, D)"""
        return self.features(self.clean)

    def features(self, pictures: Tensor) -> Tensor:
        """(n, D) features."""
        return embedded(pictures, self.classifier)

    def served(self, name: str) -> Pipeline:
        """The victim behind one defense."""
        if name not in self._served:
            self._served[name] = behind(self.victim(), self.secret, self, name)
        return self._served[name]

    def victim(self) -> TorchVictim:
        """As it is served."""
        assert self.gan  # it is trained before it is served
        settings = self.bench.size.victim
        victim = TorchVictim(
            type="torch",
            weights=self.path,
            architecture="dcgan",
            settings={"latent": settings.latent, "width": settings.width},
        )
        victim.load(Setup(CPU, self.secret))
        return victim

    def asked(self, name: str, *, seed: int, clients: int = 1) -> Tensor:
        """What honest clients are served behind a defense, as many pictures as are compared."""
        each = [InProcess(self.served(name), client=f"honest {n}") for n in range(clients)]
        generator = torch.Generator().manual_seed(1000 + seed)
        source = ByLatents(Split(each), self.bench.size.victim.latent, generator)
        return GanTheft(request=5_000).buy(source, self.bench.size.compared)[0]


def behind(victim: TorchVictim, secret: bytes, house: House, name: str) -> Pipeline:
    """A victim behind a defense of the bench."""
    setup = Setup(CPU, secret, victim=victim, model=house.family)
    before: list[InputDefense] = []
    after: list[Defense] = []
    for settings in defense(name, house.family, house.bench.size):
        kind = settings["type"]
        if kind in defenses.known_inputs():
            before.append(defenses.known_inputs()[kind].model_validate(settings))
        else:
            after.append(defenses.known()[kind].model_validate(settings))
    for plugin in (*before, *after):
        plugin.load(setup)
    return Pipeline(victim, (), after, input_defenses=before, secret=secret)
