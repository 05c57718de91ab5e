"""Patterns over sites: what they choose, and what is said of those that can't be read or choose nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compbench.compressor import Site
from compbench.errors import SettingsError
from compbench.site_patterns import SitePatterns, unmatched_message

SITES = [
    Site("", "trm_96", 96),
    Site("block.0.attn.qkv", "attn_96", 96),
    Site("block.0.attn", "attn_96", 96),
    Site("block.0.attn", "attn_96", 96, index=1),
    Site("block.0.mlp.gate_up", "mlp_96", 96),
    Site("block.0.mlp", "mlp_1536", 1536),
    Site("block.0.mlp", "mlp_768", 768),
    Site("block.1.mlp", "mlp_1536", 1536),
    Site("block.1.mlp", "mlp_768", 768),
    Site("head", "head_96", 96),
]
NAMES = [site.name for site in SITES]


def chosen(*patterns: str | int) -> list[str]:
    selected = SitePatterns(patterns)
    return [site.name for site in SITES if selected.selects(site)]


def test_no_patterns_choose_every_site() -> None:
    assert chosen() == NAMES
    assert SitePatterns().unmatched(SITES) == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("block.*.mlp/mlp_*", ["block.0.mlp/mlp_1536", "block.0.mlp/mlp_768", "block.1.mlp/mlp_1536", NAMES[8]]),
        ("block.0.mlp/*", ["block.0.mlp/mlp_1536", "block.0.mlp/mlp_768"]),
        ("/*", ["/trm_96"]),  # the model itself, whose path is empty
        ("*/attn_96#1", ["block.0.attn/attn_96#1"]),
        ("*/attn_96#0", ["block.0.attn.qkv/attn_96", "block.0.attn/attn_96"]),
        ("*.attn/attn_96", ["block.0.attn/attn_96", "block.0.attn/attn_96#1"]),  # no index: every index
        ("attn_??#1", ["block.0.attn/attn_96#1"]),
        ("*.mlp", ["block.0.mlp/mlp_1536", "block.0.mlp/mlp_768", "block.1.mlp/mlp_1536", "block.1.mlp/mlp_768"]),
        ("mlp_1536", ["block.0.mlp/mlp_1536", "block.1.mlp/mlp_1536"]),
        ("block.[1]*", ["block.1.mlp/mlp_1536", "block.1.mlp/mlp_768"]),
        ("HEAD", []),  # case counts
        ("block", []),  # the whole path, not its beginning
        (768, ["block.0.mlp/mlp_768", "block.1.mlp/mlp_768"]),
        ("width:768", ["block.0.mlp/mlp_768", "block.1.mlp/mlp_768"]),
        ("width:>768", ["block.0.mlp/mlp_1536", "block.1.mlp/mlp_1536"]),
        ("width:>=768", [NAMES[5], NAMES[6], NAMES[7], NAMES[8]]),
        ("width:<768", [name for name in NAMES if name.endswith(("_96", "#1"))]),
        ("width:<= 96", [name for name in NAMES if name.endswith(("_96", "#1"))]),
    ],
)
def test_a_pattern_chooses_by_module_role_or_width(pattern: str | int, expected: list[str]) -> None:
    assert chosen(pattern) == expected
    assert chosen("!*", pattern) == expected
    excluding = f"!width:{pattern}" if isinstance(pattern, int) else f"!{pattern}"
    assert chosen(excluding) == [name for name in NAMES if name not in expected]


def test_the_last_pattern_that_matches_a_site_decides() -> None:
    assert chosen("*.mlp", "!mlp_768") == ["block.0.mlp/mlp_1536", "block.1.mlp/mlp_1536"]
    assert chosen("!mlp_768", "*.mlp") == NAMES
    assert chosen("*.mlp", "!mlp_768", "block.1.mlp/*") == [NAMES[5], NAMES[7], NAMES[8]]


def test_without_an_inclusion_first_everything_else_is_chosen() -> None:
    assert chosen("!*.attn*", "!head") == [name for name in NAMES if ".attn" not in name and "head" not in name]
    assert chosen("head", "!*.attn*") == ["head/head_96"]


@given(st.sampled_from(SITES))
def test_a_site_is_chosen_by_its_own_name_and_by_itself_under_its_index(site: Site) -> None:
    assert SitePatterns([site.name]).selects(site)
    assert [s for s in SITES if SitePatterns([f"{site.module}/{site.role}#{site.index}"]).selects(s)] == [site]


def test_a_single_pattern_need_not_be_in_a_list() -> None:
    assert SitePatterns("head").selects(SITES[-1])
    assert not SitePatterns("head").selects(SITES[0])
    assert SitePatterns(96).selects(SITES[0])


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "sites pattern '' is empty"),
        ("!", "sites pattern '!' is empty"),
        ("  ", "sites pattern '  ' is empty"),
        (" head", "sites pattern ' head' begins or ends with a space"),
        ("width:abc", "sites pattern 'width:abc' compares with no width"),
        ("width:", "sites pattern 'width:' compares with no width"),
        ("width:!=96", "sites pattern 'width:!=96' compares with no width"),
        ("!width:0", "sites pattern '!width:0' compares with no width"),
        ("block/", "sites pattern 'block/' is not of the form MODULE/ROLE"),
        ("a/b/c", "sites pattern 'a/b/c' is not of the form MODULE/ROLE"),
        (0, "sites pattern 0 is no width"),
        (-96, "sites pattern -96 is no width"),
        (True, "sites pattern True is neither a string nor a width"),
        (1.5, "sites pattern 1.5 is neither a string nor a width"),
    ],
)
def test_a_pattern_that_cannot_be_read_is_told_with_what_is_allowed(pattern: str, reason: str) -> None:
    with pytest.raises(SettingsError) as raised:
        SitePatterns(["head", pattern])
    assert str(raised.value).startswith(f"{reason} (allowed: MODULE/ROLE, a MODULE or a ROLE")
    assert "'width:>=512'" in str(raised.value)


def test_all_patterns_that_cannot_be_read_are_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"'width:abc' .*; sites pattern 'a/' "):
        SitePatterns(["width:abc", "a/"])


def test_patterns_that_match_no_site_are_found_exclusions_among_them() -> None:
    patterns = SitePatterns(["head", "haed", "!*.mpl", 97])
    assert patterns.unmatched(SITES) == ["haed", "!*.mpl", "97"]
    assert [line.partition(" matches")[0] for line in patterns.unmatched_message(SITES).splitlines()] == [
        "sites pattern 'haed'",
        "sites pattern '!*.mpl'",
        "sites pattern '97'",
    ]
    assert SitePatterns(["head", "!*.mlp"]).unmatched_message(SITES) == ""


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("haed", "head"),
        ("!haed", "head"),
        ("*.mpl", "block.0.mlp, block.1.mlp"),
        ("mpl_1536", "mlp_1536"),
        ("hed/*", "head/head_96"),
        ("block.0.mlp/mpl_768", "block.0.mlp/mlp_768"),
        ("head/head_69#1", "head/head_96"),
        ("width:100", "width:96, width:768, width:1536"),
        (1500, "width:1536, width:768, width:96"),
    ],
)
def test_the_message_for_a_pattern_that_matches_nothing_has_the_nearest_first(pattern: str, nearest: str) -> None:
    message = unmatched_message(pattern, SITES)
    assert message.startswith(f"sites pattern '{pattern}' matches none of the 10 sites; nearest: {nearest}")
    assert len(message.partition("nearest: ")[2].split(", ")) == 3


def test_without_sites_no_nearest_is_named() -> None:
    assert unmatched_message("head", []) == "sites pattern 'head' matches none of the 0 sites"
