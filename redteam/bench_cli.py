"""The commands ``bench`` and ``report``."""

from pathlib import Path
from typing import Annotated

import typer

from serving.cli import err, out, progress_bar


def bench(
    plan: Annotated[Path, typer.Argument(help="A YAML plan, such as configs/bench/smoke.yaml.")],
    data: Annotated[
        Path, typer.Option(envvar="MANTLET_DATA", help="Folder of the pictures, as .npz files.")
    ],
    output: Annotated[
        Path, typer.Option("--out", help="The JSON to write, a record a theft.")
    ] = Path("protection.json"),
    work: Annotated[
        Path, typer.Option(help="Where every record is kept as soon as it is there.")
    ] = Path(".mantlet/bench"),
    models: Annotated[
        Path | None, typer.Option(help="Folder that $models of the plan stands for.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.", min=1, max=64)] = 2,
    only: Annotated[
        str, typer.Option(help="VICTIM/DEFENSE/ATTACKER; parts may be left empty.")
    ] = "",
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
            task = bar.add_task("looking for what is done", total=None)

            def show(done: int, of: int, what: str) -> None:
                bar.update(task, completed=done, total=of, description=what)

            found = grid.run(place, only=only, jobs=jobs, progress=show)
    except KeyboardInterrupt:
        kept, _ = grid.write(place, output)
        err.print(f"stopped: {kept} records are kept; the same command goes on from there")
        raise typer.Exit(130) from None
    count, before = grid.write(place, output)
    out.print(f"{output}: {count} records", markup=False)
    if before:
        err.print(
            f"of these {before} stay as they were, for {work} has none of their thefts; where the plan has"
            " changed since, delete them or run them again",
            markup=False,
        )
    for line in (*found.failed, *found.missed):
        err.print(f"mantlet: {line}", markup=False)
    if found.failed or found.missed:
        raise typer.Exit(1)


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
