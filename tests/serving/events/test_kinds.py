from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from serving.events.kinds import ANY_EVENT, TEXT, Closed, Event, EventKind
from tests.serving.events.making import alarm, unban

MODELS: tuple[type[Closed], ...] = get_args(Event)
LEAVES = {"string", "number", "integer", "boolean", "null"}


def leaves(schema: dict[str, Any], named: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a JSON schema that hold values."""
    if "$ref" in schema:
        yield from leaves(named[schema["$ref"].rpartition("/")[2]], named)
    elif "anyOf" in schema:
        for part in schema["anyOf"]:
            yield from leaves(part, named)
    elif schema.get("type") == "array":
        yield from leaves(schema["items"], named)
    elif schema.get("type") == "object":
        assert (schema["additionalProperties"] is False) == ("properties" in schema)
        inside = schema.get("properties") or {"": schema["additionalProperties"]}
        for part in inside.values():
            yield from leaves(part, named)
    else:
        yield schema


def test_every_kind_has_one_form() -> None:
    kinds = [model.model_fields["kind"].default for model in MODELS]

    assert sorted(kinds) == sorted(EventKind)


@pytest.mark.parametrize("model", MODELS)
def test_no_event_can_hold_an_input_an_answer_or_a_key(model: type[Closed]) -> None:
    """Fields are named and closed; none holds a list of numbers or a text without a bound."""
    schema = model.model_json_schema()
    for leaf in leaves(schema, schema.get("$defs", {})):
        assert leaf.get("type") in LEAVES or "enum" in leaf
        if leaf.get("type") == "string":
            assert leaf.get("maxLength") == TEXT or "const" in leaf or "enum" in leaf
    lists = [part["items"] for part in schema["properties"].values() if "items" in part]

    assert schema["additionalProperties"] is False
    assert all(items.get("type") == "string" for items in lists)
    assert not {"input", "inputs", "prediction", "key", "digest_of_key"} & model.model_fields.keys()


def test_an_alarm_carries_what_an_auditor_asks() -> None:
    principal = {"client", "name", "tier"}
    model = {"model", "weights"}
    evidence = {"rows", "suspicion", "detectors", "raised_by", "campaign"}

    assert principal | model | evidence <= type(alarm()).model_fields.keys()


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="inputs"):
        ANY_EVENT.validate_python(unban().model_dump() | {"inputs": [0.5]})


@pytest.mark.parametrize("name", ["n" * 10_000, "\udcff", "a\nb", "é" * 300])
def test_any_name_from_outside_can_be_kept(name: str) -> None:
    event = unban(name)

    assert len(event.name) <= TEXT
    assert ANY_EVENT.validate_json(event.model_dump_json()) == event
