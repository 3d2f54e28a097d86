"""The whole command line: what serves, and beside it what attacks and measures."""

from redteam import attack_cli, bench_cli
from serving.cli import app, main

__all__ = ["app", "main"]

app.command()(attack_cli.attack)
app.command()(bench_cli.bench)
app.command()(bench_cli.report)

if __name__ == "__main__":
    main()
