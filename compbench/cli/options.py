"""Options that several commands have, and what follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compbench.registry import Registry, default_plugins_dir

PluginsDir = Annotated[
    Path | None,
    typer.Option(help="Folder with plugins of your own; by default ./plugins if there is one.", metavar="DIR"),
]


def registry_of(plugins_dir: Path | None) -> Registry:
    """All plugins, those of the folder that was named, or else of ``./plugins``, among them.

    Raises:
        PluginError: there is no such folder.
    """
    return Registry.load(plugins_dir if plugins_dir is not None else default_plugins_dir())
