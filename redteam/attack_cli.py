"""The command ``attack``."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from serving.cli import err, out, progress_bar


def attack(
    name: Annotated[str, typer.Argument(help="The attack, such as knockoff.")],
    target: Annotated[str, typer.Option(help="Where the gateway is: http://HOST:PORT.")],
    model: Annotated[str, typer.Option(help="The name of the model there.")],
    budget: Annotated[int, typer.Option(help="Rows that may be sent; all of them are counted.")],
    eval_: Annotated[
        Path, typer.Option("--eval", help="Labelled pictures that judge the clone: .npz.")
    ],
    out_: Annotated[
        Path, typer.Option("--out", help="A folder; the same command goes on from what it holds.")
    ],
    surrogate: Annotated[
        Path | None, typer.Option(help="The thief's own pictures: .npz or .npy.")
    ] = None,
    key: Annotated[
        list[str], typer.Option(help="The key of an account. Repeatable; none for an open gateway.")
    ] = [],
    keys_file: Annotated[
        Path | None, typer.Option(help="A file with a key a line, out of sight of other processes.")
    ] = None,
    split: Annotated[
        bool,
        typer.Option(
            "--split/--rotate", help="All accounts in turn, or the next once one is denied."
        ),
    ] = True,
    set_: Annotated[
        list[str], typer.Option("--set", help="A setting of the attack: field=value. Repeatable.")
    ] = [],
    label_only: Annotated[
        bool, typer.Option("--label-only", help="Learn from the top class alone.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    average: Annotated[int, typer.Option(help="Ask about each row so many times.")] = 1,
    jitter: Annotated[
        float, typer.Option(help="Standard deviation of the noise on each of these times.")
    ] = 0.0,
    cover: Annotated[
        Path | None, typer.Option(help="Honest pictures, which are sent among the others.")
    ] = None,
    cover_share: Annotated[float, typer.Option(help="How much of the traffic they are.")] = 0.5,
    clone: Annotated[str, typer.Option(help="The clone's architecture.")] = "lenet",
    clone_set: Annotated[
        list[str], typer.Option(help="A setting of it: width=8. Repeatable.")
    ] = [],
    classes: Annotated[
        int, typer.Option(help="Classes, where the target does not say; 0 takes them from --eval.")
    ] = 0,
    surrogate_split: Annotated[str, typer.Option(help="Which split of the surrogate.")] = "train",
    surrogate_rows: Annotated[str, typer.Option(help="Which rows of it, START:STOP.")] = ":",
    eval_rows: Annotated[str, typer.Option(help="Which rows of the test split of --eval.")] = ":",
    ask_eval: Annotated[
        bool, typer.Option("--ask-eval", help="Ask the target about these too, for the agreement.")
    ] = False,
    eval_key: Annotated[
        str, typer.Option(help="Ask about them with this key, not with the first one.")
    ] = "",
    protocol: Annotated[str, typer.Option(help="v2 (tensors as bytes), v2-json or v1.")] = "v2",
    batch: Annotated[int, typer.Option(help="Rows in one request.")] = 32,
    concurrency: Annotated[int, typer.Option(help="Requests of an account at once.")] = 1,
    patience: Annotated[
        float, typer.Option(help="Seconds that a request waits when the target puts it off.")
    ] = 60.0,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Steal from a running gateway of your own, and tell what the clone is worth."""
    options = {n.rstrip("_"): v for n, v in locals().items() if n != "json_"}
    from redteam import attacking
    from redteam.order import Order, prepared

    order = Order.of(**options)
    target_, thief, judged = prepared(order)
    with progress_bar("attacking") as bar:
        task = bar.add_task("rows", total=budget)
        told = attacking.run(
            target_,
            thief,
            judged,
            order.out,
            ask_with=order.asks_with,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    if json_:
        typer.echo(json.dumps(told))
    else:
        _show(told)
    if told["ended"] == "interrupted":
        err.print("The same command goes on from here.")
        raise typer.Exit(130)


def _show(told: dict[str, object]) -> None:
    table = Table("measure", "value")
    shown = ("ended", "rows", "floats", "rows_learned", "clone_accuracy", "agreement", "verdict")
    for name in shown:
        table.add_row(name.replace("_", " "), "-" if told[name] is None else str(told[name]))
    out.print(table)
