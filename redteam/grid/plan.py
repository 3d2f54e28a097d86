"""The plan of a bench: which victims stand behind which defenses, and who steals from them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from mantlet import architectures
from mantlet.errors import ConfigError
from mantlet.registry import did_you_mean
from redteam import attacks, pools
from redteam.attacks.attack import Attack
from redteam.learning import Training
from serving.settings import AnyDefense, AnyVictim, FilePath, Section
from serving.victims.base import VictimPlugin
from serving.victims.torch import TorchVictim


def _known(value: object, known: Mapping[str, type[Any]], what: str) -> Any:
    if not isinstance(value, dict):
        value = {"type": value}
    name = value.get("type")
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"no {what} is called '{name}'; {did_you_mean(str(name), known)}")
    return known[name].model_validate(value)


AnyAttack = Annotated[
    Attack, BeforeValidator(lambda value: _known(value, attacks.known(), "attack"))
]


def _family(value: object) -> object:
    if isinstance(value, str) and value not in pools.FAMILIES:
        raise ValueError(f"no family '{value}' is known; {did_you_mean(value, pools.FAMILIES)}")
    return value


Family = Annotated[str, BeforeValidator(_family)]


def _buildable(architecture: str, settings: Mapping[str, int | float | str | bool]) -> None:
    """Raises `ValueError` for a network that cannot be built; one that can is thrown away."""
    try:
        with torch.random.fork_rng():
            architectures.build(architecture, settings)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _runnable(victim: VictimPlugin) -> VictimPlugin:
    if isinstance(victim, TorchVictim):
        _buildable(victim.architecture, victim.settings)
    return victim


Victim = Annotated[AnyVictim, AfterValidator(_runnable)]


class Target(Section):
    """A victim, its kind of pictures, and the kinds that a thief without any of these has.

    With a ``recipe`` weights that are missing are trained once. ``own`` rows are the thief's who has
    pictures of the victim's kind, ``test`` rows measure; ``None`` of a split is all of it.
    """

    victim: Victim
    family: Family
    foreign: tuple[Family, ...]
    recipe: FilePath | None = None
    own: tuple[str, str] = ("train", ":55000")
    test: tuple[str, str] = ("test", ":")


class Protection(Section):
    """A row of the table: ``defenses`` for everybody, or the whole ``gateway`` of a config.

    ``victims`` stand in place of the plan's, trained to defend themselves. A gateway is as it is for
    the victim named ``shipped``; before others it goes without the files that were made for that one,
    and is calibrated on held-out rows. ``request`` rows are sent at once in place of the plan's: a thief
    who may be refused sends few, since a refusal costs it all of them.
    """

    defenses: tuple[AnyDefense, ...] = ()
    gateway: FilePath | None = None
    shipped: str = ""
    victims: dict[str, Victim] = Field(default_factory=dict)
    seeds: PositiveInt | None = None
    request: Annotated[int, Field(ge=1, le=256)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "Protection":
        if self.gateway is not None and self.defenses:
            raise ValueError("has a gateway and defenses; the defenses are in the gateway's config")
        return self


class Clone(Section):
    """The thief's network."""

    architecture: str = "lenet"
    settings: dict[str, int | float | str | bool] = {"width": 8}

    @model_validator(mode="after")
    def _builds(self) -> "Clone":
        _buildable(self.architecture, {"classes": 10, **self.settings})
        return self


