"""A publication: everything that is needed to read, cite, check and repeat results, and nothing that names anybody."""

import errno
import html
import json
import os
import re
import shutil
import subprocess

import pytest
import yaml
from markdown_it import MarkdownIt

from compbench.errors import SettingsError, StoreError
from compbench.report import publishing
from compbench.report.citation import read_author
from compbench.report.formats import as_text
from compbench.report.outcome import read_outcome
from compbench.report.publishing import PublishOptions, publish_results
from compbench.report.tables import results_table
from compbench.run.claims import Claims
from compbench.run.merging import join, write_joined
from compbench.run.sealing import unseal
from compbench.run.store import Store
from compbench.suite.cell import PluginReference
from tests.report.made_up import MACHINE, cell, memory, outcome, result, scores, write

SECRET = "somebody"
"""Whose machine it was."""

REASON = f"ValueError: no rows in /home/{SECRET}/plugins/mine.py"
TRACEBACK = [f'  File "/home/{SECRET}/plugins/mine.py", line 3, in rows', f"{SECRET}@gpu-17:~$"]
EXACT = PublishOptions(authors=[read_author("Doe, Jane <0000-0002-1825-0097>"), read_author("{Group}")], logs=True)


@pytest.fixture(scope="module", autouse=True)
def quick_disk():
    """Nothing here asks what outlasts a crash of the machine, and waiting for the disk is most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def few_drawings():
    """One figure and no report, which have tests of their own and take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        real = publishing.make_figures
        patch.setattr(publishing, "make_figures", lambda made: real(made)[:1])
        patch.setattr(publishing, "make_page", lambda made, folder: f"<!DOCTYPE html><title>{made.name}</title>")
        yield


def made_up(**fields):
    """Two depths, so that there are figures; one failure that tells whose machine it was; one cell not run."""
    results = [
        result(arm, depth, seed, memory=memory(size * depth, 2 * size * depth), metrics={"solved": 0.5 + seed / 10})
        for arm, size in (("none", 1000), ("laser", 100))
        for depth in (4, 8)
        for seed in (0, 1, 2)
    ]
    results.append(result("int8", status="failed", reason=REASON, log_tail=TRACEBACK))
    fields = {"command": f"compbench run /home/{SECRET}/suites/made_up.yaml --only depth=4,8"} | fields
    return outcome(results, margins={"solved": 0.05}, missing=[cell("int8", seed=1)], **fields)


def make_store(folder, made=None, logs=True):
    made = made or made_up()
    directory, _ = write(folder, made)
    Store(directory).save_suite_text(f"name: made_up  # of {SECRET}\nworkload: {{data: /home/{SECRET}/mazes}}\n")
    for key in made.results if logs else ():
        (directory / "logs" / f"{key}.log").write_text(f"in /home/{SECRET}/work\nok\n")
    return directory


