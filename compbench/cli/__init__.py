"""The command ``compbench``: each subcommand is a thin call into the floors below."""

from __future__ import annotations

import sys

from compbench.errors import CompbenchError


def main() -> None:
    """Runs the command line; what a user can mend is told in one message, with exit status 2 and no traceback."""
    from compbench.cli.app import app

    try:
        app(prog_name="compbench")
    except CompbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


__all__ = ["main"]
