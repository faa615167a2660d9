"""The whole report: what is in its files, what must not be, and how long it takes."""

import base64
import hashlib
import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest
from made_up_runs import cell, end, failed, record, run_of, sweep

from ttc.core.errors import DataError
from ttc.report.build import build_report
from ttc.store.tables import to_table, write_table

STRATEGIES = {("self-consistency", "uniform"): 0.0, ("best-of-n", "uniform"): 0.2, ("coverage", "uniform"): 0.4}
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects elements, attributes and text, and checks that elements nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open, self.scripts = [], [], [], [], []
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
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
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
    for path in (report.html, report.svg, report.png, report.markdown, report.csv, report.numbers):
        assert path.parent == tmp_path / "report"
        assert path.stat().st_size > 300
    assert report.png.read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "report").glob(".*"))


def test_page_says_what_the_numbers_are(report):
    page = Page(report.html.read_text())
    text = " ".join(page.texts)
    assert re.match(r"best-of-n under uniform is \d+\.\d points more accurate \(95 % interval", report.headlines[0])
    assert report.headlines[0] in text
    assert "Limited run: only 60 problems" in text
    assert "coverage (oracle)" in text
    facts = re.sub(r"\s+", " ", text.rsplit("How the numbers were made", 1)[1])
    for fact in ("ttc sweep --task gsm8k --limit 60", "Seed 7", "A Processor, 2 cores", "vllm 0.32.0", "gsm8k", "tiny",
                 "2, with 345 tokens reserved"):  # fmt: skip
        assert fact in facts
    assert "Every problem was answered." in text


def test_page_needs_no_network_and_runs_only_its_own_script(report):
    text = report.html.read_text()
    page = Page(text)
    assert "svg" in page.tags
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    links = [value for name, value in page.attributes if name in {"src", "href", "xlink:href", "action"}]
    assert all(value.startswith("#") for value in links)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", text)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "prefers-color-scheme: dark" in text
    assert ("name", "viewport") in page.attributes
    data, script = page.scripts
    assert json.loads(data)["panels"][0]["curves"]
    (policy,) = [value for name, value in page.attributes if name == "content" and "default-src" in value]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "innerHTML" not in script


def test_hostile_texts_come_out_inert(tmp_path):
    hostile = '</script><script>alert("x")</script><img src=x onerror=alert(1)>\u2028'
    shown = hostile.replace("\u2028", "\N{REPLACEMENT CHARACTER}")
    lines = []
    for strategy in ("self-consistency", hostile):
        name = f"cell-{strategy}"
        sample = {"index": 0, "answer": hostile, "correct": True, "score": None, "logprob": None,
                  "completion_tokens": 5, "finish": "stop", "text": hostile}  # fmt: skip
        lines += [
            cell(name, strategy, task=hostile, model=hostile, allocator_params=json.dumps({"a": hostile})),
            record(name, hostile, 1.0, answer=hostile, candidates=[sample]),
            failed(name, "2"),
            end(name),
        ]
    run = run_of(tmp_path, lines, label=hostile, command=hostile, limit=hostile, restarts=[{"at": hostile}])
    problem = {"task": hostile, "problem_id": hostile, "difficulty": 1.0, "question": hostile, "reference": hostile}
    write_table(to_table("problems", [problem]), run.table("problems"))
    (run.path / "env.json").write_text(json.dumps({"processor": hostile, "packages": {hostile: hostile}}))
    report = build_report(run)
    page = Page(report.html.read_text())
    assert "img" not in page.tags
    assert page.tags.count("script") == 2
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert shown in page.texts
    assert sum(hostile.rstrip("\u2028") in text for text in page.texts) > 5
    assert "\u2028" not in page.scripts[0]
    assert not set("<>&") & set(page.scripts[0])
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
    cells = re.search(r'<h2 id="failures">.*?<tbody>(.*?)</tbody>', report.html.read_text(), re.DOTALL).group(1)
    assert re.findall(r"<td[^>]*>(.*?)</td>", cells)[1:] == ["5", "1", "0", "2", "1"]
    assert any("1 of 5 records are errors" in note for note in report.notes)


