"""The page as a whole: what it has, what it says of bad input, and that nothing in it is other than text."""

import json
import math
import re
import shutil

import pytest

from compbench.errors import StoreError
from compbench.report.outcome import read_outcome
from compbench.report.page import LARGEST_BYTES, make_page, write_page, writing
from compbench.report.page.drawings import Drawings
from compbench.report.page.extent import EXTENTS
from compbench.report.rows import as_csv, make_rows
from compbench.run.store import Store, SuiteRecord
from compbench.suite.cell import PluginReference
from tests.report.made_up import MACHINE, arithmetic, cell, memory, outcome, phased, result, scores, write
from tests.report.page.reading import Page

SCRIPT = "<script>alert(1)</script>"
GOOD = [0.80, 0.82, 0.84, 0.81, 0.83]


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch, request):
    """Figures take seconds to draw, and have tests of their own."""
    if "figures" not in request.keywords:
        monkeypatch.setattr(writing, "draw_figures", lambda outcome: Drawings((), ()))


def made_up():
    why = "ValueError: no rows in /home/somebody/mine.py"
    results = [
        *scores("none", GOOD),
        *scores("laser", [0.80, 0.83, 0.82, 0.83, 0.81], saved=290_000, ratio=1.06),
        *scores("lance", [0.70, 0.71, 0.72, 0.69, 0.70], time=phased(), arithmetic=arithmetic()),
        result("int8", seed=0, status="failed", reason=why, log_tail=["Traceback", "no"]),
    ]
    command = "compbench run /home/somebody/suites/made_up.yaml --jobs 1"
    return outcome(results, {"solved": 0.05}, [cell("int8", seed=1)], command=command)


def test_the_page_answers_what_a_reader_asks():
    page = Page(make_page(made_up()))
    assert page.one("h1").words == "made_up"
    assert [heading.words for heading in page.all("h2")] == [
        "Findings",
        "Results",
        "Against none, paired by seed",
        "Time",
        "Not ok",
        "Cells",
        "How it was made",
    ]
    asked = page.one("p", class_="question").words
    assert asked.startswith("How much less does a step under laser, lance and int8 hold")
    findings = [item.words for item in page.one("ul", class_="findings").all("li")]
    assert any("laser" in sentence and "71 %" in sentence for sentence in findings)
    origin = page.by_id("origin").words
    for needed in (
        "compbench run made_up.yaml --jobs 1",
        "17 in the suite, 16 run, 15 ok",
        "Imaginary 9000, 2 cores, 8.0 GB",
        "torch 2.13.0",
        "trm_maze, hidden 64",
        "steps 20, batch_size 64",
        "solved 0.05",
        "compbench report results/made_up",
    ):
        assert needed in origin, needed


def test_links_within_the_page_lead_somewhere_and_no_two_places_have_one_name():
    page = Page(make_page(made_up()))
    names = [element["id"] for element in page.walk() if "id" in element.attributes]
    assert len(names) == len(set(names))
    links = [link["href"] for link in page.all("a")]
    assert len(links) > 8
    assert {link.removeprefix("#") for link in links} <= set(names)
    for element in page.walk():
        if "aria-labelledby" in element.attributes:
            assert element["aria-labelledby"] in names


def test_the_table_has_what_the_tables_of_other_formats_have():
    header, *rows = Page(make_page(made_up())).rows("results")
    assert header[:5] == ["arm", "depth", "status", "seeds", "saved kB"]
    assert [row[0] for row in rows] == ["none", "laser", "lance", "int8"]
    assert rows[1][header.index("saving %")] == "71.0"
    assert rows[1][header.index("solved verdict")] == "non-inferior"
    assert rows[2][header.index("solved verdict")] == "degraded"


def test_every_planned_cell_is_there_with_its_reason_and_its_log(tmp_path):
    made = made_up()
    folder, _ = write(tmp_path, made)
    for record in made.results.values():
        Store(folder).log_path(record.key).write_text(f"this is the log of {record.key}\n")
    page = Page(make_page(read_outcome(folder), folder))
    cells = {key: page.by_id(f"cell-{key}") for key in made.keys}
    assert len(cells) == 17
    for key, body in cells.items():
        if key not in made.results:
            assert "missing" in body.words
            assert "not run" in body.words
            continue
        (folded,) = body.all("details")
        assert f"this is the log of {key}" in folded.one("pre", aria_label="Log").text
        assert f"cells/{key}.json" in folded.words
    failed = next(cells[key] for key, record in made.results.items() if record.status == "failed")
    assert failed.one("p", class_="reason").words == "failed: ValueError: no rows in mine.py"
    assert failed.one("pre", class_="log tail").text == "Traceback\nno"


