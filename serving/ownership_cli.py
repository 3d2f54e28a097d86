"""The commands ``mantlet ownership``: is a suspect model a copy that learned from marked answers?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console

from mantlet.errors import ConfigError

if TYPE_CHECKING:
    from serving.ownership import Report

app = typer.Typer(help="Find out whether a model is a copy.", no_args_is_help=True)
out = Console(soft_wrap=True, highlight=False)


@app.callback()
def _group() -> None:
    """Keeps ``verify`` a command of its own while it is the only one."""


@app.command()
def verify(
    config: Annotated[
        Path, typer.Argument(help="The config with which the queries were answered.")
    ],
    suspect: Annotated[
        str,
        typer.Option(help="A .safetensors or .onnx file, or http://HOST/v1/models/NAME (or v2)."),
    ],
    queries: Annotated[
        Path, typer.Option(help="What the thief may have asked: .npz with x or x_SPLIT, or .npy.")
    ],
    split: Annotated[str, typer.Option(help="Which split of the .npz.")] = "train",
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
    """Tell how likely SUSPECT would show the mark of defense dawn without having learned from its answers."""
    from mantlet.data import load_images, parse_rows
    from serving import logs, ownership, settings

    loaded = settings.load(config, set_)
    logs.configure("warning")
    report = ownership.verify(
        loaded,
        load_images(queries, split, parse_rows(rows)).x,
        suspect,
        independent=independent,
        model=model,
        openers=ownership.Openers(
            architecture,
            {name: yaml.safe_load(value) for name, value in _pairs("setting", setting)},
            dict(_pairs("header", header)),
        ),
    )
    if json_:
        found = {"found": report.found, "sound": report.sound}
        typer.echo(json.dumps(asdict(report) | found))
    else:
        _show(report)


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