class Attacker(Section):
    """Who steals: an attack, its data, and what else it does that a plain thief does not.

    ``accounts`` are used in turns (``split``), or one after the other is denied (``rotate``).
    ``adaptive`` ones know the defense; of them the table shows the strongest. ``undo`` is a treatment that
    is told the settings of the row's first defense. ``composed`` pictures are put together from its own
    (`redteam.composing`), ``clone`` stands in place of the plan's. ``against`` and ``victims`` name the
    only rows that it attacks; all where they are empty.
    """

    attack: AnyAttack
    data: Literal["foreign", "own", "none"] = "foreign"
    families: tuple[Family, ...] = ()
    # left out where they are not given, so that thefts that were done without them keep their names
    composed: Annotated[bool, Field(exclude_if=lambda on: not on)] = False
    clone: Annotated[Clone | None, Field(exclude_if=lambda given: given is None)] = None
    adaptive: bool = False
    undo: Literal["inverse", "bayes"] | None = None
    tier: str = "default"
    accounts: Annotated[int, Field(ge=1, le=1000)] = 1
    spread: Literal["split", "rotate"] = "rotate"
    repeats: PositiveInt = 1
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    cover: Annotated[float, Field(ge=0, lt=1)] = 0.0
    budgets: tuple[PositiveInt, ...] = ()
    seeds: PositiveInt | None = None
    against: tuple[str, ...] = ()
    victims: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_pictures(self) -> "Attacker":
        if self.data == "none" and (self.composed or self.attack.needs_pool):
            what = "composed" if self.composed else f"attack '{self.attack.type}'"
            raise ValueError(f"{what} needs pictures, and data is none; give it foreign or own")
        return self