def test_unfinished_runs_say_so(tmp_path):
    report = build_report(run_of(tmp_path, [cell("a"), record("a", "1"), cell("b")], state="running"))
    assert any("2 of 2 started cells are incomplete" in note for note in report.notes)
    assert "[incomplete]" in report.html.read_text()
    assert "[incomplete" in report.markdown.read_text().replace("\\", "")


ODD = {
    "one problem": [cell("a", n_problems=1), record("a", "1"), end("a")],
    "all failed": [cell("a"), failed("a", "1"), failed("a", "2"), end("a")],
    "nothing spent": [cell("a"), record("a", "1", 0.0, 0, grant_tokens=0), record("a", "2", 0.0, 0, grant_tokens=0), end("a")],
    "nothing answered": [cell("a"), record("a", "1", 0.0, status="budget", candidates=[], answer=None), end("a")],
    "an unknown status": [cell("a", n_problems=1), record("a", "1", 0.0, status="lost"), end("a")],
    "draws": [cell("a", draws=2, n_problems=1), record("a", "1", 0.5, 90.5, draw_tokens=[90, 91]), end("a")],
    "oracles alone": [cell("a", "coverage", oracle=True, n_problems=1), record("a", "1"), end("a")],
    "joined names": [
        cell("a", "best-of-n+self-consistency", allocator="knapsack+uniform", model="m+n", n_problems=2),
        record("a", "1"), record("a", "2", 0.0), end("a"),
        cell("b", "self-consistency", model="m+n", n_problems=2), record("b", "1"), record("b", "2"), end("b"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_runs_have_a_page_without_nan(tmp_path, name):
    report = build_report(run_of(tmp_path, ODD[name], shapes={}, price_per_mtok=None, predictor=None))
    page = Page(report.html.read_text())
    assert not re.search(r"\b(nan|inf|none|undefined)\b", " ".join(page.texts), re.IGNORECASE)
    json.loads(page.scripts[0], parse_constant=pytest.fail)
    numbers = pq.read_table(report.numbers).to_pylist()
    assert not [
        row for row in numbers for key in ("value", "low", "high") if row[key] is not None and row[key] != row[key]
    ]
    if name == "joined names":
        assert "best-of-n+self-consistency under knapsack+uniform" in page.texts
        assert "m+n" in report.markdown.read_text()


def test_out_is_the_folder_of_the_report(tmp_path):
    run = run_of(tmp_path / "run", [cell("a", n_problems=1), record("a", "1"), end("a")])
    report = build_report(run, tmp_path / "elsewhere" / "deep")
    assert report.html == tmp_path / "elsewhere" / "deep" / "index.html"
    assert not run.report.exists()
    assert report.notes == ()


def test_equal_runs_give_equal_reports(tmp_path):
    lines = sweep(STRATEGIES, (256, 512), problems=20)
    one, two = build_report(run_of(tmp_path / "1", lines)), build_report(run_of(tmp_path / "2", lines))
    for a, b in zip((one.html, one.svg, one.png, one.markdown, one.csv, one.numbers),
                    (two.html, two.svg, two.png, two.markdown, two.csv, two.numbers), strict=True):  # fmt: skip
        assert a.read_bytes() == b.read_bytes()


def test_empty_run_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no finished problem"):
        build_report(run_of(tmp_path, []))


def test_every_number_of_the_page_is_in_the_file(report):
    """Read the page's tables as a reader would, and look up each number of them."""
    rows = pq.read_table(report.numbers).to_pylist()
    known = {}
    for row in rows:
        known.setdefault(row["item"], []).extend(v for v in (row["value"], row["low"], row["high"]) if v is not None)
    text = report.html.read_text()
    checked = 0
    for item, line in re.findall(r'<tr data-cell="([^"]*)"[^>]*>(.*?)</tr>', text, re.DOTALL):
        for shown in re.findall(r"<td(?! class=\"text)[^>]*>(.*?)</td>", line):
            for number in re.findall(r"[+-]?\d[\d,]*\.?\d*(?:e[+-]\d+)?", shown):
                value = float(number.replace(",", ""))
                digits = re.fullmatch(r"[^.e]*\.?(\d*)(?:e([+-]\d+))?", number)
                half = 0.5 * 10.0 ** (int(digits[2] or 0) - len(digits[1])) * (1 + 1e-9)
                close = [v for v in known[item] for scale in (1, 100) if abs(v * scale - value) <= half]
                assert close, f"{number} of {item}"
                checked += 1
    assert checked > 400
    # What the script draws of single problems stands in the file, too.
    drawn = json.loads(Page(text).scripts[0])["problems"][0]
    grants = sorted(row["value"] for row in rows if (row["table"], row["name"]) == ("problem", "grant"))
    assert grants == sorted(grant for problem in drawn["problems"] for grant in problem["grant"])
    tokens = sorted(row["value"] for row in rows if (row["table"], row["name"]) == ("problem", "tokens"))
    assert tokens == sorted(spent for problem in drawn["problems"] for spent in problem["tokens"])
    assert len(tokens) == 9 * len(drawn["problems"]) == 9 * 40
    (cell_row,) = [row for row in rows if row["table"] == "leaderboard" and row["name"] == "accuracy"
                   and row["item"].startswith("best-of-n-uniform-1024")]  # fmt: skip
    records = pq.read_table(report.html.parents[1] / "records.parquet").to_pylist()
    scores = [r["score"] for r in records if r["cell"] == cell_row["item"]]
    assert cell_row["value"] == sum(scores) / len(scores)


def test_a_large_run_is_a_small_page_in_seconds(tmp_path):
    strategies = {(f"strategy-{i}", "uniform"): i / 50 for i in range(5)}
    texts = [{"index": i, "answer": str(i), "correct": i == 4, "score": 0.5, "logprob": -1.0, "completion_tokens": 90,
              "finish": "stop", "text": f"sample {i} & <b> " * 60} for i in range(12)]  # fmt: skip
    lines = sweep(strategies, (256, 512, 1024, 2048), problems=1000)
    for i, line in enumerate(lines):
        if "problem_id" in line:
            line["candidates"] = [{**text, "index": 12 * (i % 7) + text["index"]} for text in texts]
    run = run_of(tmp_path, lines)
    start = time.process_time()  # the machine may be busy with something else
    report = build_report(run)
    assert time.process_time() - start < 40
    assert len(report.sections[0].rows) == 20
    assert report.html.stat().st_size < 1_000_000


def test_a_demo_of_many_cells_is_a_small_page(tmp_path):
    """Two tasks x 21 strategies x 4 budgets, 20 problems each, with long questions and samples."""
    lines, problems = [], []
    words = "A farmer has hens & <geese>; each lays a different number of eggs every day of the week. "
    sample = {"answer": "4", "correct": True, "score": 0.5, "logprob": -1.0, "completion_tokens": 90, "finish": "stop"}
    for task in ("arithmetic", "countdown"):
        strategies = {(f"strategy-{i:02}", "uniform"): i / 60 for i in range(21)}
        for line in sweep(
            strategies, (64, 128, 256, 512), problems=20, strategy_params='{"n": 16, "select": "reward"}'
        ):
            line["cell"] = f"{task}-{line['cell']}"
            if "task" in line:
                line["task"] = task
            if "problem_id" in line:
                line["candidates"] = [{**sample, "index": i, "text": f"{i} {words * 9}"} for i in range(8)]
            lines.append(line)
        problems += [{"task": task, "problem_id": f"p{i:05}", "difficulty": float(i % 8), "question": words * 8, "reference": "4"}
                     for i in range(20)]  # fmt: skip
    run = run_of(tmp_path, lines)
    write_table(to_table("problems", problems), run.table("problems"))
    report = build_report(run)
    assert sum(len(section.rows) for section in report.sections) == 168
    assert report.html.stat().st_size < 1_000_000


def test_import_is_light():
    heavy = "'matplotlib', 'pyarrow', 'jinja2', 'scipy', 'sklearn', 'vllm'"
    code = f"import sys, ttc.report.build; print([m for m in ({heavy}) if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
