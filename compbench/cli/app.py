"""The Typer application: its commands, and what ``compbench --help`` says."""

from __future__ import annotations

from typing import Annotated

import typer

from compbench.cli.accounting_command import HELP as ACCOUNTING_HELP
from compbench.cli.accounting_command import accounting
from compbench.cli.across_command import HELP as ACROSS_HELP
from compbench.cli.across_command import across
from compbench.cli.analyse_command import HELP as ANALYSE_HELP
from compbench.cli.analyse_command import analyse
from compbench.cli.check_command import HELP as CHECK_HELP
from compbench.cli.check_command import check
from compbench.cli.compare_command import HELP as COMPARE_HELP
from compbench.cli.compare_command import compare_results
from compbench.cli.explain_command import HELP as EXPLAIN_HELP
from compbench.cli.explain_command import explain
from compbench.cli.figures_command import figures
from compbench.cli.ledger_command import HELP as LEDGER_HELP
from compbench.cli.ledger_command import ledger
from compbench.cli.merge_command import HELP as MERGE_HELP
from compbench.cli.merge_command import merge
from compbench.cli.new_command import new
from compbench.cli.plan_command import HELP as PLAN_HELP
from compbench.cli.plan_command import plan
from compbench.cli.plugins_command import plugins
from compbench.cli.publish_command import HELP as PUBLISH_HELP
from compbench.cli.publish_command import publish
from compbench.cli.report_command import HELP as REPORT_HELP
from compbench.cli.report_command import report
from compbench.cli.run_command import HELP as RUN_HELP
from compbench.cli.run_command import run
from compbench.cli.sites_command import HELP as SITES_HELP
from compbench.cli.sites_command import sites
from compbench.cli.table_command import HELP as TABLE_HELP
from compbench.cli.table_command import table
from compbench.cli.trace_command import HELP as TRACE_HELP
from compbench.cli.trace_command import trace
from compbench.run.machine import distribution_version

OVERVIEW = """
Compares activation-compression strategies for training recursive models: memory, time and accuracy, with evidence.

A suite (a YAML file) says which strategies are trained on what, at which recursion depths, with which seeds. Each
combination is a cell, run in a process of its own; its record is kept, so a run that was stopped goes on where it was.

\b
Examples:
  compbench run quick                          eight arms, in under three minutes on two cores
  compbench run suites/trm_depth.yaml --only seed=0,1 --only depth=4,8
  compbench plan quick                         what a suite will take, before it runs
  compbench sites quick --only arm=laser       what an arm will save and keep, place by place
  compbench trace quick --only arm=laser       where the time of its step goes, operator by operator
  compbench analyse all quick --only arm=laser what its activations and gradients were like, over its training
  compbench explain quick                      which of its results are up to date, and why others are not
  compbench table results/quick --format github
  compbench report results/quick               one page: findings, tables, figures, every cell and its log
  compbench figures results/quick --format pdf its figures, for a paper
  compbench compare results/trm_depth:laser :int8       one arm against another, or one folder against another
  compbench across results/trm_depth           all its depths in one table; several suites, too
  compbench accounting results/small/table1    memory as the LASER paper's tables count it, beside what is measured
  compbench ledger results/small results       every claim of that paper, with what our results say of it
  compbench merge a/quick b/quick --into all/quick     one store of what several machines ran
  compbench publish results/quick published/quick      a folder that can be read, cited, checked and made again
  compbench plugins                            which strategies and workloads there are
  compbench plugins laser                      one of them, with its fields
  compbench new compressor mine                a strategy of your own to begin with, in plugins/mine.py
  compbench check mine                         whether it keeps the contract, property by property

Exit status: 0 all well, 1 some cell or check is not ok, 2 bad input, 130 interrupted.
"""

app = typer.Typer(
    name="compbench",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(help=RUN_HELP)(run)
app.command(help=PLAN_HELP)(plan)
app.command(help=SITES_HELP)(sites)
app.command(help=TRACE_HELP)(trace)
app.command(help=ANALYSE_HELP)(analyse)
app.command(help=EXPLAIN_HELP)(explain)
app.command(help=TABLE_HELP)(table)
app.command(help=REPORT_HELP)(report)
app.command()(figures)
app.command("compare", help=COMPARE_HELP)(compare_results)
app.command(help=ACROSS_HELP)(across)
app.command(help=ACCOUNTING_HELP)(accounting)
app.command(help=LEDGER_HELP)(ledger)
app.command(help=MERGE_HELP)(merge)
app.command(help=PUBLISH_HELP)(publish)
app.command()(plugins)
app.add_typer(new, name="new")
app.command(help=CHECK_HELP)(check)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"compbench {distribution_version('compbench')}")
        raise typer.Exit


@app.callback(help=OVERVIEW)
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the command itself; ``--version`` does its work while it is parsed."""