class Floor(Section):
    """What every record of the named rows must reach, or the bench fails."""

    defense: str
    attackers: tuple[str, ...] = ()
    victims: tuple[str, ...] = ()
    measure: Literal["clone_accuracy", "agreement", "benign_accuracy", "l1", "rows_until_denied"]
    least: float | None = None
    most: float | None = None

    @model_validator(mode="after")
    def _holds_something(self) -> "Floor":
        if self.least is None and self.most is None:
            raise ValueError("has neither least nor most; nothing could miss it")
        return self

    def misses(self, record: Mapping[str, Any]) -> str:
        """In words, how a record misses the floor; nothing where it does not."""
        named = record["defense"] == self.defense
        named &= not self.attackers or record["attack"] in self.attackers
        named &= not self.victims or record["victim"] in self.victims
        value = record[self.measure]
        if not named:
            return ""
        where = "{victim}, {defense}, {attack}, {budget} rows".format(**record)
        if value is None:
            return f"{where}: {self.measure} never came"
        if self.least is not None and value < self.least:
            return f"{where}: {self.measure} {value} is under {self.least}"
        if self.most is not None and value > self.most:
            return f"{where}: {self.measure} {value} is over {self.most}"
        return ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One theft: names of the plan, rows that may be sent, and which of ``seeds`` runs it is."""

    victim: str
    defense: str
    attacker: str
    budget: int
    seed: int
    seeds: int

    @property
    def words(self) -> str:
        """For a person."""
        return f"{self.victim}, {self.defense}, {self.attacker}, {self.budget:,} rows, seed {self.seed}"


class Plan(Section):
    """What `mantlet bench` runs. ``request`` rows are sent at once; ``honest`` rows a benign client."""

    victims: Annotated[dict[str, Target], Field(min_length=1)]
    defenses: Annotated[dict[str, Protection], Field(min_length=1)]
    attackers: Annotated[dict[str, Attacker], Field(min_length=1)]
    budgets: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    seeds: PositiveInt = 1
    request: Annotated[int, Field(ge=1, le=256)] = 32
    honest: Annotated[int, Field(ge=1, le=10_000)] = 250
    clone: Clone = Clone()
    training: Training = Training()
    floors: tuple[Floor, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> "Plan":
        for name, attacker in self.attackers.items():
            self._require(f"attackers.{name}.against", attacker.against, self.defenses)
            self._require(f"attackers.{name}.victims", attacker.victims, self.victims)
            for defense in attacker.against or self.defenses if attacker.undo else ():
                if not self.defenses[defense].defenses:
                    raise ValueError(
                        f"attackers.{name}.undo: '{defense}' has no defenses of its own to undo; name"
                        " others in 'against'"
                    )
        for name, protection in self.defenses.items():
            self._require(f"defenses.{name}.victims", tuple(protection.victims), self.victims)
            shipped = (protection.shipped,) if protection.shipped else ()
            self._require(f"defenses.{name}.shipped", shipped, self.victims)
        for floor in self.floors:
            self._require("floors.defense", (floor.defense,), self.defenses)
            self._require("floors.attackers", floor.attackers, self.attackers)
            self._require("floors.victims", floor.victims, self.victims)
            self._require_thefts(floor)
        return self

    def _require_thefts(self, floor: Floor) -> None:
        """Raise for a floor, or a name in it, that no theft is held to: it would pass unmeasured."""
        held = [cell for cell in self._all() if cell.defense == floor.defense]
        if floor.victims:
            held = [cell for cell in held if cell.victim in floor.victims]
        met = {cell.attacker for cell in held} | {cell.victim for cell in held}
        lacking = [name for name in (*floor.attackers, *floor.victims) if name not in met]
        if lacking or not held:
            who = f"'{lacking[0]}'" if lacking else "nobody"
            raise ValueError(
                f"floors: no theft is held to that of '{floor.defense}' for {who}, so it would pass"
                " unmeasured; mend the floor, or 'against' and 'victims' of the attacker"
            )

    @staticmethod
    def _require(where: str, names: Sequence[str], known: Mapping[str, object]) -> None:
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{where}: '{name}' is not in the plan; {did_you_mean(name, known)}"
                )

    def sent_at_once(self, defense: str) -> int:
        """Rows that a thief sends in one request behind a defense."""
        return self.defenses[defense].request or self.request

    def cells(self, only: str = "") -> list[Cell]:
        """All cells, or those of ``VICTIM/DEFENSE/ATTACKER``, where a part may be empty or ``*``."""
        wanted = _parts(only, (self.victims, self.defenses, self.attackers))
        return [
            cell
            for cell in self._all()
            if all(
                not want or want == name
                for want, name in zip(
                    wanted, (cell.victim, cell.defense, cell.attacker), strict=True
                )
            )
        ]

    def _all(self) -> Iterator[Cell]:
        for victim in self.victims:
            for defense, protection in self.defenses.items():
                for name, attacker in self.attackers.items():
                    if attacker.against and defense not in attacker.against:
                        continue
                    if attacker.victims and victim not in attacker.victims:
                        continue
                    seeds = attacker.seeds or protection.seeds or self.seeds
                    for budget in attacker.budgets or self.budgets:
                        for seed in range(seeds):
                            yield Cell(victim, defense, name, budget, seed, seeds)


def _parts(only: str, known: Sequence[Mapping[str, object]]) -> list[str]:
    """The names of ``--only``; raises `ConfigError` for one that the plan lacks."""
    parts = [part.strip() for part in only.split("/")] if only else []
    if len(parts) > len(known):
        raise ConfigError(f"--only '{only}': write VICTIM/DEFENSE/ATTACKER; parts may be empty")
    wanted = ["" if part == "*" else part for part in parts] + [""] * (len(known) - len(parts))
    for name, names in zip(wanted, known, strict=True):
        if name and name not in names:
            raise ConfigError(f"--only: '{name}' is not in the plan; {did_you_mean(name, names)}")
    return wanted


def load(path: Path, folders: Mapping[str, Path | None]) -> Plan:
    """A plan from YAML. Its paths are relative to it, or begin with a folder's name, as ``$models/``.

    Raises `ConfigError` with a line a mistake.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"plan '{path}': no such file; give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"plan '{path}' cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"plan '{path}' holds {type(raw).__name__}; it must map names to values")
    try:
        return Plan.model_validate(_placed(raw, folders), context={"folder": path.parent})
    except ValidationError as error:
        raise ConfigError("\n".join(_explained(path, error))) from error


def _placed(value: Any, folders: Mapping[str, Path | None]) -> Any:
    """The same, with the folders that ``$NAME/`` stands for."""
    if isinstance(value, dict):
        return {key: _placed(part, folders) for key, part in value.items()}
    if isinstance(value, list):
        return [_placed(part, folders) for part in value]
    if not (isinstance(value, str) and value.startswith("$")):
        return value
    name, _, rest = value[1:].partition("/")
    folder = folders.get(name)
    if folder is None:
        known = ", ".join(f"--{n}" for n in folders)
        raise ConfigError(
            f"plan: '{value}' needs the folder '{name}'; give it with --{name} ({known})"
        )
    return str(folder.absolute() / rest)


def _explained(path: Path, error: ValidationError) -> Iterator[str]:
    for mistake in error.errors(include_url=False):
        field = ".".join(str(part) for part in mistake["loc"]) or "(whole plan)"
        said = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            said = "unknown setting; remove it or mend its spelling"
        yield f"{path}: {field}: {said}"
