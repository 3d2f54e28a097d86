"""The command ``attack``."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from serving.cli import err, out, progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from redteam.attacks.attack import Progress
    from redteam.theft.order import Order


def _option(help_: str, *names: str) -> Any:
    return typer.Option(*names, help=help_)


Name = Annotated[
    str,
    typer.Argument(
        help="The attack, such as knockoff; i2i where pictures are translated, gan where they are drawn."
    ),
]
Target = Annotated[str, _option("Where the gateway is: http://HOST:PORT.")]
Model = Annotated[str, _option("The name of the model there.")]
Budget = Annotated[int, _option("Rows that may be sent; all of them are counted.")]
Judged = Annotated[
    Path | None,
    _option("Pictures that judge the clone: .npz, labelled but for i2i; none of gan.", "--eval"),
]
Out = Annotated[Path, _option("A folder; the same command goes on from what it holds.", "--out")]
Surrogate = Annotated[Path | None, _option("The thief's own pictures: .npz or .npy.")]
Keys = Annotated[list[str], _option("The key of an account. Repeatable; none where it is open.")]
KeysFile = Annotated[
    Path | None, _option("A file with a key a line, out of sight of other processes.")
]
Spread = Annotated[
    bool, _option("All accounts in turn, or the next once one is denied.", "--split/--rotate")
]
Sets = Annotated[list[str], _option("A setting of the attack: field=value. Repeatable.", "--set")]
LabelOnly = Annotated[bool, _option("Learn from the top class alone.", "--label-only")]
Seed = Annotated[int, _option("Of all that is drawn.")]
Average = Annotated[int, _option("Ask about each row so many times.")]
Jitter = Annotated[float, _option("Standard deviation of the noise on each of these times.")]
Cover = Annotated[Path | None, _option("Honest pictures, which are sent among the others.")]
CoverShare = Annotated[float, _option("How much of the traffic they are.")]
Clone = Annotated[
    str,
    _option(
        "The clone's architecture; lenet or, of rows other than 1x28x28, resnet; superres of i2i."
    ),
]
CloneSets = Annotated[list[str], _option("A setting of it: width=8. Repeatable.")]
Classes = Annotated[
    int, _option("Classes, where the target does not say; 0 takes them from --eval.")
]
Split = Annotated[str, _option("Which split of the surrogate.")]
Rows = Annotated[str, _option("Which rows of it, START:STOP.")]
JudgedRows = Annotated[str, _option("Which rows of the test split of --eval, START:STOP.")]
AskEval = Annotated[
    bool, _option("Ask the target about these too, for the agreement.", "--ask-eval")
]
EvalKey = Annotated[str, _option("Ask about them with this key, not with the first one.")]
By = Annotated[str, _option("Of gan: name pictures by latents or by seeds.", "--by")]
Features = Annotated[
    Path | None,
    _option("Of gan: a classifier of mantlet train, in whose features copies are judged."),
]
Protocol = Annotated[str, _option("v2 (tensors as bytes), v2-json or v1.")]
Batch = Annotated[int, _option("Rows in one request.")]
Concurrency = Annotated[int, _option("Requests of an account at once.")]
Patience = Annotated[float, _option("Seconds that a request waits when the target puts it off.")]
Json = Annotated[bool, _option("Print JSON for machines.", "--json")]


def attack(
    name: Name,
    target: Target,
    model: Model,
    budget: Budget,
    out_: Out,
    eval_: Judged = None,
    surrogate: Surrogate = None,
    key: Keys = [],
    keys_file: KeysFile = None,
    split: Spread = True,
    set_: Sets = [],
    label_only: LabelOnly = False,
    seed: Seed = 0,
    average: Average = 1,
    jitter: Jitter = 0.0,
    cover: Cover = None,
    cover_share: CoverShare = 0.5,
    clone: Clone = "",
    clone_set: CloneSets = [],
    classes: Classes = 0,
    surrogate_split: Split = "train",
    surrogate_rows: Rows = ":",
    eval_rows: JudgedRows = ":",
    ask_eval: AskEval = False,
    eval_key: EvalKey = "",
    by: By = "latents",
    features: Features = None,
    protocol: Protocol = "v2",
    batch: Batch = 32,
    concurrency: Concurrency = 1,
    patience: Patience = 60.0,
    json_: Json = False,
) -> None:
    """Steal from a running gateway of your own, and tell what the clone is worth."""
    options = {option.rstrip("_"): value for option, value in locals().items() if option != "json_"}
    from redteam.theft.order import Order

    order = Order.of(**options)
    steal = _theft(order)
    with progress_bar("attacking") as bar:
        told = steal(partial(_shown, bar))
    _tell(told, json_)


def _theft(order: "Order") -> Callable[[Callable[[str], "Progress"]], dict[str, Any]]:
    """What is ordered, checked and not begun; it is told how to show the progress of what it names."""
    from redteam.theft import attacking, generators, pictures
    from redteam.theft.order import GENERATORS, PICTURES, prepared

    if order.name == GENERATORS:
        buy = partial(generators.run, *generators.prepared(order), order.out)
        return lambda shown: buy(progress=shown("pictures"), learning=shown("updates"))
    if order.name == PICTURES:
        steal = partial(pictures.run, *pictures.prepared(order))
    else:
        steal = partial(attacking.run, *prepared(order))
    return lambda shown: steal(order.out, ask_with=order.asks_with, progress=shown("rows"))


def _shown(bar: "Bar", what: str) -> "Progress":
    task = bar.add_task(what, total=None)
    return lambda done, of: bar.update(task, completed=done, total=of)


def _tell(told: dict[str, Any], as_json: bool) -> None:
    """What was measured, and how to go on where it was stopped."""
    table = Table("measure", "value")
    shown = ["ended", "rows", "floats", "rows_learned", "clone_accuracy", "agreement", "verdict"]
    shown += ["psnr_learned", "psnr_to_target", "psnr_unchanged"]
    shown += ["pictures", "fid_clone_victim", "seconds"]
    for name in filter(told.__contains__, shown):
        table.add_row(name.replace("_", " "), "-" if told[name] is None else str(told[name]))
    if as_json:
        typer.echo(json.dumps(told))
    else:
        out.print(table)
    if told["ended"] == "interrupted":
        err.print("The same command goes on from here.")
        raise typer.Exit(130)
