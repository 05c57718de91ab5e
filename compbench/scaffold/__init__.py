"""Writes a strategy to begin with: a plugin file with its test, or a package that can be installed.

The templates beside this module hold a small strategy that works. What is written is a strategy as anybody's: nothing
else in compbench knows of it.
"""

from compbench.scaffold.names import ScaffoldError, check_package_name, check_strategy_name
from compbench.scaffold.render import NewFile, compressor_files, package_files
from compbench.scaffold.write import write_new

__all__ = [
    "NewFile",
    "ScaffoldError",
    "check_package_name",
    "check_strategy_name",
    "compressor_files",
    "package_files",
    "write_new",
]
