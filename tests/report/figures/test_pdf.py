"""PDFs: the same figure is the same bytes, and still the same PDF, to a reader that had no part in it."""

import copy
import re
import shutil
import subprocess

import pytest
import vl_convert

from compbench.report.figures import Figure, as_pdf
from compbench.report.figures.pdf import in_order

OPACITIES = {
    "data": {"values": [{"x": place, "y": place, "opacity": 0.1 + 0.08 * place} for place in range(10)]},
    "mark": "point",
    "encoding": {
        "x": {"field": "x", "type": "quantitative"},
        "y": {"field": "y", "type": "quantitative"},
        "opacity": {"field": "opacity", "type": "quantitative", "scale": None, "legend": None},
    },
}
"""Ten opacities, each a resource of the page."""

FONTS = copy.deepcopy(OPACITIES)
FONTS["title"] = {"text": "Bold", "subtitle": "italic (1 0 R)", "subtitleFontStyle": "italic"}
FONTS["encoding"]["x"]["axis"] = {"titleFont": "DejaVu Sans Mono", "labelFont": "DejaVu Serif"}
SPECIFICATIONS = pytest.mark.parametrize("specification", [OPACITIES, FONTS], ids=["opacities", "fonts"])


def draw(specification):
    return vl_convert.vegalite_to_pdf(specification, vl_version="6.4")


@SPECIFICATIONS
def test_a_figure_is_the_same_bytes_each_time(specification):
    drawn = {draw(specification) for _ in range(6)}
    assert len(drawn) > 1, "the renderer has an order of its own by now: in_order can go"
    ordered = {in_order(pdf) for pdf in drawn}
    assert len(ordered) == 1
    figure = Figure("x", "x", "x", specification)
    assert {as_pdf(figure), as_pdf(figure)} == ordered
    assert {in_order(pdf) for pdf in ordered} == ordered


@SPECIFICATIONS
def test_every_object_is_where_the_table_says_and_none_is_lost(specification):
    pdf = draw(specification)
    ordered = in_order(pdf)
    assert len(ordered) == pytest.approx(len(pdf), abs=50)  # a reference to object 9 is shorter than one to 10
    table = ordered[int(re.findall(rb"startxref\n(\d+)\n", ordered)[-1]) :]
    assert table.startswith(b"xref\n")
    offsets = [int(offset) for offset in re.findall(rb"^(\d{10}) 00000 n\r\n", table, re.MULTILINE)]
    for number, offset in enumerate(offsets, start=1):
        assert ordered[offset:].startswith(b"%d 0 obj\n" % number)
    assert b"/Size %d\n" % (len(offsets) + 1) in table
    assert ordered.count(b"endobj") == pdf.count(b"endobj") == len(offsets)


@SPECIFICATIONS
def test_a_reader_shows_the_same_page(specification, tmp_path):
    if shutil.which("pdftoppm") is None:
        pytest.skip("pdftoppm (poppler-utils) is not installed")
    pages = []
    for name, pdf in (("drawn", draw(specification)), ("ordered", in_order(draw(specification)))):
        (tmp_path / f"{name}.pdf").write_bytes(pdf)
        done = subprocess.run(["pdftoppm", "-r", "100", f"{name}.pdf"], cwd=tmp_path, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        pages.append(done.stdout)
    assert pages[0] == pages[1]
    assert len(set(pages[0])) > 10


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"%PDF-1.7 in another way",
        b"%PDF-1.7\nxref\n0 1\ntrailer\n<< /Root 1 0 R >>\nstartxref\n9\n%%EOF",
        b"%PDF-1.7\n1 0 obj\nxref\n0000000007 00000 n\r\ntrailer\n<< /Root 1 0 R >>\nstartxref\n9\n%%EOF",
        b"%PDF-1.7\n1 0 obj\nxref\n0000000009 00000 n\r\ntrailer\n<< /Root 2 0 R >>\nstartxref\n9\n%%EOF",
    ],
)
def test_what_is_written_in_another_way_is_left_as_it_is(other):
    assert in_order(other) == other
