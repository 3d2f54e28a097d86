"""What the command line says of one theft, checked before anything is sent."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from mantlet.data import Images, load_images, parse_rows
from mantlet.errors import ConfigError, TargetError
from mantlet.registry import did_you_mean
from mantlet.types import InputSpec
from redteam import attacks
from redteam.attacks.attack import Attack
from redteam.client.oracle import Refused
from redteam.client.tape import records_of
from redteam.client.wire import Model
from redteam.learning import Means
from redteam.theft.attacking import TAPE, Protocol, Target, Thief
from serving.settings import assign

PICTURES = "i2i"
"""The attack on models that translate, which `redteam.theft.pictures` prepares."""
GENERATORS = "gan"
"""The attack on models that generate, which `redteam.theft.generators` prepares."""
CLASSIFIERS = ""
"""All other attacks."""
By = Literal["latents", "seeds"]
"""How a generator is asked for a picture."""
USERS = {
    "label_only": (CLASSIFIERS,),
    "classes": (CLASSIFIERS,),
    "eval": (CLASSIFIERS, PICTURES),
    "ask_eval": (CLASSIFIERS, PICTURES),
    "eval_key": (CLASSIFIERS, PICTURES),
    "cover": (CLASSIFIERS, PICTURES),
    "jitter": (CLASSIFIERS, PICTURES),
    "by": (GENERATORS,),
    "features": (GENERATORS,),
}
"""The attacks that use an option; for others it is a mistake. All other options are of all."""


class Order(BaseModel):
    """The options of ``mantlet attack`` by their names, within their bounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    target: str
    model: str
    out: Path
    budget: PositiveInt
    eval: Path | None = None
    surrogate: Path | None = None
    key: tuple[str, ...] = ()
    keys_file: Path | None = None
    split: bool = True
    set: tuple[str, ...] = ()
    label_only: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    average: PositiveInt = 1
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    cover: Path | None = None
    cover_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    clone: str = ""
    clone_set: tuple[str, ...] = ()
    classes: Annotated[int, Field(ge=0)] = 0
    surrogate_split: str = "train"
    surrogate_rows: str = ":"
    eval_rows: str = ":"
    ask_eval: bool = False
    eval_key: str = ""
    by: By = "latents"
    features: Path | None = None
    protocol: Protocol = "v2"
    batch: PositiveInt = 32
    concurrency: PositiveInt = 1
    patience: PositiveFloat = 60.0

    @classmethod
    def of(cls, **options: object) -> "Order":
        """Raises `ConfigError` with a line a mistake."""
        try:
            order = cls.model_validate(options)
        except ValidationError as error:
            lines = (
                f"--{str(m['loc'][0]).replace('_', '-')} {m['input']}: {m['msg']}"
                for m in error.errors(include_url=False)
            )
            raise ConfigError("\n".join(lines)) from error
        order._refuse_unused()
        return order

    def _refuse_unused(self) -> None:
        """Raise for options that would be ignored."""
        kind = self.name if self.name in (PICTURES, GENERATORS) else CLASSIFIERS
        for option in (option for option, users in USERS.items() if kind not in users):
            if getattr(self, option) != type(self).model_fields[option].default:
                raise ConfigError(
                    f"attack '{self.name}' does not use --{option.replace('_', '-')}; leave it out"
                )

    @property
    def aim(self) -> Target:
        """Where the attack goes."""
        return Target(
            self.target,
            self.model,
            read_keys(self.key, self.keys_file),
            protocol=self.protocol,
            batch=self.batch,
            concurrency=self.concurrency,
            patience_s=self.patience,
            split=self.split,
        )

    @property
    def asks_with(self) -> str | None:
        """The key that the judged rows are asked with, empty for an open gateway; nothing if they are not."""
        if self.eval_key:
            return self.eval_key
        keys = self.aim.keys
        return (keys[0] if keys else "") if self.ask_eval else None

    @property
    def choice(self) -> dict[str, Any]:
        """Which of the surrogate's rows the thief has."""
        return {"split": self.surrogate_split, "rows": parse_rows(self.surrogate_rows)}

    @property
    def judges(self) -> Path:
        """The file that judges the clone; raises `ConfigError` where there is none."""
        if self.eval is None:
            raise ConfigError(
                f"attack '{self.name}' has nothing to judge its clone by; give --eval"
            )
        return self.eval


def prepared(order: Order) -> tuple[Target, Thief, Images]:
    """Everything that a theft needs, read and checked; the target is asked what it is, and no row is sent."""
    attack = parse_attack(order.name, order.set, label_only=order.label_only)
    require_own(order.out)
    target = order.aim
    model = look(target, order.eval_key)
    if model is not None and model.made:
        raise ConfigError(
            f"model '{order.model}' answers pictures; attack '{order.name}' is for a classifier: take"
            f" {PICTURES} of one that translates, {GENERATORS} of one that generates"
        )
    judged = pictures(order.judges, "eval", model, split="test", rows=parse_rows(order.eval_rows))
    if judged.y is None:
        raise ConfigError(
            f"eval '{order.judges}' has no labels; give a .npz with x_test and y_test"
        )
    thief = Thief(
        attack,
        _means(order, attack, model, judged),
        order.budget,
        order.seed,
        order.average,
        order.jitter,
        None if order.cover is None else rows_of(order.cover, "cover", model),
        order.cover_share,
    )
    records_of(order.out / TAPE, thief.header(target))
    return target, thief, judged