def test_failures_are_grouped_by_cause_and_lead_to_their_cells():
    failures = Page(make_page(made_up())).by_id("failures")
    assert failures.one("h3").words == "failed ValueError: no rows in mine.py"
    assert [link.words for link in failures.all("a")] == ["int8, depth 4, seed 0"]
    assert failures.one("pre").text == "Traceback\nno"
    assert 'id="failures"' not in make_page(outcome(scores("none", GOOD)))


def test_the_raw_numbers_are_those_of_the_csv():
    made = made_up()
    numbers = Page(make_page(made)).data("numbers")
    assert numbers == {"name": "made_up.csv", "text": as_csv(make_rows(made))}


def test_the_page_names_no_folder_of_the_machine():
    source = make_page(made_up())
    assert "/home" not in source
    assert "somebody" not in source


def test_made_again_from_the_same_store_elsewhere_it_is_the_same_bytes(tmp_path):
    made = made_up()
    folder, _ = write(tmp_path, made)
    for record in made.results.values():
        Store(folder).log_path(record.key).write_text("a log\n" * 9)
    first = write_page(folder)
    assert first.path == folder / "report.html"
    assert first.size == first.path.stat().st_size
    elsewhere = tmp_path / "elsewhere" / "made_up"
    shutil.copytree(folder, elsewhere)
    second = write_page(elsewhere, tmp_path / "other.html")
    assert second.path.read_bytes() == first.path.read_bytes()
    assert write_page(folder).path.read_bytes() == second.path.read_bytes()


HOSTILE = {
    "arm": SCRIPT,
    "image": '"><img src=x onerror=alert(2)>',
    "braces": "{{ 7 * 7 }}{% raw %}",
    "comment": "<!-- --> ]]> </style></script>",
    "turned": "a\u202eb\x00c",
}


def hostile(tmp_path):
    """A store in which everything that a plugin or a suite can name is markup."""
    texts = list(HOSTILE.values())
    sites = [{"name": SCRIPT, "dtype": SCRIPT, "reason": HOSTILE["image"], "width": 1, "raw_bytes": 2, "kept_bytes": 1}]
    results = [
        result(
            text,
            seed=seed,
            strategy=(text,),
            variant={SCRIPT: HOSTILE["image"]},
            workload=PluginReference(name=SCRIPT, fields={SCRIPT: HOSTILE["comment"]}),
            metrics={"solved": 0.5 + seed / 100, SCRIPT: 0.5, HOSTILE["image"]: 1.0},
            statistics={SCRIPT: 1.0},
            statistics_curve=[{"step": 1.0, SCRIPT: 1.0}],
            sources={SCRIPT: HOSTILE["image"]},
            machine=MACHINE.hash,
            memory=memory().model_copy(update={"sites": sites, "peak_phase": SCRIPT}),
        )
        for text in ["none", *texts]
        for seed in range(3)
    ]
    results.append(result(SCRIPT, seed=9, status="failed", reason=HOSTILE["comment"] + SCRIPT, log_tail=texts))
    made = outcome(results, {"solved": 0.05, SCRIPT: 0.1}, description=SCRIPT + HOSTILE["braces"], command=SCRIPT)
    machine = MACHINE.model_copy(update={"cpu": SCRIPT})
    made = outcome(
        [record.model_copy(update={"machine": machine.hash}) for record in made.results.values()],
        made.margins,
        description=made.description,
        command=made.command,
        machines={machine.hash: machine},
    )
    folder, _ = write(tmp_path, made)
    for record in made.results.values():
        Store(folder).log_path(record.key).write_text(f"</pre></details>{SCRIPT}\x1b[31m{HOSTILE['image']}\n")
    return folder


