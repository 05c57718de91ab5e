"""Figures as files: their text, their size, and the same bytes every time."""

import functools
import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import vl_convert

from compbench.report.figures import as_html, as_pdf, as_png, as_svg, javascript_bundle, make_figures
from compbench.report.figures.drawing import as_json
from tests.report.figures.stores import NASTY, store

LABELS = {
    "memory_by_depth": {"saved for backward (MB)", "recursion depth n (calls)", "law M = a + b n, in MB"},
    "peak_memory_by_depth": {"peak over static state (MB)", "recursion depth n (calls)"},
    "pareto_depth_2": {"saved for backward (MB)", "held-out token accuracy (%)", "time ratio", "laser"},
    "accuracy_by_seed_token_accuracy": {"token accuracy: arm minus none (points)", "depth 2", "depth 4"},
    "validation_solved": {"held-out solved (%)", "training step", "depth 4", "none"},
    "training_loss": {"training loss", "training step"},
    "rank_and_fidelity_of_arms": {"rank (columns)", "fidelity (cosine)", "training step"},
    "rank_and_fidelity_of_sites_laser": {"rank (columns)", "fidelity (cosine)", "block.mlp/mlp_192#1"},
    "rank_by_depth": {"mean rank of sites (columns)", "depth", "laser"},
    "rank_by_depth_of_sites_laser": {"rank (columns)", "depth", "block.mlp/mlp_192#1"},
    "gradient_by_depth": {"gradient cosine", "depth", "laser"},
    "saved_bytes_by_site": {"saved for backward (MB)", "block.attn/attn_64"},
}


@functools.cache
def figures():
    return {figure.name: figure for figure in make_figures(store())}


@pytest.mark.parametrize("name", LABELS)
def test_axes_are_labelled_with_their_units_in_the_svg(name):
    root = ElementTree.fromstring(as_svg(figures()[name]))
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert LABELS[name] <= texts
    sizes = {float(size) for size in re.findall(r'font-size="([0-9.]+)px"', as_svg(figures()[name]))}
    assert sizes <= {7.0, 7.5}


def size_of(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


def resolution_of(png):
    """Pixels a metre, as the file says."""
    start = png.index(b"pHYs") + 4
    return struct.unpack(">II", png[start : start + 8])


@pytest.mark.parametrize("name", LABELS)
def test_a_png_is_one_column_wide_at_300_pixels_an_inch(name):
    png = as_png(figures()[name])
    inches = size_of(png)[0] / 300
    assert 3.15 <= inches <= 3.35
    assert resolution_of(png) == pytest.approx((300 / 0.0254, 300 / 0.0254), rel=1e-3)


def page_size(pdf):
    left, bottom, right, top = map(float, re.search(rb"/MediaBox \[([0-9. ]+)\]", pdf)[1].split())
    return right - left, top - bottom


def test_a_pdf_is_as_large_as_the_svg_and_has_its_font_inside():
    pdf = as_pdf(figures()["memory_by_depth"])
    root = ElementTree.fromstring(as_svg(figures()["memory_by_depth"]))
    assert page_size(pdf) == (float(root.get("width")), float(root.get("height")))
    assert page_size(pdf)[0] == 240
    assert set(re.findall(rb"/BaseFont /[A-Z]{6}\+(\S+)", pdf)) == {b"LiberationSans"}
    assert b"/FontFile" in pdf
    assert b"Date" not in pdf


def digest():
    """Of all formats of a figure with marks, and of one with bands, which are transparent."""
    chosen = [figure for figure in make_figures(store()) if figure.name in ("pareto_depth_2", "training_loss")]
    files = [as_svg(figure).encode() + as_png(figure) + as_pdf(figure) for figure in chosen]
    return [hashlib.sha256(file).hexdigest() for file in files]


def test_files_are_the_same_bytes_in_every_process(request):
    command = [sys.executable, "-c", "from tests.report.figures.test_drawing import digest; print(digest())"]
    there = subprocess.run(command, capture_output=True, text=True, check=True, cwd=request.config.rootpath)
    assert str(digest()) == there.stdout.strip()


@pytest.mark.parametrize("name", LABELS)
def test_a_pdf_is_the_same_bytes_every_time(name):
    assert len({as_pdf(figures()[name]) for _ in range(4)}) == 1


@pytest.mark.skipif(not shutil.which("pdftoppm"), reason="needs pdftoppm")
def test_a_pdf_whose_entries_were_sorted_is_sound_and_looks_as_before(tmp_path):
    pages = {
        "sorted": as_pdf(figures()["training_loss"]),
        "drawn": vl_convert.vegalite_to_pdf(dict(figures()["training_loss"].specification), vl_version="6.4"),
    }
    pixels = {}
    for name, pdf in pages.items():
        (tmp_path / f"{name}.pdf").write_bytes(pdf)
        command = ["pdftoppm", "-r", "150", "-singlefile", f"{name}.pdf", name]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert run.stderr == ""
        pixels[name] = (tmp_path / f"{name}.ppm").read_bytes()
    assert pixels["sorted"] == pixels["drawn"]
    assert len(set(pixels["sorted"])) > 50


def test_a_page_has_everything_inside_and_names_are_text():
    nasty = next(figure for figure in make_figures(store(NASTY, depths=(2,))) if figure.name == "training_loss")
    page = as_html(nasty)
    bundle = javascript_bundle()
    rest = page.replace(bundle, "")
    assert len(rest) == len(page) - len(bundle)
    assert "</script" not in bundle
    assert re.findall(r"<(\w+)[^>]*\b(?:src|href)=", rest) == []
    assert rest.count("<script>") == rest.count("</script>") == 2
    assert "<img" not in rest
    assert "onerror" not in rest.split("<script>")[0]


def test_json_can_not_end_its_script_and_is_what_it_was():
    data = {"name": "</script><!-- <script> & \u2028 \u00e9", "values": [1.5, None, True]}
    text = as_json(data)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == data
    with pytest.raises(ValueError, match="JSON compliant"):
        as_json({"value": float("nan")})
