"""What the conformance suite draws, and how it asks: settings within their schema, probabilities, rows alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from mantlet.plugin import Defense, Plugin
from mantlet.types import Prediction, Query, Signal

LARGEST = 10**18
"""Drawn for a number whose schema names no upper bound."""


def settings_of(plugin: type[Plugin], **chosen: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Instances of a plug-in with every setting drawn from its schema, or as ``chosen``."""
    fields = plugin.model_json_schema()["properties"]
    drawn = {
        name: chosen[name] if name in chosen else _values(field)
        for name, field in fields.items()
        if name not in ("type", "name")
    }
    return st.fixed_dictionaries({}, optional=drawn).map(lambda settings: plugin(**settings))


def _values(field: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "enum" in field:
        return st.sampled_from(field["enum"])
    if "anyOf" in field:
        return st.one_of(*map(_values, field["anyOf"]))
    if field.get("type") == "null" or field.get("format") == "path":  # a file is never drawn
        return st.none()
    if field.get("type") == "object":  # settings of another thing
        return st.just({})
    if field.get("type") == "string":  # the name of one
        return st.just(field["default"])
    if field.get("type") == "boolean":
        return st.booleans()
    if field.get("type") == "integer":
        low = field.get("minimum", field.get("exclusiveMinimum", -1) + 1)
        high = field.get("maximum", field.get("exclusiveMaximum", LARGEST + 1) - 1)
        return st.integers(low, high)
    if field.get("type") == "number":
        return st.floats(
            field.get("minimum", field.get("exclusiveMinimum", -LARGEST)),
            field.get("maximum", field.get("exclusiveMaximum", LARGEST)),
            exclude_min="exclusiveMinimum" in field,
            exclude_max="exclusiveMaximum" in field,
        )
    if field.get("type") == "array":
        items = _values(field["items"])
        return st.lists(items, min_size=field.get("minItems", 0), unique=True).map(tuple)
    raise NotImplementedError(f"draw {field} in tests/conformance/strategies.py")


@st.composite
def rows_of_probabilities(draw: st.DrawFn, max_rows: int = 6, max_classes: int = 100) -> Tensor:
    """(B, C) float32 rows of every sort: smooth, sharp, tied, one-hot, uniform, nearly tied."""
    classes = draw(st.integers(2, max_classes) | st.just(10))
    kinds = st.sampled_from(["smooth", "sharp", "tied", "one_hot", "uniform", "near_tie", "coarse"])
    rows = draw(st.lists(st.tuples(kinds, st.integers(0, 2**31)), min_size=1, max_size=max_rows))
    return torch.stack([_row(kind, classes, seed) for kind, seed in rows])


def _row(kind: str, classes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(classes, generator=generator, dtype=torch.float64)
    first, second = torch.randperm(classes, generator=generator)[:2].tolist()
    if kind == "uniform":
        row = torch.full((classes,), 1.0 / classes, dtype=torch.float64)
    elif kind == "one_hot":
        row = torch.nn.functional.one_hot(torch.tensor(first), classes).double()
    elif kind == "tied":  # two classes share the top
        row = torch.softmax(noise, dim=0)
        row[first] = row[second] = row.max() * 1.5
    elif kind == "near_tie":  # a lead of about one unit in the last place
        row = torch.softmax(0.1 * noise, dim=0)
        row[first] = row.max()
        row[second] = row[first] * (1 + 2e-7)
    elif kind == "coarse":  # many ties: a few levels only
        row = torch.softmax(noise, dim=0).mul(20).ceil()
    else:
        row = torch.softmax(noise * (30.0 if kind == "sharp" else 1.0), dim=0)
    return (row / row.sum()).float()


def one_by_one(
    defense: Defense, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
) -> Tensor:
    """(B, ...) what a defense answers to each row of what it is asked by itself."""
    answers = []
    for index in range(len(query.clients)):
        one = slice(index, index + 1)
        alone = Query(query.clients[one], query.inputs[one], query.at)
        heard = {n: Signal(s.suspicion[one], s.alarm[one], s.reason) for n, s in signals.items()}
        part = replace(prediction, values=prediction.values[one])
        answers.append(defense(part, alone, heard).values)
    return torch.cat(answers)
