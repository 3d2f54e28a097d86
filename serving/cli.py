"""The command line: serve, check, keys, events, calibrate, campaigns, train, convert, plugins, doctor."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mantlet import __version__
from mantlet.errors import MantletError
from serving import ownership_cli, watermark_cli
from serving.events.kinds import EventKind

if TYPE_CHECKING:
    from serving.calibrating import Column

app = typer.Typer(
    help="A gateway that makes a served model expensive, visible and provable to steal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
keys_app = typer.Typer(
    help="Create, list and revoke the API keys of clients.", no_args_is_help=True
)
app.add_typer(keys_app, name="keys")
events_app = typer.Typer(
    help="Read and check the log of alarms, refusals and changes.", no_args_is_help=True
)
app.add_typer(events_app, name="events")
app.add_typer(ownership_cli.app, name="ownership")
app.add_typer(watermark_cli.app, name="watermark")
out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

ConfigArgument = Annotated[Path, typer.Argument(help="The gateway's YAML config.")]
SetOption = Annotated[
    list[str], typer.Option("--set", help="Override a setting: listen.port=9000. Repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def main() -> None:
    """Run the command line; a user's mistake is one clear line and exit code 2."""
    try:
        app()
    except MantletError as error:
        for line in str(error).splitlines():
            err.print(f"mantlet: {line}", markup=False)
        sys.exit(2)


def _version(show: bool) -> None:
    if show:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def serve(config: ConfigArgument, set_: SetOption = []) -> None:  # typer reads it
    """Serve the models of CONFIG behind their defenses."""
    from serving import runner, settings

    runner.run(settings.load(config, set_), config, set_, typer.echo)


@app.command()
def check(config: ConfigArgument, set_: SetOption = []) -> None:  # typer reads it
    """Find every mistake in CONFIG that serve would find, without serving."""
    from serving import checks, settings

    report = checks.check(settings.load(config, set_))
    for warning in report.warnings:
        err.print(f"warning: {config}: {warning}", markup=False)
    for mistake in report.mistakes:
        err.print(f"mantlet: {config}: {mistake}", markup=False)
    if report.mistakes:
        raise typer.Exit(2)
    warned = f", apart from the warnings: {len(report.warnings)}" if report.warnings else ""
    out.print(f"{config}: good{warned}", markup=False)


@keys_app.command("create")
def keys_create(
    client: Annotated[
        str, typer.Option(help="Whose key it is; all keys of a client count as one.")
    ],
    tier: Annotated[str, typer.Option(help="A tier of the config.")] = "default",
    identity: Annotated[
        str, typer.Option(help="Who pays for the client; defenses may count its clients as one.")
    ] = "",
    config: Annotated[Path, typer.Option(help="The gateway's config.")] = Path("mantlet.yaml"),
    json_: JsonOption = False,
) -> None:
    """Create a key and print it, this once."""
    from serving import build, settings
    from serving.admission import client_id
    from serving.app import wall_clock
    from serving.events.kinds import KeyCreated
    from serving.keys import KeyFile

    loaded = settings.load(config)
    settings.require_tier(loaded, tier)
    events = build.open_events(loaded, wall_clock)
    events.begin()  # what cannot be told is not done
    keys = KeyFile(build.keys_path(loaded))
    text, key = keys.create(client, tier, wall_clock(), identity=identity)
    who = client_id(build.secret_of(loaded), client)
    events.write(KeyCreated(client=who, name=client, tier=tier, key_id=key.id))
    if json_:
        typer.echo(json.dumps({"id": key.id, "client": client, "tier": tier, "key": text}))
        return
    typer.echo(text)
    err.print(
        f"Key {key.id} of {client}, tier {tier}. It is shown only now; only its hash is kept."
    )


@keys_app.command("list")
def keys_list(
    config: Annotated[Path, typer.Option(help="The gateway's config.")] = Path("mantlet.yaml"),
    json_: JsonOption = False,
) -> None:
    """List the keys: ids, clients, tiers; the keys themselves are not kept."""
    from serving import build, settings
    from serving.keys import KeyFile

    keys = KeyFile(build.keys_path(settings.load(config))).all()
    if json_:
        fields = ("id", "client", "tier", "created", "revoked")
        typer.echo(json.dumps([{f: getattr(key, f) for f in fields} for key in keys]))
        return
    table = Table("id", "client", "tier", "state")
    for key in keys:
        table.add_row(key.id, key.client, key.tier, "revoked" if key.revoked else "in force")
    out.print(table)


