"""Colours that colour-blind readers tell apart, and looks that no two arms share."""

import itertools

import numpy as np
import pytest

from compbench.report.figures.key import DASHES, SHAPES, Key, arms_key, short_labels
from compbench.report.figures.style import DARK_CONFIG, LIGHT_CONFIG, dark
from tests.report.made_up import outcome, result

# Machado, Oliveira and Fernandes 2009, severity 1.0: on linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(colour):
    values = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    x = XYZ @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one, other):
    darker, lighter = sorted((XYZ[1] @ linear(one), XYZ[1] @ linear(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(("config", "least"), [(LIGHT_CONFIG, 20), (DARK_CONFIG, 17)], ids=["light", "dark"])
def test_any_two_colours_are_told_apart(config, least, vision):
    seen = [lab(VISIONS[vision] @ linear(colour)) for colour in config["range"]["category"]]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= least


@pytest.mark.parametrize(("config", "background"), [(LIGHT_CONFIG, "#FFFFFF"), (DARK_CONFIG, "#1E1E1E")])
def test_colours_and_text_stand_out_from_the_background(config, background):
    assert min(contrast(colour, background) for colour in config["range"]["category"]) >= 3
    assert contrast(config["axis"]["labelColor"], background) >= 7


def test_dark_changes_the_config_alone_and_leaves_no_light_colour():
    specification = {"mark": "bar", "config": LIGHT_CONFIG}
    assert dark(specification) == {"mark": "bar", "config": DARK_CONFIG}

    def shape(part):
        return {name: shape(value) for name, value in part.items()} if isinstance(part, dict) else None

    assert shape(DARK_CONFIG) == shape(LIGHT_CONFIG)
    assert DARK_CONFIG["background"] == "transparent"


def looks(key, names):
    scales = key.shape(names).to_dict()["scale"], key.dash(names).to_dict()["scale"]
    colours = [number % 8 for number in range(len(names))]
    assert all(scale["domain"] == list(key.labels.values()) for scale in scales)
    shapes, dashes = (list(map(str, scale["range"])) for scale in scales)
    return list(zip(colours, shapes, strict=True)), list(zip(colours, dashes, strict=True))


def test_no_two_of_64_arms_look_the_same_whether_as_marks_or_as_lines():
    names = [f"arm {number}" for number in range(64)]
    marks, lines = looks(Key("arm", short_labels(names)), names)
    assert len(set(marks)) == len(set(lines)) == 64
    assert len({shape for _, shape in marks[:8]}) == len(SHAPES) == len(DASHES) == 8


def test_the_reference_has_the_colour_of_the_text_wherever_it_stands_in_the_suite():
    made = outcome([result("b"), result("a"), result("plain", strategy=("none",))])
    assert list(arms_key(made).labels) == ["plain", "b", "a"]


def test_an_arm_has_the_same_look_in_every_figure():
    names = ["none", "a", "b", "c"]
    key = Key("arm", short_labels(names))
    assert key.colour(["c"]).to_dict()["scale"] == key.colour(names).to_dict()["scale"]
    assert key.colour(["c"]).to_dict()["legend"]["values"] == ["c"]


def test_labels_are_short_printable_and_differ():
    names = ["a" * 50 + "x", "a" * 50 + "y", "a" * 51, "line\nbreak", "line\tbreak", "plain"]
    labels = short_labels(names)
    assert list(labels) == names
    assert len(set(labels.values())) == len(names)
    assert all(label.isprintable() and len(label) <= 35 for label in labels.values())
    assert labels["plain"] == "plain"
