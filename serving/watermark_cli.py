"""The commands ``mantlet watermark``: put a mark into pictures, look for it, and name who they were answered to."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track

from mantlet.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from defenses.watermark.detection import Found
    from serving.watermarking import Batch, Owner

PROVEN = 1e-6
"""A p-value up to that counts as proof that the mark is there."""

app = typer.Typer(help="Mark pictures, and find the mark again.", no_args_is_help=True)
out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

Sources = Annotated[
    list[Path], typer.Argument(help="PNG and JPEG files, folders of them, .npz or .npy arrays.")
]
KeyOption = Annotated[Path | None, typer.Option(help="A file with the key, if no gateway marked.")]
ConfigOption = Annotated[Path | None, typer.Option(help="The config of the gateway that marked.")]
ModelOption = Annotated[
    str, typer.Option(help="Which model of the config; or a name that goes with the key.")
]
SplitOption = Annotated[str, typer.Option(help="Which split of a .npz, such as test.")]
RowsOption = Annotated[str, typer.Option(help="Which rows of arrays, START:STOP.")]
WholeOption = Annotated[
    str, typer.Option(help="WIDTHxHEIGHT before they were cropped, if known: fewer places to try.")
]
ScaleOption = Annotated[
    list[float], typer.Option(help="A factor by which they may have been resized. Repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
SetOption = Annotated[
    list[str], typer.Option("--set", help="Override a setting of the config. Repeatable.")
]


@app.command()
def embed(
    sources: Sources,
    to: Annotated[Path, typer.Option(help="Folder for the marked pictures; PNG.")],
    client: Annotated[str, typer.Option(help="Whom they are for.")],
    key: KeyOption = None,
    config: ConfigOption = None,
    model: ModelOption = "",
    split: SplitOption = "train",
    rows: RowsOption = ":",
    json_: JsonOption = False,
    set_: SetOption = [],
) -> None:
    """Mark SOURCES for a client, as the gateway would."""
    from serving.watermarking import write_picture

    owner = _owner(key, config, model, set_)
    written: list[str] = []
    for batch in _progress(_opened(sources, split, rows), "marking"):
        marked = owner.embed(batch.images, client)
        for image, name in zip(marked, batch.names, strict=True):
            path = to / f"{len(written):06d}-{Path(name).stem}.png"
            write_picture(image, path)
            written.append(path.as_posix())
    if json_:
        typer.echo(json.dumps({"model": owner.model, "client": client, "written": written}))
    else:
        out.print(f"{len(written)} pictures marked for '{client}' in {to}", markup=False)


@app.command()
def detect(
    sources: Sources,
    key: KeyOption = None,
    config: ConfigOption = None,
    model: ModelOption = "",
    each: Annotated[bool, typer.Option(help="A p-value of every picture too.")] = False,
    whole: WholeOption = "",
    scale: ScaleOption = [],
    split: SplitOption = "train",
    rows: RowsOption = ":",
    json_: JsonOption = False,
    set_: SetOption = [],
) -> None:
    """Tell whether SOURCES, together, carry the model's mark: a p-value."""
    owner = _owner(key, config, model, set_)
    single: dict[str, float] = {}

    def batches() -> "Iterator[Tensor]":
        for batch in _progress(_opened(sources, split, rows), "reading"):
            for image, name in zip(batch.images, batch.names, strict=True) if each else ():
                single[name] = _found([image[None]], owner, whole, scale).p
            yield batch.images

    found = _found(batches(), owner, whole, scale)
    if json_:
        typer.echo(json.dumps(_told(owner, found) | ({"each": single} if each else {})))
        return
    for name, p in single.items():
        out.print(f"{name}: p = {p:.3g}", markup=False)
    _show(owner, found)


@app.command()
def trace(
    sources: Sources,
    client: Annotated[list[str], typer.Option(help="Who may have leaked. Repeatable.")] = [],
    clients: Annotated[
        Path | None, typer.Option(help="A file with a name a line; all with a key by default.")
    ] = None,
    key: KeyOption = None,
    config: ConfigOption = None,
    model: ModelOption = "",
    whole: WholeOption = "",
    scale: ScaleOption = [],
    split: SplitOption = "train",
    rows: RowsOption = ":",
    json_: JsonOption = False,
    set_: SetOption = [],
) -> None:
    """Rank clients by how well their marks fit SOURCES, which one of them leaked."""
    owner = _owner(key, config, model, set_)
    names = [*client, *_lines(clients)] or owner.clients()
    if not names:
        raise ConfigError(
            "there are no clients to compare; name them by --client or --clients FILE"
        )
    names = list(dict.fromkeys(names))
    name_of = {owner.known_as(name): name for name in names}
    batches = _progress(_opened(sources, split, rows), "reading")
    found = _found((batch.images for batch in batches), owner, whole, scale)
    suspects = owner.trace(found, list(name_of))
    ranked = [
        {"client": name_of[s.client], "p": s.p, "fit": s.fit, "bits": s.agreeing} for s in suspects
    ]
    if json_:
        typer.echo(json.dumps(_told(owner, found) | {"clients": ranked}))
        return
    _show(owner, found)
    for one in ranked[:5]:
        fit = f"{one['bits']} of 32 bits, fit {one['fit']:.2f}, p = {one['p']:.3g}"
        out.print(f"{one['client']}: {fit}", markup=False)
    out.print(f"{len(ranked)} clients compared; the p-values pay for that.")


def _owner(key: Path | None, config: Path | None, model: str, set_: list[str]) -> "Owner":
    from serving import settings, watermarking

    if (key is None) == (config is None):
        raise ConfigError("give either --config CONFIG of the gateway, or --key FILE")
    if key is not None:
        return watermarking.owner_of_key(key, model)
    assert config is not None
    return watermarking.owner_of_gateway(settings.load(config, set_), model)


def _opened(sources: list[Path], split: str, rows: str) -> "Iterator[Batch]":
    from mantlet.data import parse_rows
    from serving import watermarking

    return watermarking.opened(sources, split=split, rows=parse_rows(rows))


def _found(batches: "Iterable[Tensor]", owner: "Owner", whole: str, scale: list[float]) -> "Found":
    for factor in scale:
        if not 0.1 <= factor <= 10:
            raise ConfigError(f"scale {factor:g}: give a factor from 0.1 to 10")
    return owner.detect(batches, whole=_size(whole), scales=scale)


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    width, x, height = text.partition("x")
    if not (x and width.isdecimal() and height.isdecimal()):
        raise ConfigError(f"whole '{text}': write WIDTHxHEIGHT, such as 256x256")
    return int(height), int(width)


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"clients '{path}' cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _progress(items: "Iterable[Batch]", what: str) -> "Iterator[Batch]":
    yield from track(items, what, console=err, transient=True, disable=not err.is_terminal)


def _told(owner: "Owner", found: "Found") -> dict[str, object]:
    return {
        "model": owner.model,
        "pictures": found.pictures,
        "p": found.p,
        "found": found.p <= PROVEN,
        "way": found.way,
        "scale": found.scale,
    }


def _show(owner: "Owner", found: "Found") -> None:
    ways = {
        "untouched": "as they left",
        "moved": "cropped or mirrored",
        "each": "each cropped or mirrored by itself",
    }
    said = "carry the mark" if found.p <= PROVEN else "show no mark that would prove anything"
    how = f", {ways[found.way]}" if found.p <= PROVEN else ""
    model = f" of '{owner.model}'" if owner.model else ""
    out.print(
        f"{found.pictures} pictures{how}: p = {found.p:.3g}; they {said}{model}.", markup=False
    )