@keys_app.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="The id that create and list show.")],
    config: Annotated[Path, typer.Option(help="The gateway's config.")] = Path("mantlet.yaml"),
) -> None:
    """Refuse a key from now on; a running gateway notices within a second."""
    from serving import build, settings
    from serving.admission import client_id
    from serving.app import wall_clock
    from serving.events.kinds import KeyRevoked
    from serving.keys import KeyFile

    loaded = settings.load(config)
    key = KeyFile(build.keys_path(loaded)).revoke(key_id)
    who = client_id(build.secret_of(loaded), key.client)
    event = KeyRevoked(client=who, name=key.client, tier=key.tier, key_id=key.id)
    build.open_events(loaded, wall_clock).write(event)
    out.print(f"Key {key.id} of {key.client} is revoked.")


@events_app.command("verify")
def events_verify(
    config: ConfigArgument,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of the log that were put away and then moved, in their order."),
    ] = None,
    first: Annotated[
        int, typer.Option("--from", help="The first record that must be there.", min=1)
    ] = 1,
    set_: SetOption = [],  # typer reads it
) -> None:
    """Check that no event in the log of CONFIG's gateway was changed, moved, put in or taken out."""
    from serving import build, settings
    from serving.app import wall_clock

    log = build.open_events(settings.load(config, set_), wall_clock)
    report = log.verify(files or (), first)
    for problem in report.problems:
        err.print(f"mantlet: {problem}", markup=False)
    if report.problems:
        raise typer.Exit(2)
    out.print(f"{report.events} events, chain whole; the last hash is {report.tip.hash}")
    if report.unfinished:
        out.print("A line at the end was not finished; the next event sets it aside.")


@events_app.command("list")
def events_list(
    config: ConfigArgument,
    kind: Annotated[list[EventKind], typer.Option(help="Only this kind. Repeatable.")] = [],
    client: Annotated[str, typer.Option(help="Only of this client, by id or name.")] = "",
    json_: JsonOption = False,
    set_: SetOption = [],
) -> None:
    """List events, oldest first; with --json as they stand in the log, one a line."""
    from serving import build, settings
    from serving.app import wall_clock

    table = Table("number", "time", "kind", "fields")
    for record in build.open_events(settings.load(config, set_), wall_clock).read(kinds=kind):
        fields = json.loads(record.line)["fields"]
        if client and client not in (fields.get("client"), fields.get("name")):
            continue
        if json_:
            typer.echo(record.line)
        else:
            shown = ", ".join(f"{name} {value}" for name, value in fields.items())
            table.add_row(str(record.number), record.time, record.event.kind, escape(shown))
    if not json_:
        out.print(table)


