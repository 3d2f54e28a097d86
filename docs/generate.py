"""Writes the parts of the documentation that can rot, between markers, from the code itself.

``python -m docs.generate`` replaces what stands between ``<!-- generated: NAME -->`` and
``<!-- end -->`` in every page. A test fails when a page is not what this would write.
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, get_args

import typer
import yaml
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import defenses
import detectors
from docs import (
    copying,
    detection,
    explained,
    marked,
    measured,
    owned,
    protection,
    stealing,
    translating,
)
from docs.tables import table
from mantlet import architectures
from mantlet.plugin import Defense, Detector, InputDefense, Plugin
from redteam.cli import app
from serving import victims
from serving.app import routes
from serving.campaigns import Search
from serving.drift import Watch
from serving.events.kinds import Closed, Event, Opinion
from serving.events.webhook import Webhook
from serving.explaining import Explain
from serving.metrics import Metrics
from serving.openapi import document
from serving.policy import Level
from serving.service import Service
from serving.settings import Admin, Identity, Listen, Model, Queue, Settings, Tier
from serving.stores.memory import MemoryStore
from serving.victims.base import VictimPlugin

FOLDER = Path(__file__).parent
PACKAGES = ("mantlet", "defenses", "detectors", "serving")
MARKED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SECTIONS: Mapping[str, type[BaseModel]] = {
    "": Settings,
    "listen": Listen,
    "admin": Admin,
    "identity": Identity,
    "webhook": Webhook,
    "tiers.NAME": Tier,
    "models.NAME": Model,
    "models.NAME.explain": Explain,
    "models.NAME.queue": Queue,
    "models.NAME.policy": Level,
    "models.NAME.campaigns": Search,
    "models.NAME.drift": Watch,
}
"""Sections of the config file by where they stand in it."""


def main() -> None:
    """Write every page anew and tell which ones changed."""
    for path in pages():
        before = path.read_text(encoding="utf-8")
        after = render(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            sys.stdout.write(f"{path}\n")


def pages() -> list[Path]:
    """The Markdown files of the documentation, the README among them."""
    return [FOLDER.parent / "README.md", *sorted(FOLDER.rglob("*.md"))]


def render(page: str) -> str:
    """The page with all its generated parts as they should be."""
    return MARKED.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n\n{found[3]}", page)


def settings() -> str:
    """Every section of the config file."""
    return "\n\n".join(_section(name, section) for name, section in SECTIONS.items())


def _section(name: str, section: type[BaseModel]) -> str:
    title = f"### `{name}`" if name else "### The top of the file"
    return "\n\n".join([title, described(section), table_of(section)])


def victim_settings() -> str:
    """What every victim takes, and then each kind."""
    parts = ["### Every victim", described(VictimPlugin), table_of(VictimPlugin, without=Plugin)]
    for name, victim in _of_ours(victims.known(), victims.BUILTIN):
        parts += [f"### `type: {name}`", described(victim), table_of(victim, without=VictimPlugin)]
    parts += ["### Architectures", "What `architecture` of a torch victim may be."]
    rows = [(f"`{n}`", first_line(a)) for n, a in sorted(architectures.BUILTIN.items())]
    return "\n\n".join([*parts, table(("architecture", "what it is"), rows)])


def defense_pages() -> str:
    """What every defense takes, and every built-in one."""
    parts = ["### Every defense", table_of(Defense, without=Plugin)]
    ours = _of_ours(defenses.known(), defenses.BUILTIN)
    return "\n\n".join([*parts, *(_plugin(n, p, Defense) for n, p in ours)])


def input_defense_pages() -> str:
    """Every built-in input defense."""
    ours = _of_ours(defenses.known_inputs(), defenses.INPUTS)
    return "\n\n".join(_plugin(n, p, Plugin) for n, p in ours)


def detector_pages() -> str:
    """Every built-in detector."""
    return "\n\n".join(
        _plugin(n, p, Plugin) for n, p in _of_ours(detectors.known(), detectors.BUILTIN)
    )


def _of_ours(
    known: Mapping[str, type[Plugin]], builtin: Iterable[type[Plugin]]
) -> Iterator[tuple[str, type[Plugin]]]:
    """What comes with Mantlet, by type; what else is installed here is nobody's business there."""
    ours = set(builtin)
    return ((name, plugin) for name, plugin in sorted(known.items()) if plugin in ours)


