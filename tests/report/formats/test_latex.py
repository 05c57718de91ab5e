r"""LaTeX as pdflatex sets it: pasted as it is into an article that loads booktabs and nothing else."""

import re
import shutil
import subprocess

import pytest

from compbench.report.formats import Table, as_text
from compbench.report.formats.latex import escaped
from compbench.report.tables import results_table
from tests.report.formats.hostile import TEXTS, table
from tests.report.made_up import outcome, scores

ENGINE = shutil.which("pdflatex")
needs_latex = pytest.mark.skipif(ENGINE is None, reason="pdflatex is not installed")


def set_by_latex(folder, text, preamble=""):
    """The text of the page and the log of pdflatex, which has to succeed."""
    document = "\\documentclass{article}\n\\usepackage{booktabs}\n" + preamble + "\\begin{document}\n\\noindent\n"
    (folder / "paper.tex").write_text(document + text + "\n\\end{document}\n")
    command = [ENGINE, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    if shutil.which("pdftotext") is None:
        return "", done.stdout
    read = subprocess.run(["pdftotext", "-layout", "paper.pdf", "-"], cwd=folder, capture_output=True, text=True)
    return read.stdout, done.stdout


@needs_latex
def test_whatever_names_say_pdflatex_sets_them(tmp_path):
    page, log = set_by_latex(tmp_path, as_text(table(), "latex_booktabs"))
    assert "Undefined control sequence" not in log
    if page:
        flat = re.sub(r"\s+", " ", page)
        for said in (
            "<script>alert(1)</script>",
            "\\input{/etc/passwd} \\end{tabular} %",
            "[laser, int8]",
            "*starred*",
        ):
            assert said in flat, said
        assert "100% a_b #1 {c}" in flat.replace("a b", "a_b")
        assert "U+6F22U+5B57" in flat
        assert "αβγ" in flat
        assert "−0.5 ± 0.1" in flat


@needs_latex
def test_no_row_is_taken_for_an_option_of_the_one_before(tmp_path):
    names = ["[1cm]", "*", "[laser, int8]", "*starred*", "\\\\[2cm]", "(x)"]
    made = Table(["arm", "n"], [[name, "1"] for name in names], words=["arm"], sections=range(1, len(names)))
    page, _ = set_by_latex(tmp_path, as_text(made, "latex_booktabs"))
    if page:
        assert [line.split("  ")[0].strip() for line in page.splitlines() if line.strip().endswith(" 1")] == names


@needs_latex
def test_the_default_table_fits_a_line_of_an_article(tmp_path):
    values = [0.80, 0.82, 0.84]
    made = outcome(
        [r for depth in (4, 8) for arm in ("none", "laser", "int8") for r in scores(arm, values, depth=depth)],
        margins={"solved": 0.05},
    )
    text = as_text(results_table(made), "latex_booktabs")
    _, log = set_by_latex(tmp_path, text)
    assert "Overfull" not in log
    assert "pt wide" not in text


@needs_latex
def test_the_width_that_is_told_is_the_width_that_it_has(tmp_path):
    """TeX's own width of the box against the estimate, of a table that fits at no size."""
    names = [f"{letter}uality of recomputed {letter}" for letter in "QRST"]
    rows = [[name, *["123.45 ± 67.89"] * 9] for name in names]
    text = as_text(Table(["arm", *"abcdefghi"], rows, words=["arm"], best={(0, 1)}), "latex_booktabs")
    told = float(re.search(r"About (\d+) pt wide", text)[1])
    boxed = "\\setbox0=\\hbox{\\ignorespaces\n" + text + "}\\typeout{WIDTH=\\the\\wd0}\n"
    _, log = set_by_latex(tmp_path, boxed)
    measured = float(re.search(r"WIDTH=([\d.]+)pt", log)[1])
    assert abs(told - measured) < 0.05 * measured


@needs_latex
def test_long_prose_is_broken_into_lines_and_code_is_set_as_code(tmp_path):
    prose = (
        "keeps `Z Q^T` of every call, and whatever else it takes to give back what was kept, at the rank of the site"
    )
    headers = ["name", "keeps", "source"]
    made = Table(headers, [[f"`s_{n}`", prose, prose] for n in range(3)], words=headers, code=True)
    text = as_text(made, "latex_booktabs")
    _, log = set_by_latex(tmp_path, text)
    assert "Overfull" not in log
    assert r"\texttt{Z Q\textasciicircum{}T} of" in text


def test_the_first_lines_say_what_it_needs_and_the_last_what_it_means():
    lines = as_text(table(), "latex_booktabs").splitlines()
    assert lines[0] == r"% Needs \usepackage{booktabs}, and nothing else."
    after = lines[lines.index(r"\endgroup") + 1 :]
    assert after[0] == "% bold: the best."
    assert len(after) == 1 + 2 * len(TEXTS)
    assert all(line.startswith("% ") for line in lines[lines.index(r"\endgroup") + 1 :])


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b % & # $ { }", r"a\_b \% \& \# \$ \{ \}"),
        ("~ ^ \\", r"\textasciitilde{} \textasciicircum{} \textbackslash{}"),
        ("2 ± 1 ≥ 0 × 3", r"2 $\pm$ 1 $\geq$ 0 $\times$ 3"),
        ("é Å č e\u0301", r"\'{e} \r{A} \v{c} \'{e}"),
        ("λ Λ ς ο Α ά", r"$\lambda$ $\Lambda$ $\varsigma$ o A $\alpha$\texttt{U+0301}"),
        ("漢", r"\texttt{U+6F22}"),
        ("ﬁ ①", "fi 1"),
        ("a--b ''", "a-{}-b '{}'"),
        ("[x]*", "{[}x{]}{*}"),
    ],
)
def test_letters_are_set_as_such_or_by_their_code(text, latex):
    assert escaped(text) == latex


def test_numbers_have_a_real_minus_and_what_is_not_there_a_dash():
    rows = [["-0.5", "-"], ["1e-07", "[-1.0, 2.0]"], ["4-5", ">0.9999"]]
    body = as_text(Table(["a", "b"], rows, words=[]), "latex_booktabs")
    assert r"$-$0.5 & -- \tabularnewline" in body
    assert r"1e-07 & {[}$-$1.0, 2.0{]} \tabularnewline" in body
    assert r"4-5 & \textgreater{}0.9999 \tabularnewline" in body
