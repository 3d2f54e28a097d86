"""The commands ``bench`` and ``report``."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from serving.cli import err, out, progress_bar

BEFORE = (
    "of these {before} stay as they were, for {work} has none of their thefts; where the plan has changed"
    " since, delete them or run them again"
)


PlanFile = Annotated[Path, typer.Argument(help="A YAML plan, such as configs/bench/smoke.yaml.")]
Data = Annotated[
    Path, typer.Option(envvar="MANTLET_DATA", help="Folder of the pictures, as .npz files.")
]
Output = Annotated[Path, typer.Option("--out", help="The JSON to write, a record a theft.")]
Work = Annotated[Path, typer.Option(help="Where every record is kept as soon as it is there.")]
Models = Annotated[Path | None, typer.Option(help="Folder that $models of the plan stands for.")]
Jobs = Annotated[int, typer.Option(help="Processes of one thread each.", min=1, max=64)]
Only = Annotated[str, typer.Option(help="VICTIM/DEFENSE/ATTACKER; parts may be left empty.")]


def bench(
    plan: PlanFile,
    data: Data,
    output: Output = Path("protection.json"),
    work: Work = Path(".mantlet/bench"),
    models: Models = None,
    jobs: Jobs = 2,
    only: Only = "",
) -> None:
    """Steal as PLAN says, behind every defense, and write what clones are worth.

    Runs only what is not done yet, and writes all of the plan that is done, here or in the records that the JSON has already.
    Fails where a theft does, and where a floor of the plan is missed.
    """
    import torch

    from redteam.grid import bench as grid
    from redteam.grid import plan as plans
    from serving import logs

    torch.set_num_threads(1)
    logs.configure("error")
    loaded = plans.load(plan, {"models": models, "work": work, "data": data})
    place = grid.Bench(loaded, data, work)
    grid.written(loaded, output)  # what cannot be added to is told before the first theft
    try:
        with progress_bar("bench") as bar:
            shown = partial(_show, bar, bar.add_task("looking for what is done", total=None))
            found = grid.run(place, only=only, jobs=jobs, progress=shown)
    except KeyboardInterrupt:
        kept, _ = grid.write(place, output)
        err.print(f"stopped: {kept} records are kept; the same command goes on from there")
        raise typer.Exit(130) from None
    kept, before = grid.write(place, output)
    out.print(f"{output}: {kept} records", markup=False)
    if before:
        err.print(BEFORE.format(before=before, work=work), markup=False)
    for line in (*found.failed, *found.missed):
        err.print(f"mantlet: {line}", markup=False)
    if found.failed or found.missed:
        raise typer.Exit(1)


def _show(bar: Progress, task: TaskID, done: int, of: int, what: str) -> None:
    bar.update(task, completed=done, total=of, description=what)


def report(
    results: Annotated[Path, typer.Argument(help="What bench wrote.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder of the page and its pictures.")] = (
        Path("report")
    ),
) -> None:
    """Write RESULTS as one page that needs no network, and as pictures."""
    from redteam.grid import report as reports

    for path in reports.write(results, folder):
        out.print(str(path), markup=False)
