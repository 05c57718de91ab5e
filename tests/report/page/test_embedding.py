"""What stands beside the text: it can't end its element, and the policy names just the scripts that there are."""

import base64
import hashlib
import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compbench.report.page.embedding import content_security_policy, json_for_script, script_for_element
from tests.report.page.reading import Page

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(JSON)
@example({"</script><!--": ["<script>", "&lt;", "\u2028"]})
def test_data_come_back_out_of_the_page_as_they_were(data):
    text = json_for_script(data)
    assert text.isascii()
    assert not set(text) & set("<>&")
    page = Page(f'<script type="application/json">{text}</script><p>after</p>')
    assert json.loads(page.one("script").text) == data
    assert page.one("p").text == "after"


def test_numbers_that_are_not_finite_are_null():
    data = {"a": [1.5, math.nan, (math.inf, -math.inf)], "b": math.nan}
    assert json.loads(json_for_script(data)) == {"a": [1.5, None, [None, None]], "b": None}


@pytest.mark.parametrize("hostile", ["</script><b>", "</SCRIPT ><b>", "<!-- <script> ", "a\r\nb\rc"])
def test_a_script_stays_in_its_element_and_is_hashed_as_the_browser_reads_it(hostile):
    script = script_for_element(f"const text = '{hostile}';")
    page = Page(f"<script>{script}</script><p>after</p>")
    assert page.one("script").text == script
    assert page.one("p").text == "after"
    assert "\r" not in script
    assert "<!--" not in script


def test_the_policy_names_each_script_by_its_hash_and_lets_nothing_be_fetched():
    policy = content_security_policy(["one()", "zwei('ü')"])
    digests = [base64.b64encode(hashlib.sha256(s.encode("utf-8")).digest()).decode() for s in ("one()", "zwei('ü')")]
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert "unsafe" not in directives["script-src"]
    assert not any("http" in value or "*" in value for value in directives.values())
