"""The files of a new strategy, from the templates beside this module."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import PurePosixPath
from string import Template

from compbench.scaffold.names import Names, names_of


@dataclass(frozen=True)
class NewFile:
    """One file to be written: its path below the folder that was asked for, and its text."""

    path: PurePosixPath
    text: str


def compressor_files(name: str) -> tuple[NewFile, ...]:
    """A plugin file, and the test that runs the conformance kit on it, for a project's own ``plugins`` folder."""
    names = _names(name)
    return (
        _rendered(f"plugins/{name}.py", "compressor.py", names),
        _rendered(f"tests/test_{name}.py", "compressor_test.py", names),
    )


def package_files(name: str) -> tuple[NewFile, ...]:
    """A package with the same strategy, which compbench finds through its entry point; in a folder ``name``."""
    names = _names(name)
    return (
        _rendered(f"{name}/pyproject.toml", "package_pyproject.toml", names),
        _rendered(f"{name}/README.md", "package_README.md", names),
        _rendered(f"{name}/.gitignore", "package_gitignore", names),
        _rendered(f"{name}/src/{names.module}/__init__.py", "package_init.py", names),
        _rendered(f"{name}/src/{names.module}/{name}.py", "compressor.py", names),
        NewFile(PurePosixPath(f"{name}/src/{names.module}/py.typed"), ""),
        _rendered(f"{name}/tests/test_{name}.py", "package_test.py", names),
    )


def _names(name: str) -> Names:
    return names_of(name, taken=_imported(_template("compressor.py").template))


def _imported(template: str) -> set[str]:
    """The names that a template imports."""
    lines = [line for line in template.splitlines() if line.startswith(("import ", "from "))]
    nodes = ast.walk(ast.parse("\n".join(lines)))
    return {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }


def _rendered(path: str, template: str, names: Names) -> NewFile:
    text = _template(template).substitute(
        name=names.name,
        Name=names.cls,
        module=names.module,
        distribution=names.distribution,
        version=version("compbench"),
    )
    return NewFile(PurePosixPath(path), text)


def _template(name: str) -> Template:
    return Template(files("compbench.scaffold").joinpath(f"{name}.template").read_text(encoding="utf-8"))
