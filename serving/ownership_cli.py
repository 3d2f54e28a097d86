"""The commands ``mantlet ownership``: is a suspect model a copy that learned from marked answers or pictures?"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
import yaml
from rich.console import Console

from mantlet.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from serving import generator_ownership
    from serving.ownership import Openers, Report
    from serving.settings import Settings
    from serving.suspects import Opening

Told = TypeVar("Told", "Report", "generator_ownership.Report")
app = typer.Typer(help="Find out whether a model is a copy.", no_args_is_help=True)
out = Console(soft_wrap=True, highlight=False)

Suspect = Annotated[
    str,
    typer.Option(
        help="A .safetensors or .onnx file, or http://HOST/v1/models/NAME (or v2); of a generator also a"
        " folder of its pictures, a .zip, .npz or .npy."
    ),
]
Queries = Annotated[
    Path | None,
    typer.Option(
        help="What the thief of a classifier may have asked, or any pictures for a model that translates:"
        " .npz with x or x_SPLIT, or .npy."
    ),
]
Pictures = Annotated[
    int,
    typer.Option(
        min=1, max=100_000, help="Pictures of a generator or translator that are looked at."
    ),
]
Range = Annotated[
    str, typer.Option("--range", help="Black and white in a generator's numbers, such as -1:1.")
]


@app.callback()
def _group() -> None:
    """Keeps ``verify`` a command of its own while it is the only one."""


@app.command()
def verify(
    config: Annotated[
        Path, typer.Argument(help="The config with which the queries were answered.")
    ],
    suspect: Suspect,
    queries: Queries = None,
    pictures: Pictures = 2_000,
    black_white: Range = "",
    split: Annotated[str, typer.Option(help="Which split of a .npz.")] = "train",
    rows: Annotated[str, typer.Option(help="Which rows of it, START:STOP.")] = ":",
    independent: Annotated[
        list[str], typer.Option(help="A model known to be no copy, as a control. Repeatable.")
    ] = [],
    architecture: Annotated[str, typer.Option(help="The architecture of .safetensors files.")] = "",
    setting: Annotated[
        list[str], typer.Option(help="A setting of it, such as width=8. Repeatable.")
    ] = [],
    header: Annotated[
        list[str], typer.Option(help="NAME=VALUE sent to a served model. Repeatable.")
    ] = [],
    model: Annotated[
        str, typer.Option(help="Which model of the config; the only one by default.")
    ] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    set_: Annotated[
        list[str], typer.Option("--set", help="Override a setting: listen.port=9000. Repeatable.")
    ] = [],
) -> None:
    """Tell how likely SUSPECT would show the mark of this service without having learned from its answers.

    Of a classifier it is the mark of defense dawn in what SUSPECT says to the queries; of a generator that of
    defense watermark in the pictures that SUSPECT makes; of a translator that of defense high_band_dither in what
    SUSPECT makes of the queries, beside what the model makes of them.
    """
    from serving import generator_ownership, logs, settings, translator_ownership
    from serving.ownership import Openers

    loaded = settings.load(config, set_)
    logs.configure("warning")
    openers = Openers(
        architecture,
        {name: yaml.safe_load(value) for name, value in _pairs("setting", setting)},
        dict(_pairs("header", header)),
    )
    names: dict[str, Any] = {"suspect": suspect, "independent": independent, "model": model}
    part = (split, rows)
    watermarked = generator_ownership.marks(loaded, model)
    if translator_ownership.marks(loaded, model) and (queries is not None or not watermarked):
        asked = _asked(queries, *part)
        opening = _opening(openers, _range(black_white), part)
        translated = _of_translator(loaded, names, asked, pictures, opening)
        _tell(translated, json_, _show_translators, needed=translated.suspect.needed)
    elif watermarked:
        opening = _opening(openers, _range(black_white), part)
        found = generator_ownership.verify(loaded, count=pictures, opening=opening, **names)
        _tell(found, json_, _show_generators, needed=found.suspect.needed)
    else:
        report = _of_classifier(loaded, names, openers, queries, part)
        _tell(report, json_, _show)


def _of_translator(
    loaded: "Settings",
    names: Mapping[str, Any],
    asked: "np.ndarray",
    count: int,
    opening: "Opening",
) -> "generator_ownership.Report":
    from serving import translator_ownership

    return translator_ownership.verify(loaded, asked, count=count, opening=opening, **names)


def _opening(
    openers: "Openers", output_range: tuple[float, float] | None, part: tuple[str, str]
) -> "Opening":
    from mantlet.data import parse_rows
    from serving.suspects import Opening

    split, rows = part[0], parse_rows(part[1])
    return Opening(
        openers.architecture, openers.settings, openers.headers, output_range, split, rows
    )


def _of_classifier(
    loaded: "Settings",
    names: Mapping[str, Any],
    openers: "Openers",
    queries: Path | None,
    part: tuple[str, str],
) -> "Report":
    from serving import ownership

    return ownership.verify(loaded, _asked(queries, *part), openers=openers, **names)


def _asked(queries: Path | None, split: str, rows: str) -> "np.ndarray":
    from mantlet.data import load_images, parse_rows

    if queries is None:
        raise ConfigError(
            "--queries is missing: give what the thief may have asked (or, of a generator, a config whose model has"
            " defense 'watermark')"
        )
    return load_images(queries, split, parse_rows(rows)).x


def _tell(report: Told, as_json: bool, show: Callable[[Told], None], **more: object) -> None:
    if as_json:
        found = {"found": report.found, "sound": report.sound}
        typer.echo(json.dumps(asdict(report) | found | more))
    else:
        show(report)


def _range(text: str) -> tuple[float, float] | None:
    """``-1:1`` as two numbers."""
    if not text:
        return None
    low, _, high = text.partition(":")
    try:
        black, white = float(low), float(high)
    except ValueError:
        raise ConfigError(f"range '{text}': write BLACK:WHITE, such as -1:1") from None
    if not (math.isfinite(black) and math.isfinite(white) and black != white):
        raise ConfigError(f"range '{text}': black and white are two finite numbers, such as -1:1")
    return black, white


def _pairs(what: str, texts: list[str]) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise ConfigError(f"{what} '{name}{equals}{value}': write it as name=value")
    return [(name, value) for name, _, value in pairs]


def _show(report: "Report") -> None:
    from serving.ownership import verdict

    for what, one in [
        ("suspect", report.suspect),
        *(("independent", o) for o in report.independent),
    ]:
        share = f"{one.named} of {one.marked} marked rows ({one.named / one.marked:.1%})"
        out.print(f"{what} {one.model}: names the mark on {share}, p = {one.p:.3g}", markup=False)
    out.print(
        f"{report.queries} queries fall in {report.cells} cells of the hash; the key marks"
        f" {report.marked_cells} of them at a rate of {report.rate:g}."
    )
    for line in verdict(report):
        out.print(line, markup=False)


def _show_generators(report: "generator_ownership.Report") -> None:
    from serving.generator_ownership import verdict

    _show_pictures(report, verdict(report))


def _show_translators(report: "generator_ownership.Report") -> None:
    from serving.translator_ownership import verdict

    _show_pictures(report, verdict(report))


def _show_pictures(report: "generator_ownership.Report", said: Sequence[str]) -> None:
    for what, one in [
        ("suspect", report.suspect),
        *(("independent", o) for o in report.independent),
    ]:
        along = ", ".join(f"{count:,}: {p:.1g}" for count, p in one.along.items())
        needed = f"; proven from {one.needed:,} on" if one.needed else ""
        line = f"{what} {one.model}: p = {one.p:.3g} of {one.pictures:,} pictures ({along}){needed}"
        out.print(line, markup=False)
    for line in said:
        out.print(line, markup=False)
