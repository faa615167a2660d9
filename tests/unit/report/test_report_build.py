"""The whole report: what is in its files, what must not be, and how long it takes."""

import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest
from made_up_runs import cell, end, failed, record, run_of, sweep

from ttc.core.errors import DataError
from ttc.report.build import build_report

STRATEGIES = {("self-consistency", "uniform"): 0.0, ("best-of-n", "uniform"): 0.2, ("coverage", "uniform"): 0.4}
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects elements, attributes and text, and checks that elements nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(" ".join(data.split()))


@pytest.fixture
def report(tmp_path):
    run = run_of(
        tmp_path,
        sweep(STRATEGIES, (256, 512, 1024), problems=60),
        limit=60,
        seed=7,
        command="ttc sweep --task gsm8k --limit 60",
        restarts=[{"at": "2025-01-01T00:00:00Z", "reserved_tokens": 300}, {"at": "x", "reserved_tokens": 45}],
    )
    environment = {"python": "3.11.9", "processor": "A Processor", "cores": 2, "packages": {"vllm": "0.32.0"}}
    (run.path / "env.json").write_text(json.dumps(environment))
    return build_report(run)


def test_all_files_are_written(report, tmp_path):
    for path in (report.html, report.svg, report.png, report.markdown, report.csv):
        assert path.parent == tmp_path / "report"
        assert path.stat().st_size > 300
    assert report.png.read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "report").glob(".*"))


def test_page_says_what_the_numbers_are(report):
    page = Page(report.html.read_text())
    text = " ".join(page.texts)
    assert report.headlines[0].startswith("best-of-n under uniform is +")
    assert report.headlines[0] in text
    assert "Limited run: only 60 problems" in text
    assert "coverage (oracle)" in text
    facts = re.sub(r"\s+", " ", text.split("How the numbers were made")[1])
    for fact in ("ttc sweep --task gsm8k --limit 60", "Seed 7", "A Processor, 2 cores", "vllm 0.32.0", "gsm8k", "tiny",
                 "2, with 345 tokens reserved"):  # fmt: skip
        assert fact in facts
    assert "Every problem was answered." in text


def test_page_needs_no_network_and_no_script(report):
    page = Page(report.html.read_text())
    assert "svg" in page.tags
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    links = [value for name, value in page.attributes if name in {"src", "href", "xlink:href", "action"}]
    assert all(value.startswith("#") for value in links)
    assert not re.search(r"url\((?!#)|@import", report.html.read_text())
    assert "prefers-color-scheme: dark" in report.html.read_text()
    assert ("name", "viewport") in page.attributes


def test_hostile_texts_come_out_inert(tmp_path):
    hostile = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    lines = []
    for strategy in ("self-consistency", hostile):
        name = f"cell-{strategy}"
        lines += [
            cell(name, strategy, task=hostile, model=hostile, allocator_params=json.dumps({"a": hostile})),
            record(name, hostile, 1.0, answer=hostile),
            failed(name, "2"),
            end(name),
        ]
    run = run_of(tmp_path, lines, label=hostile, command=hostile, limit=hostile, restarts=[{"at": hostile}])
    (run.path / "env.json").write_text(json.dumps({"processor": hostile, "packages": {hostile: hostile}}))
    report = build_report(run)
    page = Page(report.html.read_text())
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert hostile in page.texts
    assert "<script" not in report.markdown.read_text()


def test_failures_are_listed_by_kind(tmp_path):
    lines = [
        cell("a", n_problems=5),
        record("a", "1"),
        failed("a", "2"),
        record("a", "3", 0.0, status="timeout"),
        record("a", "4", 0.0, status="unparsed"),
        record("a", "5", 0.0, status="unparsed"),
        end("a"),
    ]
    report = build_report(run_of(tmp_path, lines))
    cells = re.search(r"<h2>Failures</h2>.*?<tbody>(.*?)</tbody>", report.html.read_text(), re.DOTALL).group(1)
    assert re.findall(r"<td[^>]*>(.*?)</td>", cells)[4:] == ["5", "1", "0", "2", "1"]
    assert any("1 of 5 records are errors" in note for note in report.notes)


def test_unfinished_runs_say_so(tmp_path):
    report = build_report(run_of(tmp_path, [cell("a"), record("a", "1"), cell("b")], state="running"))
    assert any("2 of 2 started cells are incomplete" in note for note in report.notes)
    assert "[incomplete]" in report.html.read_text()
    assert "[incomplete" in report.markdown.read_text().replace("\\", "")


def test_out_is_the_folder_of_the_report(tmp_path):
    run = run_of(tmp_path / "run", [cell("a", n_problems=1), record("a", "1"), end("a")])
    report = build_report(run, tmp_path / "elsewhere" / "deep")
    assert report.html == tmp_path / "elsewhere" / "deep" / "index.html"
    assert not run.report.exists()
    assert report.notes == ()


def test_equal_runs_give_equal_reports(tmp_path):
    lines = sweep(STRATEGIES, (256, 512), problems=20)
    one, two = build_report(run_of(tmp_path / "1", lines)), build_report(run_of(tmp_path / "2", lines))
    for a, b in zip((one.html, one.svg, one.png, one.markdown, one.csv),
                    (two.html, two.svg, two.png, two.markdown, two.csv), strict=True):  # fmt: skip
        assert a.read_bytes() == b.read_bytes()


def test_empty_run_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no finished problem"):
        build_report(run_of(tmp_path, []))


def test_a_large_run_takes_seconds(tmp_path):
    strategies = {(f"strategy-{i}", "uniform"): i / 50 for i in range(5)}
    run = run_of(tmp_path, sweep(strategies, (256, 512, 1024, 2048), problems=1319))
    start = time.perf_counter()
    report = build_report(run)
    assert time.perf_counter() - start < 30
    assert len(report.sections[0].rows) == 20


def test_import_is_light():
    heavy = "'matplotlib', 'pyarrow', 'jinja2', 'scipy', 'numpy'"
    code = f"import sys, ttc.report.build; print([m for m in ({heavy}) if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
