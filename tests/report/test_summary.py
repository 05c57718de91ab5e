"""The page of a results folder: everything needed to believe the table, and nothing of the machine's owner."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
from scipy import stats

from compbench.errors import StoreError
from compbench.report.figures import as_svg, make_figures
from compbench.report.findings import findings
from compbench.report.origin import without_folders
from compbench.report.outcome import read_outcome
from compbench.report.rows import as_csv, make_rows
from compbench.report.summary import readme, write_results
from compbench.report.tables import TERMINAL, as_text, results_table
from compbench.run.environment import Environment
from compbench.suite.cell import PluginReference, Training
from tests.report.made_up import MACHINE, arithmetic, cell, outcome, phased, result, scores, write

GOOD = [0.80, 0.82, 0.84, 0.81, 0.83]


def made_up():
    results = scores("none", GOOD) + scores("laser", [0.80, 0.83, 0.82, 0.83, 0.81])
    results.append(
        result("int8", seed=0, status="failed", reason="ValueError: no rows in /home/somebody/plugins/mine.py")
    )
    results.append(
        result("int8", seed=1, status="failed", reason="ValueError: no rows in /home/somebody/plugins/mine.py")
    )
    command = "compbench run /home/somebody/suites/made_up.yaml --only depth=4"
    return outcome(results, margins={"solved": 0.005}, command=command)


def test_the_folder_gets_a_page_and_a_csv_and_the_terminal_the_table(tmp_path):
    folder, _ = write(tmp_path, made_up())
    text = write_results(folder)
    read = read_outcome(folder)
    assert text == as_text(results_table(read), TERMINAL)
    assert max(len(line) for line in text.split("\n\n")[0].splitlines()) < 160
    assert (folder / "table.csv").read_text() == as_csv(make_rows(read)) == as_csv(make_rows(made_up()))
    assert (folder / "README.md").read_text() == readme(read)


def test_figures_that_are_drawn_in_the_folder_are_on_the_page_and_of_its_results(tmp_path):
    folder, _ = write(tmp_path, made_up())
    (folder / "figures").mkdir()
    stale = folder / "figures" / "accuracy_by_seed_solved.svg"
    stale.write_text("<svg>of other results</svg>")
    (folder / "figures" / "somebody's.svg").write_text("<svg/>")
    write_results(folder)
    page = (folder / "README.md").read_text()
    figures = {figure.name: figure for figure in make_figures(read_outcome(folder))}
    assert re.findall(r'<img src="([^"]+)"', page) == ["figures/accuracy_by_seed_solved.svg"]
    assert f"### {figures['accuracy_by_seed_solved'].title}" in page
    assert figures["accuracy_by_seed_solved"].caption.split(". ")[0] in page
    assert stale.read_text() == as_svg(figures["accuracy_by_seed_solved"])
    assert page.replace(page[page.index("## Figures") : page.index("## Time against")], "") == readme(made_up())


def test_made_again_from_the_same_store_the_files_are_the_same_bytes(tmp_path):
    folder, _ = write(tmp_path, made_up())
    write_results(folder)
    first = [(folder / name).read_bytes() for name in ("README.md", "table.csv")]
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    for name in ("README.md", "table.csv"):
        (moved / name).unlink()
    write_results(moved)
    assert [(moved / name).read_bytes() for name in ("README.md", "table.csv")] == first


def test_the_page_says_what_a_reader_needs_to_believe_it():
    page = readme(made_up())
    assert page.startswith("# made_up\n\nNobody ran this.\n\n| arm")
    for needed in (
        "compbench run made_up.yaml --only depth=4",
        "`compbench table results/made_up --format github`",
        "Imaginary 9000, 2 cores, 8.0 GB",
        "torch 2.13.0, compbench 0.1.0",
        "- cells: 12 in the suite, 12 run, 10 ok",
        "- seeds: 0, 1, 2, 3, 4",
        "- made: 2026-01-01 to 2026-01-05 (UTC)",
        "- durations of the cells: 6.0 minutes in all",
        "- workload: trm_maze, hidden 64",
        "steps 20, batch_size 64",
        "  - laser: laser",
        "saved: what is held for the backward pass",
    ):
        assert needed in page, needed


def test_the_page_has_times_and_placement_where_records_know_them():
    assert "Where the time goes" not in readme(made_up())
    assert "cores of the cells" not in readme(made_up())
    placed = Environment(allocator="reuse", c_library="glibc 2.36", threads=1, placement="refused", cores=[0, 1])
    page = readme(outcome([result(time=phased(), arithmetic=arithmetic(), environment=placed)]))
    assert "## Where the time goes\n\n| arm" in page
    assert "| laser |       4 |         1.70 |" in page
    assert "- cores of the cells: all that there are, since the system refused to share them out" in page


def test_what_the_first_table_tells_is_not_told_again_under_that_of_times():
    times = [phased().model_copy(update={"alone": False}) for _ in range(2)]
    page = readme(outcome([result(seed=seed, time=time) for seed, time in enumerate(times)], missing=[cell(seed=2)]))
    for told in ("while another cell ran beside them", "cells that these rows stand for have no record"):
        assert page.count(told) == 1


def test_the_page_names_no_folder_of_the_machine():
    page = readme(made_up())
    assert not re.search(r"(?<![\w.])/\w+/", page)
    assert "ValueError: no rows in mine.py" in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("can't read /home/a/b.c/d-e.py:12", "can't read d-e.py:12"),
        ("'/tmp/x/y'", "'y'"),
        ("--plugins-dir=/srv/own/plugins", "--plugins-dir=plugins"),
        ("and/or 1/2 suites/quick.yaml ./a/b ../c/d", "and/or 1/2 suites/quick.yaml ./a/b ../c/d"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ],
)
def test_only_absolute_paths_are_cut(text, expected):
    assert without_folders(text) == expected


def test_failures_are_grouped_by_reason():
    page = readme(made_up())
    section = page[page.index("## Not ok") : page.index("## How")]
    assert section.strip().splitlines()[2:] == [
        "- failed: ValueError: no rows in mine.py",
        "  - int8, depth 4, seed 0, 1",
    ]
    assert "## Not ok" not in readme(outcome(scores("none", GOOD)))


def test_verdicts_come_with_their_numbers_and_the_seeds_that_would_settle_them():
    page = readme(made_up())
    assert "### solved, higher is better, margin 0.5 points" in page
    (row,) = re.findall(r"^\| laser +\| +4 \| inconclusive.*$", page, re.MULTILINE)
    section = page[page.index("## Against") : page.index("## Not ok")]
    assert [line.split()[1] for line in section.splitlines() if line.startswith("| ")] == ["arm", "laser", "int8"]
    assert "| 3/5 |" in re.sub(r" +", " ", row)
    assert "(0.0312)" in row  # one in 2 ** 5
    assert re.search(r"- laser at depth 4, inconclusive: \d+ seeds would settle it with a probability of 80 %", page)
    assert "- Holm's adjustment is over 1 comparison." in page


def test_a_suite_without_margins_says_why_it_has_no_verdicts():
    page = readme(dataclasses.replace(made_up(), margins={}))
    section = page[page.index("## Against `none`, paired by seed") : page.index("## Not ok")]
    assert section.splitlines()[2].startswith("No verdicts: the suite declares no margins")
    assert "| laser" not in section


def verdict_row(made, arm):
    """The cells of an arm's row under the verdicts' headers."""
    section = readme(made).partition("## Against")[2]
    header, row = (re.search(rf"^\| {name} .*$", section, re.MULTILINE)[0] for name in ("arm", arm))
    header, row = ([part.strip() for part in line.strip("|").split("|")] for line in (header, row))
    return dict(zip(header, row, strict=True))


def test_a_verdicts_row_has_the_interval_and_what_the_exact_test_can_reach():
    row = verdict_row(made_up(), "laser")
    differences = 100 * (np.array([0.80, 0.83, 0.82, 0.83, 0.81]) - GOOD)
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    assert row["90 % interval"] == f"{interval.low:.2f} to {interval.high:.2f}"
    assert float(row["p"]) == pytest.approx(
        stats.ttest_1samp(differences, -0.5, alternative="greater").pvalue, rel=1e-2
    )
    assert verdict_row(made_up(), "int8")["dropped"] == "2 (2 failed)"
    results = scores("none", GOOD[:4]) + scores("laser", [0.79, 0.82, 0.82, 0.83])
    assert verdict_row(outcome(results, margins={"solved": 0.1}), "laser")["exact p (floor)"] == (
        "0.0625 (0.0625, n too small)"
    )


def test_equal_differences_have_no_p_value_and_the_page_says_that_nothing_is_tested():
    made = outcome(scores("none", GOOD) + scores("laser", GOOD), margins={"solved": 0.01})
    row = verdict_row(made, "laser")
    assert (row["p"], row["Holm p"], row["90 % interval"], row["not worse"]) == ("-", "-", "-", "5/5")
    assert "all 5 differences are equal, so that their sign decides and nothing is tested" in readme(made)


def test_each_workloads_family_is_named_with_its_size():
    results = []
    for hidden, arms in ((64, ["laser"]), (128, ["laser", "int8"])):
        workload = PluginReference(name="trm_maze", fields={"hidden": hidden})
        for arm, values in [("none", GOOD), *((arm, [0.80, 0.83, 0.82, 0.83, 0.81]) for arm in arms)]:
            results += scores(arm, values, variant={"hidden": hidden}, workload=workload)
    page = readme(outcome(results, margins={"solved": 0.01}))
    assert "over the comparisons of each workload: 1 (hidden=64), 2 (hidden=128)." in page


def test_a_metric_of_which_less_is_better_is_told_to_be():
    results = scores("none", [3.1, 3.2, 3.3], "perplexity") + scores("laser", [3.0, 3.2, 3.1], "perplexity")
    page = readme(outcome(results, margins={"perplexity": 0.2}, lower_is_better=["perplexity"]))
    assert "### perplexity, lower is better, margin 0.2" in page


def test_times_have_intervals_over_seeds_or_over_the_pairs_of_the_one():
    one = result("int8")
    one = one.model_copy(update={"time": one.time.model_copy(update={"ratio_quartiles": (1.4, 1.6), "pairs": 9})})
    results = [result("laser", seed=seed, ratio=ratio) for seed, ratio in enumerate([1.1, 1.3, 1.2])]
    page = readme(outcome([result("none", time=None), *results, one]))
    section = page[page.index("## Time against the plain step") : page.index("## Against")]
    interval = stats.ttest_1samp(np.log([1.1, 1.3, 1.2]), 0).confidence_interval(0.9)
    low, high = np.exp(interval)
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    assert rows[2:] == [
        ["laser", "4", f"{stats.gmean([1.1, 1.3, 1.2]):.3f}", f"{low:.3f} to {high:.3f}", "3 seeds"],
        ["int8", "4", "1.500", "1.364 to 1.649", "9 pairs of steps in one process"],
    ]
    assert "Time against the plain step" not in readme(outcome([result(time=None)]))


def test_the_page_says_what_was_found_in_words():
    made = made_up()
    page = readme(made)
    opening, *sentences = findings(made)
    assert f"## Findings\n\n{opening}\n\n- {sentences[0]}\n" in page
    assert all(f"- {sentence}\n" in page for sentence in sentences)


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (
            [result(a, seed=s, status="oom", reason="x") for a in ("none", "laser") for s in (0, 1)],
            "No cell ended well",
        ),
        (scores("laser", GOOD), "`none` has not been run under the same conditions"),
        (scores("none", GOOD), "Nothing but the reference `none` has been run"),
        (scores("none", GOOD[:1]) + scores("laser", GOOD[:1]), "3 are the least from which anything can be told"),
        (scores("none", GOOD, "norm") + scores("laser", GOOD, "norm"), "Nobody measured `solved`"),
        ([result("none", metrics={}), result("laser", metrics={})], "Nobody measured `solved`"),
        ([result("none", memory=None, time=None, fidelity=None), result("laser", time=None)], "its time was not"),
    ],
    ids=["failures alone", "one arm", "reference alone", "one seed", "other metric", "no metric", "nothing measured"],
)
def test_little_to_go_by_gives_a_page_without_a_number_that_is_none(results, said):
    page = readme(outcome(results, margins={"solved": 0.05}))
    assert said in page
    assert not re.search(r"\b(nan|inf|None)\b", page)


def test_settings_that_differ_between_cells_are_not_given_as_shared():
    results = [result(variant={"steps": steps}, training=Training(steps=steps)) for steps in (20, 40)]
    settings = readme(outcome(results)).partition("## Settings")[2]
    assert "steps 20" not in settings.partition("- arms")[0].replace("warmup_steps", "")
    assert "batch_size 64" in settings


def test_strategies_are_shown_with_their_fields():
    made = result("both", strategy=("laser", "int8"))
    parts = (PluginReference(name="laser", fields={"rank": 16}), PluginReference(name="int8"))
    made = made.model_copy(update={"cell": made.cell.model_copy(update={"strategy": parts})})
    assert "  - both: laser (rank 16), then int8" in readme(outcome([made]))


def test_cells_of_two_machines_are_told_apart():
    other = MACHINE.model_copy(update={"cpu": "Other 1"})
    results = [result(seed=0), result(seed=1, machine=other.hash), result(seed=2, machine="gone")]
    page = readme(outcome(results, machines={MACHINE.hash: MACHINE, other.hash: other}))
    for line in ("of 1 cells: Imaginary 9000", "of 1 cells: Other 1", "of 1 cells: not described in this folder"):
        assert f"- machine {line}" in page


def test_a_record_that_cannot_be_used_is_warned_of_and_counts_as_missing(tmp_path):
    made = outcome([result(seed=0), result(seed=1)])
    folder, _ = write(tmp_path, made)
    (folder / "cells" / f"{made.keys[1]}.json").write_text("{")
    warnings = []
    text = write_results(folder, warnings.append)
    assert len(warnings) == 1
    assert "1 of the 2 cells that these rows stand for have no record" in text


def test_a_folder_that_does_not_exist_names_the_nearest(tmp_path):
    write(tmp_path, made_up())
    with pytest.raises(StoreError, match=r"made_upp does not exist; did you mean 'made_up'\? \(beside it: made_up\)"):
        read_outcome(tmp_path / "made_upp")


def test_the_folder_above_names_those_in_it(tmp_path):
    write(tmp_path, made_up())
    with pytest.raises(StoreError, match=r"results of several suites: name one of its folders \(made_up\)"):
        read_outcome(tmp_path)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(StoreError, match=r"no usable suite\.json"):
        read_outcome(tmp_path)


def test_a_suite_of_which_nothing_has_been_run_is_an_error(tmp_path):
    folder, _ = write(tmp_path, outcome([], missing=[cell()]))
    with pytest.raises(StoreError, match="no record of any of the 1 cells of suite 'made_up'"):
        write_results(folder)
    assert not (folder / "README.md").exists()


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    folder, _ = write(tmp_path, made_up())
    (folder / "README.md").mkdir()
    with pytest.raises(StoreError, match=r"can't write .*README\.md"):
        write_results(folder)