def test_what_others_wrote_stays_text_wherever_it_stands(tmp_path):
    folder = hostile(tmp_path)
    source = make_page(read_outcome(folder), folder)
    page = Page(source)
    scripts = page.all("script")
    assert [script.attributes.get("id", script.attributes.get("type", "page.js")) for script in scripts] == [
        "numbers",
        "page.js",
    ]
    assert not page.all("img")
    assert not [name for element in page.walk() for name in element.attributes if name.startswith("on")]
    arms = [row[0] for row in page.rows("results")[1:]]
    assert any(arm.startswith(SCRIPT) for arm in arms)
    assert any(arm.startswith("{{ 7 * 7 }}{% raw %}") for arm in arms)
    assert any("a\\u202eb\\x00c" in arm for arm in arms)
    assert "\u202e" not in source
    assert "49" not in page.one("p", class_="description").words
    assert SCRIPT in page.by_id("origin").one("pre").text
    log = page.by_id(f"cell-{read_outcome(folder).cells[-1].key}").one("pre", aria_label="Log").text
    assert log == f"</pre></details>{SCRIPT}{HOSTILE['image']}"


def test_the_policy_lets_no_other_script_run_and_nothing_be_fetched(tmp_path):
    folder = hostile(tmp_path)
    page = Page(make_page(read_outcome(folder), folder))
    (policy,) = [m["content"] for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert len(re.findall("'sha256-", policy)) == 1
    assert "unsafe-eval" not in policy
    for element in page.walk():
        for name in ("src", "srcset", "action", "data", "poster"):
            assert name not in element.attributes, (element.tag, name)
        if "href" in element.attributes:
            assert element["href"].startswith(("#", "data:,"))


def test_numbers_that_are_not_finite_are_called_so(tmp_path):
    results = [
        *scores("none", [0.5, 0.6, 0.7]),
        *scores("laser", [math.nan, 0.5, 0.6]),
        *scores("int8", [math.inf] * 3),
    ]
    folder, _ = write(tmp_path, outcome(results, {"solved": 0.05}))
    page = Page(make_page(read_outcome(folder), folder))
    shown = [cell.words for table in page.all("table") for tag in ("td", "th") for cell in table.all(tag)]
    assert shown
    assert not [text for text in shown if re.search(r"(?i)(?<![a-z])(nan|inf|infinity)(?![a-z])", text)]
    json.loads(page.by_id("numbers").text)


# --- bad input: a page or an error that says what is missing ---------------------------------------------------------


def test_an_empty_store_is_an_error_that_says_so(tmp_path):
    store = Store.create(tmp_path, "empty")
    store.save_suite(SuiteRecord(name="empty", keys=[cell().key, cell("none").key]))
    with pytest.raises(StoreError, match="empty has no record of any of the 2 cells of suite 'empty'"):
        write_page(store.directory)
    assert not (store.directory / "report.html").exists()
    with pytest.raises(StoreError, match="is no suite's results folder"):
        write_page(tmp_path / "empty" / "cells")
    with pytest.raises(StoreError, match="does not exist"):
        write_page(tmp_path / "nowhere")


def test_a_store_of_only_failures_is_a_page_of_failures():
    results = [result(arm, seed=s, status="oom", reason="no memory") for arm in ("none", "laser") for s in (0, 1)]
    page = Page(make_page(outcome(results, {"solved": 0.05})))
    assert page.one("ul", class_="facts").words.startswith("4 of 4 cells run, 0 ok")
    assert page.by_id("failures").one("h3").words == "oom no memory"
    header, *rows = page.rows("results")
    assert [row[header.index("status")] for row in rows] == ["oom 2", "oom 2"]
    assert "No cell ended well" in page.by_id("findings").words


@pytest.mark.parametrize("arm", ["none", "laser"])
def test_one_arm_alone_is_a_page_without_comparisons(arm):
    page = Page(make_page(outcome(scores(arm, GOOD))))
    assert [row[0] for row in page.rows("results")[1:]] == [arm]
    assert "than one under" not in page.one("p", class_="question").words


def test_one_seed_is_a_page_whose_verdicts_say_that_it_is_too_few():
    page = Page(make_page(outcome([result("none"), result("laser")], {"solved": 0.05})))
    header, *rows = page.rows("verdicts-1")
    assert rows[0][header.index("verdict")] == "not tested"
    assert "fewer than three pairs" in page.by_id("verdicts").words
    assert "±" not in page.by_id("results").words


def test_no_margin_is_a_page_without_verdicts():
    page = Page(make_page(outcome(scores("none", GOOD) + scores("laser", GOOD))))
    assert "no margins" in page.by_id("verdicts").words
    assert not page.by_id("verdicts").all("table")
    assert not [header for header in page.rows("results")[0] if "verdict" in header]
    assert "lose less" not in page.one("p", class_="question").words


def test_a_metric_that_nobody_measured_is_named():
    page = Page(make_page(outcome(scores("none", GOOD) + scores("laser", GOOD), {"perplexity": 0.1})))
    header, *rows = page.rows("verdicts-1")
    assert rows[0][header.index("verdict")] == "not tested"
    assert "Nobody measured perplexity" in page.by_id("findings").words
    assert "it was not measured (measured were: solved)" in page.by_id("verdicts").words


def test_a_record_that_cannot_be_used_is_a_missing_cell_and_a_warning(tmp_path):
    folder, suite = write(tmp_path, outcome([result(seed=0), result(seed=1)]))
    (folder / "cells" / f"{suite.keys[1]}.json").write_text("{")
    warnings = []
    page = Page(write_page(folder, warn=warnings.append).path.read_text())
    assert len(warnings) == 1
    assert "missing" in page.by_id(f"cell-{suite.keys[1]}").words


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    folder, _ = write(tmp_path, outcome([result()]))
    with pytest.raises(StoreError, match=r"can't write .*nowhere/page.html: No such file or directory"):
        write_page(folder, tmp_path / "nowhere" / "page.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(StoreError, match="can't write"):
        write_page(folder, tmp_path / "taken")
    assert not list((tmp_path / "taken").iterdir())
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


# --- size -----------------------------------------------------------------------------------------------------------


def sizes_of(made, folder):
    """The size of the page at each extent, found by asking for one byte less than the last."""
    sizes, limit = [], 10**9
    while True:
        try:
            page = make_page(made, folder, limit)
        except StoreError:
            return sizes
        sizes.append((len(page.encode()), page))
        limit = sizes[-1][0] - 1


def test_a_page_that_is_too_large_leaves_out_logs_first_and_says_so(tmp_path):
    sites = [{"name": f"block/{n}", "width": 64, "raw_bytes": 10, "kept_bytes": 1, "reason": ""} for n in range(20)]
    with_sites = memory().model_copy(update={"sites": sites})
    results = [result(seed=seed, memory=with_sites, attempts=2) for seed in range(3)]
    results.append(result(seed=3, status="failed", reason="no"))
    made = outcome(results)
    folder, _ = write(tmp_path, made)
    for record in results:
        Store(folder).log_path(record.key).write_text("".join(f"{number:079}\n" for number in range(1000)))
    found = sizes_of(made, folder)
    assert len(found) == len(EXTENTS) - 1  # without figures the last one is no smaller
    pages = [Page(page) for _, page in found]
    notes = [page.by_id("cells").all("p", class_="note")[0].words for page in pages]
    assert "up to 32 kB" in notes[0]
    assert "larger than" not in notes[0]
    assert ["up to 8 kB" in notes[1], "up to 2 kB" in notes[2], "up to 1 kB" in notes[3]] == [True] * 3
    assert all("larger than 6 MB otherwise" in note for note in notes[1:])
    assert [len(page.all("div", aria_label="Sites")) for page in pages] == [3, 3, 3, 0, 0]
    logs = [[len(log.text) for log in page.all("pre", aria_label="Log")] for page in pages]
    assert [len(of_page) for of_page in logs] == [4, 4, 4, 4, 1]
    assert logs[0][0] > 31_000
    assert [max(of_page) <= most for of_page, most in zip(logs, (32_000, 8_000, 2_000, 1_000, 1_000), strict=True)]
    assert "Settings, figures and logs of cells that are ok are left out" in notes[-1]
    for page in pages:
        assert "attempt 2: earlier ones crashed" in page.by_id(f"cell-{results[0].key}").words


def test_a_page_that_is_too_large_whatever_is_left_out_is_an_error():
    with pytest.raises(StoreError, match=r"the page of made_up with its 1 cells would be larger than 1.00 kB, even "):
        make_page(outcome([result()]), None, 1000)


def test_the_page_of_two_hundred_cells_with_long_logs_fits(tmp_path):
    results = [
        result(arm, depth, seed)
        for arm in ("none", "laser", "lance", "gale", "int8")
        for depth in (2, 4, 8, 16)
        for seed in range(10)
    ]
    store = Store.create(tmp_path, "made_up")
    for record in results:
        store.log_path(record.key).write_text("a line of a log that is as long as such lines are\n" * 2000)
    page = make_page(outcome(results), store.directory)
    assert len(page.encode()) <= LARGEST_BYTES
    assert "up to 8 kB" in page
    assert "larger than 6 MB otherwise" in page
