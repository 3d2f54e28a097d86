"""The whole command line: what serves, and beside it what attacks and measures."""

from serving.cli import app, main

__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