def _plugin(name: str, plugin: type[Plugin], base: type[Plugin]) -> str:
    parts = [f"### `{name}`", described(plugin), f"*{_promise(plugin)}*"]
    if own_fields(plugin, base):
        parts.append(table_of(plugin, without=base))
    return "\n\n".join(parts)


def _promise(plugin: type[Plugin]) -> str:
    if issubclass(plugin, Defense):
        kinds = ", ".join(sorted(plugin.kinds))
        top = "The top class stays." if plugin.keeps_top1 else "The top class may change."
        return f"{top} Works on {kinds}."
    if issubclass(plugin, InputDefense):
        return f"For models that {', '.join(sorted(plugin.tasks))}."
    assert issubclass(plugin, Detector)
    watches = f"Watches models that {', '.join(sorted(plugin.tasks))}."
    if plugin.needs_calibration:
        return f"{watches} Needs a calibration; without one it only observes."
    return f"{watches} Needs no calibration."


def metrics() -> str:
    """Every metric by its name in Prometheus."""
    found = [m for m in vars(Metrics()).values() if isinstance(m, MetricWrapperBase)]
    rows = [
        (
            f"`{m._name}{'_total' * (m._type == 'counter')}`",
            str(m._type),
            ", ".join(f"`{label}`" for label in m._labelnames) or "-",
            str(m._documentation),
        )
        for m in found
    ]
    return table(("metric", "kind", "labels", "what it counts"), rows)


def events() -> str:
    """Every event that is logged, with its fields."""
    found: dict[str, tuple[str, list[str]]] = {}
    for call in calls("info", "warning", "error", "exception"):
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "log":
            fields = [keyword.arg for keyword in call.keywords if keyword.arg]
            found[ast.literal_eval(call.args[0])] = (call.func.attr, fields)
    rows = [
        (f"`{name}`", "error" if level == "exception" else level, _names(fields))
        for name, (level, fields) in sorted(found.items())
    ]
    return table(("event", "level", "fields"), rows)