@app.command()
def calibrate(
    config: ConfigArgument,
    benign: Annotated[
        Path | None,
        typer.Option(
            help="Benign inputs: .npz with x or x_SPLIT, or .npy; a generator needs none."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Which split of the .npz.")] = "train",
    rows: Annotated[str, typer.Option(help="Which rows of it, START:STOP.")] = ":",
    model: Annotated[
        str, typer.Option(help="Which model of the config; the only one by default.")
    ] = "",
    tier: Annotated[
        str, typer.Option(help="Enrol a tier: measure what its honest clients may reach.")
    ] = "",
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Take rows whose halves are not alike.")
    ] = False,
    set_: SetOption = [],  # typer reads it
) -> None:
    """Let the detectors of CONFIG learn what benign traffic looks like."""
    from mantlet.data import load_images, parse_rows
    from serving import logs, settings
    from serving.calibrating import calibrate_model

    loaded = settings.load(config, set_)
    inputs = None if benign is None else load_images(benign, split, parse_rows(rows)).x
    logs.configure(loaded.log_level)  # to standard error: the report is for standard output
    with progress_bar("calibrating") as bar:
        bar.add_task("drawn latents" if inputs is None else f"{len(inputs)} rows", total=None)
        report = calibrate_model(loaded, model, inputs, tier=tier, mixed=mixed)
    out.print(f"calibration: {report.path} ({report.rows} rows)", markup=False)
    if report.columns:
        out.print(_tolerated(report.columns))
    for line in report.notes:
        out.print(line, markup=False)


def _tolerated(columns: Sequence["Column"]) -> Table:
    table = Table("detector", "score", "tolerated", "honest clients: half", "9 of 10", "99 of 100")
    for column in columns:
        numbers = (column.tolerated, *column.quantiles)
        table.add_row(column.detector, str(column.number), *(f"{n:.4f}" for n in numbers))
    return table


@app.command()
def replay(
    events: Annotated[Path, typer.Argument(help="An event log: .jsonl, or SQLite.")],
    policy: Annotated[Path, typer.Option(help="A config, or a YAML file with 'policy:' alone.")],
    json_: JsonOption = False,
) -> None:
    """Tell how another policy would have treated the clients of EVENTS."""
    from dataclasses import asdict

    from serving.replay import replay as run

    treated = run(events, policy)
    if json_:
        typer.echo(json.dumps([{**asdict(one), "differs": one.differs} for one in treated]))
        return
    table = Table(
        "client", "name", "tier", "model", "rows", "levels it had", "levels it would have"
    )
    for one in treated:
        denied = " (denied)" if one.would_deny_until else ""
        would = " > ".join(one.would) + denied
        table.add_row(
            one.client, one.name, one.tier, one.model, str(one.rows), " > ".join(one.was), would
        )
    out.print(table)
    out.print(f"{sum(one.differs for one in treated)} of {len(treated)} clients would differ")


@app.command()
def budget(
    config: ConfigArgument,
    model: Annotated[
        str, typer.Option(help="Which model of the config; the only one by default.")
    ] = "",
    json_: JsonOption = False,
    set_: SetOption = [],  # typer reads it
) -> None:
    """Tell how many rows a thief with data of the model's own kind may have, by agreement of its clone."""
    from serving import settings
    from serving.budget import curve_of, table

    loaded = settings.load(config, set_)
    rows_for = table(curve_of(settings.chosen_model(loaded, model)[1]))
    if json_:
        typer.echo(json.dumps({f"{agreement:g}": rows for agreement, rows in rows_for.items()}))
        return
    shown = Table("agreement of the clone", "rows")
    for agreement, rows in rows_for.items():
        shown.add_row(f"{agreement:.0%}", str(rows) if rows is not None else "fewer than measured")
    out.print(shown)
    out.print("A level of the policy with 'agreement:' and 'deny_s:' holds a tier to it.")


@app.command()
def campaigns(
    config: ConfigArgument,
    model: Annotated[
        str, typer.Option(help="Which model of the config; all of them by default.")
    ] = "",
    json_: JsonOption = False,
    set_: SetOption = [],  # typer reads it
) -> None:
    """Look once for accounts that steal together in the store of CONFIG, and change nothing."""
    from serving import logs, searching, settings
    from serving.app import wall_clock

    loaded = settings.load(config, set_)
    logs.configure(loaded.log_level)
    reports = searching.search(loaded, model, wall_clock)
    if json_:
        typer.echo(json.dumps(reports))
        return
    for report in reports:
        out.print(f"{report['model']}: {report['clients']} clients", markup=False)
        for name in report["drifts"]:
            err.print(
                f"most clients drift by '{name}': calibrate anew; no campaign is told till then"
            )
        table = Table("campaign", "members", "new", "rows", "suspicion", "alarm", "linked rows")
        for one in report["campaigns"]:
            fields = ("campaign", "size", "new", "rows", "suspicion", "alarm", "linked")
            table.add_row(*(str(one[field]) for field in fields))
        if report["campaigns"]:
            out.print(table)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe.")],
    data: Annotated[Path, typer.Option(help="Training data: .npz with x_train, y_train.")],
    foreign: Annotated[
        list[Path],
        typer.Option(help="Foreign pictures, for a recipe of kind foreign or ini. Repeatable."),
    ] = [],
    unseen: Annotated[
        list[Path],
        typer.Option(help="Of kind foreign: pictures that are reported on and not trained on."),
    ] = [],
    device: Annotated[str, typer.Option(help="Of a classifier: cpu, cuda, ...")] = "cpu",
    output: Annotated[Path | None, typer.Option(help="In place of the recipe's output.")] = None,
) -> None:
    """Train a model from RECIPE and write its weights as safetensors."""
    from mantlet.training import Progress as Step
    from serving import training

    plan = training.load(recipe)
    with progress_bar("training") as bar:
        task = bar.add_task("epoch 1", total=None)

        def show(p: Step) -> None:
            text = f"epoch {p.epoch}, loss {p.loss:.3f}"
            bar.update(task, completed=p.step, total=p.steps, description=text)

        report = training.run(
            plan,
            data,
            foreign=foreign,
            unseen=unseen,
            device=device,
            output=output,
            progress=show,
        )
    for line in report:
        out.print(line, markup=False)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A PyTorch checkpoint (.pt, .pth, .bin).")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
) -> None:
    """Rewrite a checkpoint as safetensors without running code from it."""
    from mantlet import weights

    names = weights.convert(source, target)
    out.print(f"{target}: {len(names)} tensors: {', '.join(names[:8])}{' ...' * (len(names) > 8)}")


@app.command()
def plugins(json_: JsonOption = False) -> None:
    """List the installed defenses, detectors, victims and architectures."""
    from serving import listing

    found = listing.installed()
    if json_:
        typer.echo(json.dumps(found))
        return
    table = Table("kind", "type", "what it does", "from")
    for entry in found:
        table.add_row(entry["kind"], entry["type"], entry["summary"], entry["module"])
    out.print(table)


@app.command()
def doctor() -> None:
    """Say what this installation has, and what is missing."""
    from serving import listing

    for line in listing.environment():
        out.print(line, markup=False)


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """A bar on standard error, gone when it is done."""
    columns = (
        TextColumn(f"{what}: {{task.description}}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        yield bar


if __name__ == "__main__":
    main()
