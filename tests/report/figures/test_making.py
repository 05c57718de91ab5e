"""All figures of an outcome together: whatever the results, a figure or a reason."""

import dataclasses
import functools
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import pytest

from compbench.report.figures import Figure, NoFigure, as_svg, dark, make_figures
from compbench.report.outcome import read_outcome
from tests.report.figures.stores import NASTY, store
from tests.report.made_up import outcome, result, write

ALL = {
    "memory_by_depth",
    "peak_memory_by_depth",
    "pareto_depth_2",
    "pareto_depth_4",
    "accuracy_by_seed_token_accuracy",
    "validation_token_accuracy",
    "validation_solved",
    "training_loss",
    "rank_and_fidelity_of_arms",
    "rank_and_fidelity_of_sites_checkpoint",
    "rank_and_fidelity_of_sites_laser",
    "rank_by_depth",
    "rank_by_depth_of_sites_checkpoint",
    "rank_by_depth_of_sites_laser",
    "gradient_by_depth",
    "saved_bytes_by_site",
}

LONG = "an_arm_with_a_name_of_many_words_that_nobody_would_want_to_read_in_a_legend"

at_one_depth = functools.partial(store, depths=(4,))

OUTCOMES = {
    "whole": store(),
    "only failures": outcome([result(status="failed", seed=seed) for seed in range(3)]),
    "nothing run": outcome([], missing=[result("laser").cell]),
    "no cells at all": outcome([]),
    "one arm": store(("none",)),
    "one arm that is not the reference": store(("laser",), strategy=("laser",)),
    "one seed": at_one_depth(seeds=(3,)),
    "one depth": store(depths=(4,)),
    "no metric": at_one_depth(metrics={}, validation_curve=[]),
    "a margin of a metric that nobody measured": at_one_depth(margins={"beauty": 0.1}),
    "metrics that are no numbers": at_one_depth(
        metrics={"token_accuracy": float("nan"), "solved": float("inf")},
        validation_curve=[{"step": 1, "solved": float("nan")}, {"step": 2, "solved": float("inf")}],
    ),
    "no memory and no time": at_one_depth(memory=None, time=None),
    "no sites": at_one_depth(memory=result().memory),
    "losses that are no numbers": at_one_depth(loss_curve=[1.0, float("nan"), float("inf")]),
    "records of version 3": at_one_depth(site_curves={}, validation_curve=[], exactness=None),
    "records of version 1": at_one_depth(statistics_curve=[], site_curves={}, validation_curve=[], exactness=None),
    "one training step": at_one_depth(
        loss_curve=[1.0],
        statistics_curve=[{"step": 1, "rank": 4.0}],
        validation_curve=[{"step": 1, "solved": 0.0}],
        site_curves={"a": {"rank": [(1, 4.0)]}},
    ),
    "nasty names": store(NASTY),
    "long names": store(("none", LONG, f"{LONG}_2", f"{LONG[:40]}_{LONG[-40:]}")),
    "thirty arms": store(tuple(f"arm_{number}" for number in range(30)), depths=(2, 4), seeds=(0,)),
    "nasty metrics": at_one_depth(
        metrics={"<b>a.b[0]'\"\\": 0.5, "": 0.1},
        validation_curve=[{"step": step, "<b>a.b[0]'\"\\": step / 10, "": 0.1} for step in (1, 2)],
        margins={"<b>a.b[0]'\"\\": 0.1},
    ),
}


@functools.cache
def figures_of(name):
    return make_figures(OUTCOMES[name])


def drawn(found):
    return [figure for figure in found if isinstance(figure, Figure)]


@pytest.mark.parametrize("name", OUTCOMES)
def test_whatever_the_results_each_figure_is_there_or_its_reason(name):
    found = figures_of(name)
    assert len({figure.name for figure in found}) == len(found)
    for figure in found:
        assert figure.name.replace("-", "").replace("_", "").replace("=", "").replace(".", "").isalnum()
        assert len(figure.name) < 120
        assert figure.title
        if isinstance(figure, NoFigure):
            assert figure.reason.endswith(".")
            continue
        assert figure.caption.endswith(".")
        assert "nan" not in figure.caption.lower()
        json.dumps(figure.specification, allow_nan=False)
        assert all(figure.specification["datasets"].values())


def test_a_whole_outcome_gives_every_figure_and_each_is_valid_by_the_schema():
    found = drawn(figures_of("whole"))
    assert {figure.name for figure in found} == ALL
    for figure in found:
        alt.Chart.from_dict(dict(figure.specification), validate=True)
    alt.Chart.from_dict(dark(found[0].specification), validate=True)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("only failures", {"memory_by_depth", "pareto", "training_loss", "saved_bytes_by_site", "validation"}),
        ("nothing run", {"memory_by_depth", "pareto", "training_loss", "saved_bytes_by_site", "validation"}),
        ("one depth", {"memory_by_depth", "peak_memory_by_depth", "rank_by", "gradient_by"}),
        ("one arm", {"pareto", "accuracy_by_seed_token_accuracy"}),
        ("one arm that is not the reference", {"pareto", "accuracy_by_seed_token_accuracy"}),
        ("no metric", {"pareto", "accuracy_by_seed_token_accuracy", "validation"}),
        ("a margin of a metric that nobody measured", {"accuracy_by_seed_beauty"}),
        ("metrics that are no numbers", {"pareto", "validation_solved"}),
        ("no memory and no time", {"memory_by_depth", "pareto", "saved_bytes_by_site"}),
        ("no sites", {"saved_bytes_by_site", "rank_by"}),
        ("records of version 3", {"validation", "rank_and_fidelity_of_sites"}),
        ("records of version 1", {"rank_and_fidelity_of_arms", "rank_and_fidelity_of_sites"}),
        ("one training step", {"training_loss", "validation_solved", "rank_and_fidelity_of_sites"}),
    ],
)
def test_what_is_missing_is_named_with_its_reason(name, missing):
    found = {figure.name for figure in figures_of(name) if isinstance(figure, NoFigure)}
    assert missing <= found