def event_kinds() -> str:
    """Every kind of event of the event log, and then every field."""
    kinds, fields = [], {}
    for model in get_args(Event):
        names = [name for name in model.model_fields if name != "kind"]
        kind = model.model_fields["kind"].default
        kinds.append((f"`{kind}`", first_line(model), _names(names)))
        for part in (m for m in reversed(model.__mro__) if issubclass(m, Closed)):
            for name, meaning in meanings(part).items():
                fields[name, meaning] = (f"`{name}`", code(meaning.replace("\n    ", " ")))
    fields |= {(n, m): (f"`detectors.NAME.{n}`", m) for n, m in meanings(Opinion).items()}
    return "\n\n".join(
        [table(("kind", "when", "fields"), kinds), table(("field", "meaning"), fields.values())]
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"


def paths() -> str:
    """Every path of the clients' port."""
    service = any_service()
    documented = document(service.settings)["paths"]
    rows = []
    for route in routes(service):
        method = min(route.methods or {"GET"})
        operation = documented[route.path][method.lower()]
        key = "key" if operation["security"] else "-"
        rows.append((method, f"`{route.path}`", operation["summary"], key))
    order = sorted(rows, key=lambda row: row[1])
    return table(("method", "path", "what it is", "needs"), order)


def any_service() -> Service:
    """A gateway with a model, which nothing is asked of."""
    victim = {"type": "upstream", "url": "http://127.0.0.1", "model": "m"}
    settings = Settings.model_validate({"models": {"m": {"victim": victim}}})
    store = MemoryStore(lambda: 0.0, 1.0)
    return Service(settings, store, None, None, lambda: 0.0)  # type: ignore[arg-type]  # nobody asks


def commands() -> str:
    """Every command with its arguments and options."""
    return "\n\n".join(_command(name, command) for name, command in command_tree())


def command_tree() -> list[tuple[str, Any]]:
    """Commands by what is typed, groups opened."""
    root: Any = typer.main.get_command(app)
    found: list[tuple[str, Any]] = [("mantlet", root)]
    for name, command in root.commands.items():
        inner = getattr(command, "commands", {"": command})
        found += [(f"mantlet {name} {n}".strip(), c) for n, c in inner.items()]
    return found


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([name, *(p.name.upper() for p in arguments), "[OPTIONS]"])
    rows = [(_option(p), p.help or "", _default(p)) for p in command.params]
    rows.append(("`--help`", "Show what the command takes.", "-"))
    parts = [f"### `{name}`", f"```text\n{usage}\n```", inspect.cleandoc(command.help)]
    return "\n\n".join([*parts, table(("argument or option", "what it is", "default"), rows)])


def _option(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default in (None, "", [], False):
        return "-"
    return f"`{parameter.default}`"


def table_of(model: type[BaseModel], *, without: type[BaseModel] = BaseModel) -> str:
    """A table of a model's settings, less those of a base."""
    schema = model.model_json_schema()
    rows = []
    for name, field in own_fields(model, without).items():
        shown = field.alias or name
        kind = _kind(schema["properties"][shown], schema.get("$defs", {}))
        rows.append((f"`{shown}`", kind, default_of(field), code(meanings(model).get(name, ""))))
    if any(row[3] for row in rows):
        return table(("setting", "takes", "default", "meaning"), rows)
    return table(("setting", "takes", "default"), [row[:3] for row in rows])


def own_fields(model: type[BaseModel], without: type[BaseModel]) -> dict[str, FieldInfo]:
    """Settings of a model that its base does not have; ``type`` is the name, not a setting."""
    inherited = without.model_fields.keys() | ({"type"} if issubclass(model, Plugin) else set())
    return {name: f for name, f in model.model_fields.items() if name not in inherited}


@cache
def meanings(model: type[BaseModel]) -> Mapping[str, str]:
    """What the string under each field says, there or in a base."""
    (definition,) = (
        node
        for node in ast.walk(ast.parse(Path(inspect.getfile(model)).read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name == model.__name__
    )
    bases = [
        base for base in model.__bases__ if issubclass(base, BaseModel) and base is not BaseModel
    ]
    found = {name: text for base in bases for name, text in meanings(base).items()}
    for field, following in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            found[field.target.id] = str(following.value.value)
    return {name: text for name, text in found.items() if name in model.model_fields}


def _kind(schema: Mapping[str, Any], named: Mapping[str, Any]) -> str:
    """In words, what a part of a JSON schema allows."""
    if "$ref" in schema:
        return _kind(named[schema["$ref"].rpartition("/")[2]], named)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(part, named) for part in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{v}`" for v in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}), named)}"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"map to {_kind(inner, named)}" if isinstance(inner, dict) else "section"
    words = {"integer": "whole number", "boolean": "`true`, `false`", "string": "text"}
    special = {"path": "path", "password": "secret"}.get(schema.get("format", ""), "")
    return special or words.get(kind, kind) + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {number(schema[key])}" for key, sign in signs.items() if key in schema]
    return " " + ", ".join(found) if found else ""


def default_of(field: FieldInfo) -> str:
    """The default as it would stand in the config file."""
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, SecretStr):
        return "-"
    return f"`{_yaml(value)}`"


def _yaml(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    if value is None:
        return "null"
    if isinstance(value, BaseModel):
        return _yaml(value.model_dump(mode="json", exclude_defaults=True))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if value == "":
        return '""'
    return yaml.safe_dump(str(value) if isinstance(value, (Path, StrEnum)) else value).split("\n")[
        0
    ]


def number(value: float) -> str:
    """A number as YAML reads it.

    >>> number(15552000.0), number(1e-06), number(0.97)
    ('15552000', '1.0e-06', '0.97')
    """
    if value == int(value):
        return str(int(value))
    digits, e, power = f"{value:.6g}".partition("e")
    return digits + ".0" * (e != "" and "." not in digits) + e + power


def described(thing: type) -> str:
    """The docstring of a class as Markdown, with its examples in fences."""
    blocks = re.split(r"\n\n", inspect.getdoc(thing) or "")
    return "\n\n".join(
        f"```pycon\n{block}\n```" if block.startswith(">>>") else code(block) for block in blocks
    )


def first_line(thing: object) -> str:
    """What a docstring says first, as Markdown."""
    return code((inspect.getdoc(thing) or "").partition("\n")[0])


def code(text: str) -> str:
    """Markdown's backticks in place of those of docstrings."""
    return text.replace("``", "`")


def calls(*methods: str) -> Iterator[ast.Call]:
    """Calls of functions or methods with these names, anywhere in the packages."""
    for package in PACKAGES:
        for path in sorted((FOLDER.parent / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and _called(node) in methods:
                    yield node


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)


PARTS: Mapping[str, Callable[[], str]] = {
    "serving": measured.serving,
    "redis": measured.redis,
    "faults": measured.faults,
    "detection_honest": lambda: measured.table_of(detection.honest()),
    "detection_thieves": lambda: measured.table_of(detection.thieves(detection.plain_attacks())),
    "detection_enrolled": lambda: measured.table_of(
        detection.thieves(detection.enrolled_attacks())
    ),
    "detection_diluted": lambda: measured.table_of(detection.thieves(detection.diluted_attacks())),
    "detection_campaigns": lambda: measured.table_of(detection.campaigns()),
    "detection_published": lambda: measured.table_of(detection.published()),
    "detection_cost": lambda: measured.table_of(detection.costs()),
    "ownership_thieves": lambda: measured.table_of(owned.thieves()),
    "ownership_controls": lambda: measured.table_of(owned.controls()),
    "gan_budgets": copying.budgets,
    "gan_defenses": copying.defenses,
    "gan_thieves": copying.thieves,
    "gan_proofs": copying.proofs,
    "gan_missed": copying.missed,
    "watermark_nulls": lambda: measured.table_of(marked.nulls()),
    "watermark_generated": lambda: measured.table_of(marked.generated()),
    "watermark_traced": lambda: measured.table_of(marked.traced()),
    "watermark_washed": lambda: measured.table_of(marked.washed()),
    "watermark_colluding": lambda: measured.table_of(marked.colluding()),
    "watermark_missed": marked.missed,
    "watermark_fidelity": lambda: measured.table_of(marked.faithful()),
    "watermark_copied": lambda: measured.table_of(marked.copied()),
    "watermark_photographs": lambda: measured.table_of(marked.photographs()),
    "watermark_speed": lambda: measured.table_of(marked.speed()),
    "explanations_thefts": explained.thefts,
    "explanations_cosines": explained.cosines,
    "explanations_settings": explained.settings,
    "explanations_floors": explained.floors,
    "attacks": stealing.listed,
    "art": stealing.art,
    "protection": protection.protection,
    "protection_short": protection.short,
    "protection_attackers": protection.attackers,
    "protection_limits": protection.limits,
    "protection_controls": protection.controls,
    "translation_attacks": lambda: measured.table_of(translating.attacks()),
    "translation_gains": lambda: measured.table_of(translating.gains()),
    "translation_shields": lambda: measured.table_of(translating.shields()),
    "translation_marks": lambda: measured.table_of(translating.marks()),
    "translation_alone": lambda: measured.table_of(translating.alone()),
    "translation_floors": lambda: measured.table_of(translating.floors()),
    "settings": settings,
    "victims": victim_settings,
    "defenses": defense_pages,
    "input_defenses": input_defense_pages,
    "detectors": detector_pages,
    "metrics": metrics,
    "events": events,
    "event_kinds": event_kinds,
    "paths": paths,
    "commands": commands,
}

if __name__ == "__main__":
    main()
