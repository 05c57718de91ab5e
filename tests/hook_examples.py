"""The examples in the hooks' docstrings, as plugin files."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

from compbench import hookspecs

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("compbench_"))


def example(hook: str) -> str:
    """The code in a hook's docstring."""
    return textwrap.dedent(inspect.getdoc(getattr(hookspecs, hook)).partition("Example::\n")[2])


def write_examples(folder: Path, *hooks: str) -> Path:
    """Writes one plugin file a hook, named after the hook; all hooks if none is given."""
    folder.mkdir(exist_ok=True)
    for hook in hooks or HOOKS:
        (folder / f"{hook.removeprefix('compbench_')}.py").write_text(example(hook))
    return folder
