"""Finds plug-ins: the built-in ones of each package, and other people's through entry points.

Both become one pydantic union, discriminated by ``type``, so that a config file is checked against
exactly the plug-ins that are installed.
"""

import difflib
from collections.abc import Iterable, Sequence
from functools import reduce
from importlib.metadata import EntryPoint, entry_points
from operator import or_
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, Field, TypeAdapter

from mantlet.errors import ConfigError
from mantlet.plugin import Plugin

P = TypeVar("P", bound=Plugin)


def type_name(plugin: type[BaseModel]) -> str:
    """The name of a plug-in class in config files: the one value of its ``type`` field."""
    names = get_args(plugin.model_fields["type"].annotation)
    if len(names) != 1 or not isinstance(names[0], str):
        raise ConfigError(
            f"plug-in {plugin.__module__}.{plugin.__qualname__}: 'type' must be declared as"
            " type: Literal['its_name'] = 'its_name'"
        )
    return names[0]


def discover(builtin: Sequence[type[P]], group: str, base: type[P]) -> dict[str, type[P]]:
    """Built-in plug-ins and those of the entry-point ``group``, by type name.

    Raises `ConfigError` when an entry point does not load, is of another kind, or takes a taken name.
    """
    found = {type_name(plugin): plugin for plugin in builtin}
    for entry, plugin in load_entries(group):
        if not (isinstance(plugin, type) and issubclass(plugin, base)):
            raise ConfigError(f"{describe(entry)} is no {base.__name__} class")
        if found.get(type_name(plugin), plugin) is not plugin:
            raise ConfigError(
                f"{describe(entry)}: the type name '{type_name(plugin)}' is taken;"
                " rename one of the two"
            )
        found[type_name(plugin)] = plugin
    return found


def load_entries(group: str) -> Iterable[tuple[EntryPoint, object]]:
    """The entry points of a group and what they name; `ConfigError` for one that does not load."""
    for entry in entry_points(group=group):
        try:
            yield entry, entry.load()
        except Exception as error:  # anything can happen in another's module; say whose it was
            raise ConfigError(
                f"{describe(entry)} does not load: {error!r}; mend or uninstall that package"
            ) from error


def describe(entry: EntryPoint) -> str:
    """Whose mistake it is, in words."""
    return f"entry point '{entry.name}' of {entry.group} ({entry.value})"


def parse(plugins: Iterable[type[BaseModel]], settings: object) -> Any:
    """One plug-in from its settings; raises pydantic's ValidationError, which names field and value."""
    return _adapter(tuple(plugins)).validate_python(settings)


def _adapter(plugins: tuple[type[BaseModel], ...]) -> TypeAdapter[Any]:
    if len(plugins) == 1:
        return TypeAdapter(plugins[0])
    return TypeAdapter(Annotated[reduce(or_, plugins), Field(discriminator="type")])  # type: ignore[arg-type]  # a union built at run time


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known one, or all of them.

    >>> did_you_mean("top_j", ["rounding", "top_k"])
    "did you mean 'top_k'?"
    """
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(options)}"
