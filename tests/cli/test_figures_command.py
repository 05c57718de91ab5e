"""``compbench figures`` as its user sees it."""

import sys

import pytest

from compbench.cli import main
from tests.report.figures.stores import store
from tests.report.made_up import outcome, result, write


@pytest.fixture
def compbench(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder with results; gives its exit status, output and errors."""
    write(tmp_path / "results", store())
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["compbench", "figures", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return invoke


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_figure_is_a_file_beside_the_results_and_a_line(compbench, tmp_path):
    status, out, err = compbench("results/made_up")
    assert (status, err) == (0, "")
    written = names(tmp_path / "results/made_up/figures")
    assert len(written) == len(out.splitlines()) == 16
    assert "memory_by_depth.svg" in written
    assert all(name.endswith(".svg") for name in written)
    assert "memory_by_depth: Saved memory against recursion depth: results/made_up/figures/memory_by_depth.svg" in out


def test_formats_and_figures_can_be_chosen(compbench, tmp_path):
    status, out, _ = compbench(
        "results/made_up", "--format", "pdf, png", "--only", "pareto", "--only", "training_loss", "--output", "fig/new"
    )
    assert status == 0
    stems = ("pareto_depth_2", "pareto_depth_4", "training_loss")
    assert names(tmp_path / "fig/new") == sorted(f"{stem}.{kind}" for stem in stems for kind in ("pdf", "png"))
    assert not (tmp_path / "results/made_up/figures").exists()
    assert len(out.splitlines()) == 3


def test_the_page_of_the_results_shows_what_is_drawn_beside_them(compbench, tmp_path):
    page = tmp_path / "results/made_up/README.md"
    compbench("results/made_up", "--only", "training_loss")
    assert not page.exists()  # there is none to be made anew
    page.write_text("an earlier one")
    compbench("results/made_up", "--only", "pareto_depth_4", "--output", "elsewhere")
    assert page.read_text() == "an earlier one"
    compbench("results/made_up", "--only", "pareto_depth_4")
    assert '<img src="figures/pareto_depth_4.svg"' in page.read_text()
    assert '<img src="figures/training_loss.svg"' in page.read_text()
    (page.parent / "checksums.txt").write_text("")  # of a publication
    page.write_text("with all figures")
    compbench("results/made_up", "--only", "pareto_depth_4")
    assert page.read_text() == "with all figures"


def test_a_figure_that_can_not_be_drawn_is_named_with_the_reason(compbench, tmp_path):
    write(tmp_path / "few", outcome([result(seed=seed, loss_curve=[1.0, 0.5]) for seed in range(2)]))
    status, out, _ = compbench("few/made_up")
    assert status == 0
    assert "memory_by_depth: not drawn: All cells with measured memory are of depth 4" in out
    assert names(tmp_path / "few/made_up/figures") == ["training_loss.svg"]
    status, out, _ = compbench("few/made_up", "--only", "pareto", "--output", "other")
    assert status == 1
    assert out == (
        "pareto: not drawn: At no depth do two arms have both saved bytes and a held-out metric, "
        "and one alone is not compared.\n"
    )
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["results"], "has the results of several suites: name one of its folders (made_up)"),
        (["nowhere"], "nowhere"),
        (["results/made_up", "--format", "jpg"], "unknown format 'jpg'"),
        (["results/made_up", "--format", "svg,pgn"], "unknown format 'pgn'; did you mean 'png'? (allowed: html,"),
        (["results/made_up", "--format", ""], "unknown format ''"),
        (["results/made_up", "--only", "paretto"], "unknown figure 'paretto'"),
        (["results/made_up", "--output", "results/made_up/suite.json"], "can't write results/made_up/suite.json"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(compbench, arguments, message):
    status, out, err = compbench(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err


def test_the_same_results_give_the_same_files(compbench, tmp_path):
    for folder in ("one", "two"):
        compbench("results/made_up", "--format", "svg,png,pdf", "--only", "training_loss", "--output", folder)
    for kind in ("svg", "png", "pdf"):
        name = f"training_loss.{kind}"
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