def texts(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", ["nasty names", "nasty metrics", "long names"])
def test_names_from_outside_are_text_and_nothing_else(name):
    wanted = (
        "memory_by",
        "pareto_depth_2",
        "accuracy_by",
        "validation",
        "rank_and_fidelity_of_a",
        "rank_by_depth",
        "gradient_by_depth",
        "saved_bytes_by_site_1",
    )
    figures = [f for f in drawn(figures_of(name)) if f.name.startswith(wanted) and "_of_sites_" not in f.name]
    for figure in figures:
        svg = as_svg(figure)
        root = ElementTree.fromstring(svg)  # well-formed, whatever is in the names
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert tags <= {"svg", "g", "rect", "path", "line", "text", "defs", "clipPath", "tspan"}
        attributes = {key for element in root.iter() for key in element.attrib}
        assert not {key for key in attributes if key.startswith("on") or key.endswith("href")}
        if name == "nasty names":
            shown = "\n".join(texts(svg))
            for label in ("<script>alert(1)</script>", "a.b[0]", 'it\'s "quoted"', "back\\slash", "{{x}} $datum %s"):
                assert label in shown, (figure.name, label)


def titles(part):
    """All titles in a specification, which Vega-Lite writes into expressions."""
    if isinstance(part, dict):
        yield from (value for name, value in part.items() if name == "title" and isinstance(value, str))
        yield from (title for name, value in part.items() if name != "datasets" for title in titles(value))
    elif isinstance(part, list):
        yield from (title for value in part for title in titles(value))


def test_no_title_can_end_a_string_of_an_expression():
    found = [title for f in drawn(figures_of("nasty metrics")) for title in titles(f.specification)]
    assert any("a.b[0]" in title for title in found)
    assert not any(character in title for title in found for character in "\"'`\\\n")


def test_every_one_of_thirty_arms_is_in_the_legend_with_a_look_of_its_own():
    figure = next(f for f in drawn(figures_of("thirty arms")) if f.name == "pareto_depth_2")
    shown = texts(as_svg(figure))
    assert {f"arm_{number}" for number in range(2, 30)} <= set(shown)
    assert {"arm_0, exact", "arm_1, exact"} <= set(shown)


def test_long_names_stay_apart():
    figure = next(f for f in drawn(figures_of("long names")) if f.name == "training_loss")
    labels = {row["arm"] for row in figure.specification["datasets"]["curves"]}
    assert len(labels) == 4
    assert max(map(len, labels)) < 36


def digests(found):
    return {
        figure.name: hashlib.sha256(json.dumps(figure.specification).encode() + figure.caption.encode()).hexdigest()
        for figure in drawn(found)
    }


PRINT_DIGESTS = """
import json, sys
from pathlib import Path
from compbench.report.figures import make_figures
from compbench.report.outcome import read_outcome
from tests.report.figures.test_making import digests
print(json.dumps(digests(make_figures(read_outcome(Path(sys.argv[1]))))))
"""


def test_the_same_results_give_the_same_specifications_in_this_process_and_in_another(tmp_path: Path):
    folder, _ = write(tmp_path, store(("none", "laser")))
    made = read_outcome(folder)
    first = digests(make_figures(made))
    make_figures(OUTCOMES["one depth"])  # what Altair counts up in between must not show
    assert digests(make_figures(made)) == first
    run = subprocess.run(
        [sys.executable, "-c", PRINT_DIGESTS, str(folder)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert json.loads(run.stdout) == first


ROOT = Path(__file__).parents[3]


def test_parameters_and_views_have_names_that_altair_does_not_count_up():
    found = [param for figure in drawn(figures_of("whole")) for param in figure.specification.get("params", [])]
    assert {param["name"] for param in found} == {"picked"}
    assert {view for param in found for view in param["views"]} == {
        "lines",
        "spread_0",
        "rank",
        "bars",
        "along",
        "sites",
    }


def test_the_order_in_which_records_are_found_does_not_show():
    made = OUTCOMES["whole"]
    again = dataclasses.replace(made, results=dict(reversed(made.results.items())))
    assert digests(make_figures(again)) == digests(make_figures(made))


def test_arms_that_are_one_file_name_get_two():
    found = make_figures(store(("none", "a b", "a/b"), depths=(2,)))
    names = [figure.name for figure in found if figure.name.startswith("rank_and_fidelity_of_sites")]
    assert names == ["rank_and_fidelity_of_sites_a-b", "rank_and_fidelity_of_sites_a-b-2"]


def test_large_results_make_specifications_that_stay_small():
    made = store(tuple(f"arm_{number}" for number in range(12)), depths=(2,), steps=3000)
    for figure in drawn(make_figures(made)):
        assert len(json.dumps(figure.specification)) < 1_200_000, figure.name
