"""Citations: authors as they were given, and a file that readers of YAML and of the format accept."""

import re
import string

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from compbench.errors import SettingsError
from compbench.report.citation import Author, citation, read_author, read_authors
from compbench.suite.source import Source

# Those that ORCID's own documentation gives as examples.
ORCIDS = ["0000-0002-1825-0097", "0000-0001-5109-3700", "0000-0002-1694-233X"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Doe, Jane", Author("Doe", "Jane")),
        ("  van der Berg ,  Jan-Piet A. ", Author("van der Berg", "Jan-Piet A.")),
        ("Plato,", Author("Plato")),
        ("{The Maze Group}", Author(group="The Maze Group")),
        ("Doe, Jane <0000-0002-1825-0097>", Author("Doe", "Jane", orcid="0000-0002-1825-0097")),
        ("Doe, Jane <University of X>", Author("Doe", "Jane", affiliation="University of X")),
        (
            "Doe, Jane <University of X; https://orcid.org/0000-0002-1694-233x>",
            Author("Doe", "Jane", orcid="0000-0002-1694-233X", affiliation="University of X"),
        ),
    ],
)
def test_authors_are_read_and_written_again(text, expected):
    assert read_author(text) == expected
    assert read_author(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Jane Doe", "a person's name has one comma"),
        ("", "a person's name has one comma"),
        (", Jane", "a person's name has one comma"),
        ("Doe, Jane, Roe, Rick", "a person's name has one comma"),
        ("{}", "the group has no name"),
        ("{Group} <X>", "a group has a name and nothing more"),
        ("Doe, Jane <a; b>", "more than one ORCID or affiliation"),
        ("Doe, Jane <0000-0002-1825-0097; 0000-0001-5109-3700>", "more than one ORCID or affiliation"),
        ("Doe, Jane <0000-0002-1825-009>", "'0000-0002-1825-009' is no ORCID"),
        ("Doe, Jane <https://example.org>", "is no ORCID"),
        ("Doe, Jane <X", "more than a name and what is in angle brackets"),
        ("Doe, Jane <X> Y", "more than a name and what is in angle brackets"),
        ("Doe,\nJane", "more than a name"),
    ],
)
def test_what_is_no_author_is_an_error_that_says_what_is_one(text, said):
    with pytest.raises(SettingsError, match=re.escape(said)) as error:
        read_author(text)
    assert "(allowed: 'Family, Given', " in str(error.value)


def test_nobody_is_named_twice():
    with pytest.raises(SettingsError, match="'Doe, Jane ' is named twice"):
        read_authors(["Doe, Jane", "Roe, Rick", "Doe, Jane "])


@pytest.mark.parametrize("orcid", ORCIDS)
def test_every_digit_of_an_orcid_counts(orcid):
    """ISO 7064, MOD 11-2 finds any one digit that is wrong."""
    assert read_author(f"Doe, J <{orcid}>").orcid == orcid
    for place, digit in enumerate(orcid):
        for other in "0123456789" if digit != "-" else "":
            if other != digit:
                with pytest.raises(SettingsError, match="no ORCID"):
                    read_author(f"Doe, J <{orcid[:place]}{other}{orcid[place + 1 :]}>")


@pytest.mark.parametrize(
    ("author", "expected"),
    [
        (Author("Doe", "Jane"), "Doe, J."),
        (Author("Doe", "Jane-Anne Q."), "Doe, J. A. Q."),
        (Author("Plato"), "Plato"),
        (Author(group="X"), "X"),
    ],
)
def test_names_are_short_in_a_list_of_references(author, expected):
    assert author.name == expected


WORDS = ["no", "1e3", "~", "0o17", ".5", "-1", "null", "2026-01-31"]


def written(title="t: results", version="sha256:0123456789ab", day="2026-01-31", abstract="", authors=(), programs=()):
    return citation(title, version, day, abstract, authors, programs)


def test_the_file_has_what_was_given():
    authors = [read_author(f"Doe, Jane <{ORCIDS[0]}; University of X>"), read_author("{Group}")]
    found = yaml.safe_load(written(abstract="Nobody ran this.", authors=authors, programs=["0.1.0", "0.2.0"]))
    assert found["cff-version"] == "1.2.0"
    assert found["authors"] == [
        {
            "family-names": "Doe",
            "given-names": "Jane",
            "orcid": "https://orcid.org/0000-0002-1825-0097",
            "affiliation": "University of X",
        },
        {"name": "Group"},
    ]
    assert (found["type"], found["version"], found["date-released"]) == ("dataset", "sha256:0123456789ab", "2026-01-31")
    assert found["abstract"] == "Nobody ran this."
    assert [reference["version"] for reference in found["references"]] == ["0.1.0", "0.2.0"]


def test_where_nobody_is_named_nobody_is_invented():
    assert yaml.safe_load(written())["authors"] == [{"name": "Anonymous"}]


def test_what_is_not_known_is_not_there():
    assert not {"date-released", "abstract", "references"} & set(yaml.safe_load(written(day="")))


def test_a_day_that_is_none_is_not_there():
    assert "date-released" not in yaml.safe_load(written(day="yesterday"))


@settings(max_examples=30)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20), st.sampled_from(WORDS))
def test_both_versions_of_yaml_read_the_same_text(text, word):
    """A title such as `no` or `1e3` is no truth and no number, in YAML 1.1 as in 1.2."""
    for title in (f"{text}x", word):
        data = written(title=title, abstract=title, authors=[Author(word, "A")])
        old, new = yaml.safe_load(data), Source.parse(data, "CITATION.cff").data
        assert old["title"] == new["title"] == title
        assert old == new


def test_the_formats_own_validator_accepts_it(tmp_path):
    cffconvert = pytest.importorskip("cffconvert", reason="cffconvert is not installed")
    authors = [read_author(f"Doe, Jane <{ORCIDS[2]}; X: Y>"), read_author("{Group}"), read_author("Plato,")]
    for data in (written(), written(day=""), written(abstract="a\nb", authors=authors, programs=["0.1.0"])):
        cffconvert.Citation(data).validate()


def test_every_required_field_is_there_and_none_that_the_format_does_not_know():
    """Against the names of schema 1.2.0, written out here."""
    found = yaml.safe_load(written(abstract="a", authors=[read_author(f"D, J <{ORCIDS[0]}; X>")], programs=["0.1.0"]))
    assert {"cff-version", "message", "title", "authors"} <= set(found)
    assert set(found) <= {
        *("abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords"),
        *("license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact"),
        *("repository-code", "title", "type", "url", "version"),
    }
    assert set(found["authors"][0]) <= {"affiliation", "alias", "family-names", "given-names", "name-suffix", "orcid"}
    assert {"authors", "title", "type"} <= set(found["references"][0])
    assert len(found["keywords"]) == len(set(found["keywords"]))
    assert all(letter in string.printable for letter in found["message"])
