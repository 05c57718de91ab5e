"""Packages that only some users need: imported when they are, and asked for by name where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from compbench.errors import SettingsError, one_line


def optional_package(module: str, extra: str, needed_by: str) -> Any:
    """Imports a package that compbench does without.

    Args:
        module: what is imported, such as ``ray``.
        extra: the extra of compbench that installs it.
        needed_by: what it is needed for, as the user has called it, such as ``--executor ray``.

    Raises:
        SettingsError: it is not installed, with the command that does that; or it can't be imported, with the reason.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.partition(".")[0] == error.name.partition(".")[0]:
            raise SettingsError(
                f"{needed_by} needs the package '{module}', which is not installed: pip install 'compbench[{extra}]'"
            ) from error
        raise _broken(module, needed_by, error) from error
    except Exception as error:  # packages that clash with others of the environment raise anything
        raise _broken(module, needed_by, error) from error


def _broken(module: str, needed_by: str, error: Exception) -> SettingsError:
    return SettingsError(f"{needed_by} needs the package '{module}', which can't be imported: {one_line(error)}")