def _means(order: Order, attack: Attack, model: Model | None, judged: Images) -> Means:
    """The thief's pictures and its network, which is tried on one of them."""
    if attack.needs_pool and order.surrogate is None:
        raise ConfigError(f"attack '{order.name}' asks about pictures of its own; give --surrogate")
    pool = torch.zeros(0, *judged.x.shape[1:])
    if order.surrogate is not None:
        pool = rows_of(order.surrogate, "surrogate", model, **order.choice)
    assert judged.y is not None
    told = model.classes if model is not None else None
    most = int(judged.y.max())
    classes = order.classes or told or most + 1
    if most >= classes:
        raise ConfigError(
            f"eval '{order.judges}' has label {most}, the target {classes} classes; give pictures of the"
            " target's classes, numbered from 0"
        )
    means = Means(pool, classes, *clone_of(order, judged.x.shape[1:]))
    try:
        means.network(torch.Generator().manual_seed(0)).eval()(torch.from_numpy(judged.x[:1]))
    except RuntimeError as error:
        raise ConfigError(
            f"the clone '{means.architecture}' does not take pictures of shape {judged.x.shape[1:]};"
            " leave --clone out, or name an architecture that does"
        ) from error
    return means


def clone_of(order: Order, shape: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    """The clone's architecture and settings: unless told, one that takes rows of ``shape``, such as (1, 28, 28)."""
    own = parsed(order.clone_set)
    name = order.clone or ("lenet" if shape == (1, 28, 28) else "resnet")
    if order.clone or name == "lenet":
        return name, own or {"width": 8}
    return name, {"width": 8, "channels": shape[0]} | own


def parse_attack(name: str, sets: Iterable[str], *, label_only: bool = False) -> Attack:
    """An attack by its type, with ``field=value`` settings (YAML values, a.b for a field of a field)."""
    known = attacks.known()
    if name not in known:
        raise ConfigError(
            f"attack '{name}' is unknown; {did_you_mean(name, [*known, PICTURES, GENERATORS])}"
        )
    raw = parsed(sets)
    if label_only:
        raw["treatments"] = [{"type": "labels"}, *raw.get("treatments", [])]
    return validated(known[name], raw)


Kind = TypeVar("Kind", bound=BaseModel)


def validated(attack: type[Kind], raw: dict[str, Any]) -> Kind:
    """An attack with its settings; raises `ConfigError` with a line a mistake."""
    try:
        return attack.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_explained(attack, error))) from error


def parsed(sets: Iterable[str]) -> dict[str, Any]:
    """``field=value`` texts as nested settings, a.b for a field of a field."""
    raw: dict[str, Any] = {}
    for text in sets:
        assign(raw, text, what="setting", example="training.steps=500")
    return raw


def _explained(attack: type[BaseModel], error: ValidationError) -> Iterator[str]:
    for mistake in error.errors(include_url=False):
        field = ".".join(str(part) for part in mistake["loc"])
        said = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            said = f"is no setting; {did_you_mean(field, attack.model_fields)}"
        yield f"attack '{attack.model_fields['type'].default}': {field}: {said}"


def read_keys(keys: Sequence[str], file: Path | None) -> list[str]:
    """Keys of the command line, and of a file with one a line; empty lines and # comments are none."""
    if file is None:
        return list(keys)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"keys '{file}' cannot be read: {error}") from error
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise ConfigError(f"keys '{file}' has none; write one key a line")
    return [*keys, *found]


def look(target: Target, judge: str = "") -> Model | None:
    """What the target says of the model, asked with every key; nothing where it speaks V1 alone.

    Raises `ConfigError` for a key that it does not know, that of the ``judge`` too, and where it denies
    all accounts.
    """
    found, refused = [], []
    for key in target.credentials:
        with target.account(key) as account:
            try:
                found.append(account.describe())
            except Refused as refusal:
                refused.append(str(refusal))
            except (TargetError, ConfigError):
                if target.protocol != "v1":
                    raise
                return None
    if judge and target.protocol != "v1":
        with target.account(judge) as account, suppress(Refused):  # one that is denied asks nothing
            account.describe()
    if not found:
        raise ConfigError(f"{refused[0]}; give a key of an account that is not denied")
    return found[0]


def require_own(out: Path) -> None:
    """Raise `ConfigError` for an output folder that is something else."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out '{out}' is a file; give a folder")
    if out.exists() and any(out.iterdir()) and not (out / TAPE).is_file():
        raise ConfigError(f"out '{out}' holds other things and no run; give a new folder")


def pictures(path: Path, what: str, model: Model | None, **choice: Any) -> Images:
    """Rows of a file that have the shape of the model's; ``what`` names them in the error."""
    images = load_images(path, **choice)
    shape = images.x.shape[1:]
    if model is not None and not InputSpec(model.shape).takes(shape):
        raise ConfigError(
            f"{what} '{path}' has pictures of shape {shape}; the target's model takes {model.shape}"
        )
    return images


def rows_of(path: Path, what: str, model: Model | None, **choice: Any) -> torch.Tensor:
    """(n, *shape) `pictures` without what is known of them."""
    return torch.from_numpy(pictures(path, what, model, **choice).x)