def small():
    """Without figures, which take a while."""
    return outcome(scores("none", [0.5, 0.6, 0.7]) + scores("laser", [0.5, 0.7, 0.6]))


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A publication with all there may be in it, what was said of it, and the store."""
    folder = tmp_path_factory.mktemp("published")
    directory = make_store(folder / "results")
    publication = publish_results(directory, folder / "out", EXACT)
    return publication, directory


def test_everything_is_in_it(published):
    publication, directory = published
    found = set(files(publication.folder))
    keys = set(made_up().results)
    drawn = {path for path in found if path.startswith("figures/")}
    assert found - drawn == {
        *("README.md", "CITATION.cff", "checksums.txt", "cleaned.txt", "report.html", "suite.json", "suite.yaml"),
        *("table.csv", "table.json", "table.tex", f"machines/{MACHINE.hash}.json"),
        *(f"cells/{key}.json" for key in keys),
        *(f"logs/{key}.log" for key in keys),
    }
    stems = {path.partition(".")[0] for path in drawn}
    assert stems
    assert drawn == {f"{stem}.{suffix}" for stem in stems for suffix in ("svg", "pdf", "png")}
    assert publication.files == len(found)
    assert (publication.cells, publication.planned, publication.replaced) == (13, 14, False)
    assert "README.md" not in files(directory)


def test_it_names_nobody(published):
    publication, _ = published
    for path, data in files(publication.folder).items():
        assert SECRET.encode() not in data, path
        assert b"gpu-17" not in data, path
        assert b"/home/" not in data, path


def test_records_are_copied_byte_for_byte_unless_they_name_somebody(published):
    publication, directory = published
    before, after = files(directory), files(publication.folder)
    changed = [path for path in after if path.startswith(("cells/", "machines/")) and after[path] != before[path]]
    (key,) = (record.key for record in made_up().results.values() if record.status == "failed")
    assert changed == [f"cells/{key}.json"]
    old, new = (Store(folder).result(key) for folder in (directory, publication.folder))
    assert new.reason == "ValueError: no rows in mine.py"
    assert new.log_tail == ['  File "mine.py", line 3, in rows', "user@host:~$"]
    assert new.model_copy(update={"reason": old.reason, "log_tail": old.log_tail}) == old
    assert Store(publication.folder).inspect(key).sealed
    assert (publication.folder / "cleaned.txt").read_text() == f"{key}\n"
    assert "but for 1 whose reason, log or other text named a folder, a person or a host" in page(publication)


def page(publication):
    return (publication.folder / "README.md").read_text()


def test_its_checksums_hold_and_are_of_all_other_files(published):
    publication, _ = published
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "checksums.txt"], cwd=publication.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    checked = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    assert checked == set(files(publication.folder)) - {"checksums.txt"}


def test_a_file_that_was_changed_is_found(published, tmp_path):
    shutil.copytree(published[0].folder, tmp_path / "copy")
    (tmp_path / "copy" / "table.csv").write_text("arm\n")
    done = subprocess.run(
        ["sha256sum", "--check", "checksums.txt"], cwd=tmp_path / "copy", capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "table.csv: FAILED" in done.stdout


def test_the_same_store_gives_the_same_bytes_wherever_it_is(published, tmp_path):
    publication, directory = published
    moved = tmp_path / "deep" / "down" / "elsewhere"
    shutil.copytree(directory, moved)
    for path in moved.rglob("*"):
        os.utime(path, (10**9, 10**9))
    umask = os.umask(0o077)
    try:
        publish_results(moved, tmp_path / "out", EXACT)
    finally:
        os.umask(umask)
    again = files(tmp_path / "out")
    assert again == files(publication.folder)
    assert "README.md" in again


def test_a_publication_is_published_again_as_it_is(published, tmp_path):
    publication, _ = published
    publish_results(publication.folder, tmp_path / "again", EXACT)
    assert files(tmp_path / "again") == files(publication.folder)


def test_the_tables_are_those_of_its_own_records(published):
    publication, directory = published
    table = results_table(read_outcome(publication.folder))
    for name, layout in (("table.csv", "csv"), ("table.tex", "latex_booktabs"), ("table.json", "json")):
        assert (publication.folder / name).read_text().rstrip("\n") == as_text(table, layout).rstrip("\n")
    assert as_text(table, "csv") == as_text(results_table(read_outcome(directory)), "csv")
    json.loads((publication.folder / "table.json").read_text())


def rendered(publication):
    return MarkdownIt("commonmark").enable("table").render(page(publication))


def test_all_links_and_images_of_the_page_lead_to_its_files(published):
    publication, _ = published
    targets = re.findall(r'(?:src|href)="([^"#]+)"', rendered(publication))
    assert {"figures/", "cells/", "report.html", "CITATION.cff", "checksums.txt"} <= set(targets)
    assert any(target.endswith(".svg") for target in targets)
    for target in targets:
        assert (publication.folder / target).exists(), target
        assert not target.startswith(("/", ".."))


def test_the_page_says_what_it_takes_to_make_it_again(published):
    text = page(published[0])
    for needed in (
        "compbench run made_up.yaml --only depth=4,8",
        "the suite's file is `suite.yaml`",
        "- compbench 0.1.0, torch 2.13.0",
        "compbench publish . ../again --author 'Doe, Jane <0000-0002-1825-0097>' --author '{Group}' --logs",
        "Imaginary 9000, 2 cores",
        "- seeds: 0, 1, 2",
        "Doe, J.; Group (2026). made_up: results of compbench, version sha256:",
        "> **Incomplete:** 1 of the suite's 14 cells have no record, and 1 of the suite's 14 cells are not ok (failed",
    ):
        assert needed in text, needed


def test_the_page_has_every_figure_with_its_caption(published):
    publication, _ = published
    drawn = re.findall(r'<img src="(figures/[^"]+\.svg)" alt="([^"]+)"', rendered(publication))
    assert sorted(path for path, _ in drawn) == [path for path in files(publication.folder) if path.endswith(".svg")]
    for figure in publishing.make_figures(made_up()):
        assert (f"figures/{figure.name}.svg", html.escape(figure.title)) in drawn
        assert html.escape(figure.caption, quote=False) in html.unescape(rendered(publication)).replace("&", "&amp;")


def test_its_citation_is_of_its_newest_record_and_of_its_authors(published):
    publication, _ = published
    citation = yaml.safe_load((publication.folder / "CITATION.cff").read_text())
    assert citation["title"] == "made_up: results of compbench"
    assert citation["date-released"] == "2026-01-03"
    assert [author.get("family-names", author.get("name")) for author in citation["authors"]] == ["Doe", "Group"]
    assert citation["version"] in page(publication)


def test_the_version_changes_with_a_record_and_with_nothing_else(tmp_path):
    def version(name, made, options=None):
        publish_results(make_store(tmp_path / name, made), tmp_path / f"{name}.out", options or PublishOptions())
        return yaml.safe_load((tmp_path / f"{name}.out" / "CITATION.cff").read_text())["version"]

    changed = small()
    records = dict(changed.results)
    records[changed.keys[0]] = records[changed.keys[0]].model_copy(update={"seconds": 31.0})
    first = version("a", small())
    assert version("b", small(), EXACT) == first
    assert version("c", outcome(records.values())) != first


def test_nobody_named_is_said(tmp_path):
    publication = publish_results(make_store(tmp_path, small()), tmp_path / "out")
    assert any("CITATION.cff says Anonymous" in remark for remark in publication.remarks)
    assert "made_up: results of compbench, version" in page(publication)
    assert "Nobody is named as author, the year is 2026." in page(publication)


def test_logs_are_published_when_they_are_asked_for_and_are_no_links(tmp_path):
    directory = make_store(tmp_path, small())
    (tmp_path / "secret").write_text("key")
    first, second, *_ = small().keys
    (directory / "logs" / f"{first}.log").unlink()
    (directory / "logs" / f"{first}.log").symlink_to(tmp_path / "secret")
    (directory / "logs" / f"{second}.log").write_bytes(b"\xff in /home/somebody/x.py")
    publish_results(directory, tmp_path / "without")
    publish_results(directory, tmp_path / "with", EXACT)
    assert not (tmp_path / "without" / "logs").exists()
    assert not (tmp_path / "with" / "logs" / f"{first}.log").exists()
    assert (tmp_path / "with" / "logs" / f"{second}.log").read_text() == "\ufffd in x.py"
    assert "`logs/`" not in (tmp_path / "without" / "README.md").read_text()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (made_up(), "1 of the suite's 14 cells have no record, and 1 of the suite's 14 cells are not ok (failed 1)"),
        (outcome(scores("none", [0.5]), missing=[cell()]), "1 of the suite's 2 cells have no record"),
        (outcome([result(), result(seed=1, status="oom")]), "1 of the suite's 2 cells are not ok (oom 1)"),
    ],
)
def test_complete_results_can_be_asked_for(tmp_path, made, said):
    directory = make_store(tmp_path / "results", made)
    with pytest.raises(SettingsError, match=re.escape(f"--complete: {said} (allowed: ")):
        publish_results(directory, tmp_path / "out", PublishOptions(complete=True))
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_complete_results_are_complete(tmp_path):
    publication = publish_results(make_store(tmp_path, small()), tmp_path / "out", PublishOptions(complete=True))
    assert "Incomplete" not in page(publication)
    assert not any("incomplete" in remark for remark in publication.remarks)


def test_a_record_that_is_not_trusted_is_named_and_not_published(tmp_path):
    directory = make_store(tmp_path, small())
    path = directory / "cells" / f"{small().keys[0]}.json"
    path.write_text(path.read_text().replace('"solved": 0.5', '"solved": 0.9'))
    publication = publish_results(directory, tmp_path / "out")
    assert any(f"{path}: not trusted, and not published: " in remark for remark in publication.remarks)
    assert not (tmp_path / "out" / "cells" / path.name).exists()
    assert "1 of the suite's 6 cells have no record (1 of them one that is not trusted, and not here)" in page(
        publication
    )


def test_results_that_failed_altogether_are_results(tmp_path):
    made = outcome([result(seed=seed, status="oom") for seed in (0, 1)])
    publication = publish_results(make_store(tmp_path, made), tmp_path / "out")
    assert any(remark.startswith("no cell is ok") for remark in publication.remarks)
    assert "(oom 2)" in page(publication)


def test_a_run_at_work_is_said(tmp_path):
    directory = make_store(tmp_path, small())
    claims = Claims(directory / "claims", pytest.fail)
    try:
        assert claims.take(small().keys[0])
        remarks = publish_results(directory, tmp_path / "out").remarks
    finally:
        claims.close()
    assert any("a run is at work on 1 of the cells" in remark for remark in remarks)


def test_a_store_without_records_is_an_error(tmp_path):
    directory = make_store(tmp_path / "results", outcome([], missing=[cell()]))
    with pytest.raises(StoreError, match="has no record of any of the 1 cells of 'made_up'"):
        publish_results(directory, tmp_path / "out")
    directory = make_store(tmp_path / "results", outcome([result()]))
    next((directory / "cells").iterdir()).write_text("{")
    with pytest.raises(StoreError, match=r"no record that can be trusted \(1 can't\)"):
        publish_results(directory, tmp_path / "out")
    for wrong in ("nothing", "results"):
        with pytest.raises(StoreError, match=r"does not exist|name one of its folders"):
            publish_results(tmp_path / wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_that_are_places_are_refused_or_published_on_request(tmp_path):
    plugin = PluginReference(name="trm_maze", fields={"data": f"/home/{SECRET}/mazes"})
    directory = make_store(tmp_path / "results", outcome([result(workload=plugin)]))
    with pytest.raises(
        SettingsError, match=rf"settings name places on this machine.*'/home/{SECRET}/mazes' in laser-d4-s0"
    ):
        publish_results(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    publication = publish_results(directory, tmp_path / "out", PublishOptions(allow_paths=True))
    (record,) = read_outcome(publication.folder).results.values()
    assert record.cell.workload == plugin


def test_own_names_that_are_left_are_told_and_change_nothing(tmp_path):
    made = small()
    first = made.keys[0]
    records = dict(made.results) | {first: made.results[first].model_copy(update={"reason": "as mallory said"})}
    directory = make_store(tmp_path, outcome(records.values()))
    told = publish_results(directory, tmp_path / "out", own_names=["mallory", "trent"])
    (remark,) = (remark for remark in told.remarks if "mallory" in remark)
    assert f"is in cells/{first}.json" in remark
    assert not any("trent" in remark for remark in told.remarks)
    publish_results(directory, tmp_path / "plain")
    assert files(tmp_path / "out") == files(tmp_path / "plain")


def test_a_joined_store_is_published_with_what_was_left_out_of_it(tmp_path):
    failed = result(status="failed", reason=REASON, started_at="2026-01-01T00:00:00+00:00")
    other = MACHINE.model_copy(update={"cpu": "Other 1"})
    good = outcome([result(), result(seed=1, machine=other.hash)], machines={m.hash: m for m in (MACHINE, other)})
    a, b = (make_store(tmp_path / name, made, logs=False) for name, made in (("a", outcome([failed])), ("b", good)))
    into = tmp_path / "joined" / "made_up"
    write_joined(join([a, b], prefer="newest", without_times=True), into)
    publication = publish_results(into, tmp_path / "out")
    assert SECRET.encode() not in b"".join(files(publication.folder).values())
    for said in (
        "joined from 2 stores (0 + 2 cells)",
        "Left out by --prefer newest: seed 0, failed",
        "times are left out",
    ):
        assert said in page(publication).replace("\\", ""), said
    assert "Other 1" in page(publication)
    assert read_outcome(publication.folder).merged.left_out[0].reason == "ValueError: no rows in mine.py"
    assert "`merged.json`" in page(publication)


HOSTILE = "<script>alert(1)</script> [x](https://evil.example) ![y](https://evil.example/z) `b` | a"


def test_what_others_wrote_formats_nothing(tmp_path):
    made = outcome([result(reason="", status="ok"), result("int8", status="failed", reason=HOSTILE)])
    made = outcome(made.results.values(), description=HOSTILE, command=f"compbench run x\n```\n{HOSTILE}")
    publication = publish_results(make_store(tmp_path, made), tmp_path / "out")
    shown = rendered(publication)
    assert "<script" not in shown
    assert "evil.example" not in "".join(re.findall(r'(?:href|src)="([^"]*)"', shown))
    assert html.escape(HOSTILE, quote=False) in html.unescape(shown).replace("<", "&lt;").replace(">", "&gt;")


# Where it goes.


def test_an_earlier_publication_of_the_suite_is_replaced_whole(tmp_path):
    made = small()
    directory = make_store(tmp_path, made)
    publish_results(directory, tmp_path / "out", EXACT)
    first, *_ = made.keys
    (directory / "cells" / f"{first}.json").unlink()
    (tmp_path / "out" / "table.csv").unlink()  # what is missing can't be lost
    publication = publish_results(directory, tmp_path / "out")
    assert publication.replaced
    assert not (tmp_path / "out" / "logs").exists()
    assert not (tmp_path / "out" / "cells" / f"{first}.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made_up", "out"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert not publish_results(make_store(tmp_path, small()), tmp_path / "out").replaced


def occupied(tmp_path, how):
    """A folder that may not be replaced."""
    out = tmp_path / "out"
    if how == "a file":
        out.write_text("mine")
    elif how == "no publication":
        out.mkdir()
        (out / "notes").write_text("mine")
    elif how == "a store":
        shutil.copytree(make_store(tmp_path / "other", small()), out)
    elif how == "another suite":
        publish_results(make_store(tmp_path / "other", outcome([result()], name="other")), out)
    else:
        publish_results(make_store(tmp_path / "other", small()), out)
        if how == "more in it":
            (out / "cells" / "notes").write_text("mine")
        elif how == "changed":
            (out / "README.md").write_text("mine")
        elif how == "no list":
            (out / "checksums.txt").write_text("mine")
        elif how == "a newer one":
            record = unseal((out / "suite.json").read_bytes()).content | {"schema_version": 99}
            (out / "suite.json").write_text(json.dumps(record))
    return out


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("a file", "is a file"),
        ("no publication", "has files in it and is no publication"),
        ("a store", "has files in it and is no publication"),
        ("another suite", "is a publication of another suite, 'other'"),
        ("more in it", "something else in it, which would be lost: cells/notes"),
        ("changed", "was changed, and the changes would be lost: README.md"),
        ("no list", "has files in it and is no publication"),
        ("a newer one", "can't be told for a publication: .* needs a newer compbench"),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path, how, said):
    out = occupied(tmp_path, how)
    directory = make_store(tmp_path / "results", small())
    before = files(tmp_path)
    with pytest.raises(SettingsError, match=rf"{said}.* \(allowed: .*\)"):
        publish_results(directory, out)
    assert files(tmp_path) == before


def test_a_place_in_the_results_or_around_them_or_here_is_refused(tmp_path, monkeypatch):
    directory = make_store(tmp_path / "results", small())
    (tmp_path / "link").symlink_to(directory)
    for place in (directory, directory / "out", tmp_path / "results", tmp_path / "link" / "out"):
        with pytest.raises(SettingsError, match="one in the other"):
            publish_results(directory, place)
    (tmp_path / "here" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "deep")
    for place in (tmp_path / "here", tmp_path / "here" / "deep"):
        with pytest.raises(SettingsError, match="is the folder that you are in, or above it"):
            publish_results(directory, place)


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("written", [0, 3, 9, 14])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_on_a_full_disk_or_an_interrupt_all_is_as_it_was(tmp_path, monkeypatch, earlier, written, error):
    directory = make_store(tmp_path / "results", small())
    if earlier:
        publish_results(directory, tmp_path / "out", EXACT)
    before = files(tmp_path), sorted(tmp_path.iterdir())
    count = iter(range(1000))
    real = type(tmp_path).replace

    def full(path, target):
        if next(count) >= written:
            raise error
        return real(path, target)

    monkeypatch.setattr(type(tmp_path), "replace", full)
    expected = StoreError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left on device" if isinstance(error, OSError) else None):
        publish_results(directory, tmp_path / "out")
    assert (files(tmp_path), sorted(tmp_path.iterdir())) == before


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    directory = make_store(tmp_path / "results", small())
    if os.geteuid() == 0:  # Permissions don't bind root: a file system that can't be written to stands in for them.
        place = type(tmp_path)("/proc/sys/out")
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        place = tmp_path / "closed" / "out"
    with pytest.raises(StoreError, match=f"can't write {place}"):
        publish_results(directory, place)


def test_an_error_names_the_place_and_not_where_the_folder_is_made(tmp_path, monkeypatch):
    directory = make_store(tmp_path / "results", small())

    def full(path, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "replace", full)
    with pytest.raises(StoreError) as error:
        publish_results(directory, tmp_path / "out")
    first, *_ = small().keys
    assert str(error.value) == f"can't write {tmp_path}/out/cells/{first}.json: No space left on device"


def test_a_report_that_would_be_too_large_is_left_out(tmp_path, monkeypatch):
    def too_large(made, folder):
        raise StoreError("the page of made_up would take 7 MB")

    monkeypatch.setattr(publishing, "make_page", too_large)
    publication = publish_results(make_store(tmp_path, small()), tmp_path / "out")
    assert "without report.html: the page of made_up would take 7 MB" in publication.remarks
    assert not (tmp_path / "out" / "report.html").exists()
    assert "report.html" not in page(publication)


def test_a_record_that_changes_in_the_meantime_ends_it(tmp_path, monkeypatch):
    directory = make_store(tmp_path / "results", small())
    real = publishing.Snapshot.write

    def write_later(snapshot, folder):
        Store(directory).save(result("none", seed=0, saved=7))
        return real(snapshot, folder)

    monkeypatch.setattr(publishing.Snapshot, "write", write_later)
    with pytest.raises(StoreError, match=r"the record of none-d4-s0-\w+ has changed while it was published"):
        publish_results(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()
