"""The report's page in a real browser: it works by mouse, by keyboard, on a phone, on paper and without script."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ttc.api import sweep
from ttc.report.build import build_report
from ttc.store.rundir import RunDir

pytestmark = pytest.mark.browser

HOSTILE = (
    "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'> & \u2028 [[x](javascript:1)]"
)
DESKTOP = {"width": 1200, "height": 900}
PHONE = {"width": 375, "height": 800}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """The page of a sweep that ran: stored texts, predictions, a problem that fails, hostile texts."""
    folder = tmp_path_factory.mktemp("browser")
    rows = [{"id": f"p{i:02}", "question": f"What is {i + 3} + {i * 7 % 13}?" + (HOSTILE if i == 0 else ""),
             "answer": str(i + 3 + i * 7 % 13)} for i in range(40)]  # fmt: skip
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = sweep(
        {
            "tasks": [{"name": "local", "data": str(folder / "problems.jsonl")}],
            "models": ["fake"],
            "strategies": ["greedy", "self-consistency", "best-of-n", "coverage"],
            "budgets": [64, 128, 256, 512],
            "cache": "off",
            "limit": 39,
            "price_per_mtok": [0.1, 0.4],
        },
        folder / "run",
    )
    predict(run.folder)
    # What a run on a local model records: the shape of its attention, and how good its predictor was.
    manifest = run.folder.read_manifest()
    manifest["shapes"] = {"fake": {"parameters": 10**9, "layers": 4, "query_heads": 8, "kv_heads": 2, "head_dim": 64}}
    bins = [{"bin_low": i / 5, "bin_high": (i + 1) / 5, "mean_predicted": i / 5 + 0.1, "mean_actual": (i / 5) ** 2, "n": 40,
             "model": "fake", "strategy": "self-consistency"} for i in range(5)]  # fmt: skip
    manifest["predictor"] = {"label": "a predictor", "fingerprint": "f00d", "reliability": bins}
    run.folder.write_json("manifest.json", manifest)
    return build_report(run.folder).html


def predict(run):
    """Write predictions for one cell and a hostile sample, as an allocator and a model might have."""
    cells = pq.read_table(run.table("cells")).to_pylist()
    allocation = pq.read_table(run.table("allocation"))
    cell = next(c["cell"] for c in cells if c["strategy"] == "self-consistency" and c["budget"] == 512)
    ids = sorted({r["problem_id"] for r in pq.read_table(run.table("records")).to_pylist()})
    rows = [{"cell": cell, "problem_id": p, "grant_tokens": 512, "option": None, "predicted_value": (i % 10) / 10,
             "predicted_tokens": 400.0, "price": None} for i, p in enumerate(ids)]  # fmt: skip
    pq.write_table(type(allocation).from_pylist(rows, schema=allocation.schema), run.table("allocation"))
    candidates = pq.read_table(run.table("candidates"))
    texts = [HOSTILE if i == 0 else text for i, text in enumerate(candidates["text"].to_pylist())]
    at = candidates.column_names.index("text")
    pq.write_table(candidates.set_column(at, candidates.schema.field("text"), [texts]), run.table("candidates"))
    shutil.rmtree(run.journal)  # the tables are the truth from here on


@pytest.fixture(scope="module")
def browser(browser_path, page_file):
    """Start the machine's own browser, headless; after the sweep, because its driver keeps an event loop here."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


@pytest.fixture
def open_page(browser, page_file):
    """Open the page as asked for; afterwards check that nothing was fetched and nothing went wrong."""
    contexts, troubles, requests = [], [], []

    def open_it(**options):
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        return page

    open_it.file = page_file
    yield open_it
    for context in contexts:
        context.close()
    assert troubles == []
    assert set(requests) == {page_file.as_uri()}


def column(page, board, index):
    return page.locator(f"{board} tbody tr").evaluate_all(
        "(rows, index) => rows.map((row) => row.cells[index].textContent.trim())", index
    )


def test_tables_sort_by_number_and_by_text(open_page):
    page = open_page()
    head = page.locator(".board thead th")
    tokens = head.filter(has_text="Tokens per problem")
    tokens.get_by_role("button").click()
    falling = [float(text.replace(",", "")) for text in column(page, ".board", 3)]
    assert falling == sorted(falling, reverse=True)
    assert len(set(falling)) > 4
    assert tokens.get_attribute("aria-sort") == "descending"
    tokens.get_by_role("button").press("Enter")
    assert [float(text.replace(",", "")) for text in column(page, ".board", 3)] == falling[::-1]
    head.first.get_by_role("button").click()
    names = column(page, ".board", 0)
    assert names == sorted(names)
    assert tokens.get_attribute("aria-sort") == "none"
    difference = head.filter(has_text="Against the baseline")
    difference.get_by_role("button").click()
    shown = column(page, ".board", 6)
    claimed = [float(text.split()[0]) for text in shown if text != "-"]
    assert claimed == sorted(claimed, reverse=True)
    assert shown[len(claimed) :] == ["-"] * (len(shown) - len(claimed))  # no claim comes last, whatever the order


def points(page):
    return page.locator(".plot .point").evaluate_all("(marks) => marks.map((m) => m.getAttribute('transform'))")


def test_the_chart_switches_cost_scale_and_strategies(open_page):
    page = open_page()
    first = points(page)
    assert len(first) == 16
    axes = page.locator("#cost option").evaluate_all("(options) => options.map((o) => o.value)")
    assert axes == ["completion_tokens", "all_tokens", "eflops", "wall_s", "price"]
    page.select_option("#cost", "all_tokens")
    assert "All computed tokens" in page.locator(".plot .axis-title").text_content()
    second = points(page)
    assert second != first
    page.select_option("#scale", "linear")
    assert points(page) != second
    page.get_by_role("checkbox", name="coverage (oracle)").uncheck()
    assert len(points(page)) == 12
    assert page.locator(".plot .frontier").count() == 1
    # What is drawn is what the table of numbers holds: the axis is linear, so places are proportional to costs.
    page.select_option("#cost", "completion_tokens")
    drawn = page.locator(".plot .point").evaluate_all(
        "(marks) => marks.map((m) => [Number(m.getAttribute('transform').match(/[\\d.]+/)[0]), m.getAttribute('aria-label')])"
    )
    costs = [float(re.search(r"per problem: ([\d,.]+)", label)[1].replace(",", "")) for _, label in drawn]
    left = 52  # the chart's left margin, where the cost is 0
    ratios = [(x - left) / cost for (x, _), cost in zip(drawn, costs, strict=True)]
    assert max(ratios) / min(ratios) < 1.02


def test_a_priced_axis_shows_the_recorded_price(open_page):
    page = open_page()
    page.select_option("#cost", "price")
    label = page.locator(".plot .point").first.get_attribute("aria-label")
    cells = {(row["strategy"], row["budget"]): row for row in page_cells(open_page.file)}
    name, budget = label.split(":")[0], int(re.search(r"budget (\d+)", label)[1])
    row = cells[name, budget]
    expected = (
        ((row["prompt_tokens"] + row["cached_tokens"]) * 0.1 + row["tokens_total"] * 0.4) / 1e6 / row["n_problems"]
    )
    shown = re.search(r"Price per problem \(policy tokens\): ([\d.e-]+)", label)[1]
    assert float(shown) == pytest.approx(expected, rel=0.01)


def page_cells(page_file):
    return pq.read_table(page_file.parents[1] / "cells.parquet").to_pylist()


def test_outcomes_of_a_problem_are_drawn_when_it_is_opened(open_page):
    page = open_page()
    details = page.locator("details.problem").first
    assert details.locator("table").count() == 0
    details.locator("summary").click()
    table = details.locator("table")
    assert table.is_visible()
    rows = table.locator("tbody tr").evaluate_all("(rows) => rows.map((r) => [...r.cells].map((c) => c.textContent))")
    problem = details.locator("summary b").text_content()
    records = pq.read_table(open_page.file.parents[1] / "records.parquet").to_pylist()
    cells = {row["cell"]: row for row in page_cells(open_page.file)}
    expected = {
        (cells[r["cell"]]["strategy"], cells[r["cell"]]["budget"]): (r["completion_tokens"], r["score"], r["status"])
        for r in records if r["problem_id"] == problem
    }  # fmt: skip
    assert len(rows) == len(expected) == 16
    for name, budget, outcome, score, _, tokens, grant in rows:
        spent, right, status = expected[name.removesuffix(" (oracle)").partition(" (")[0], int(budget)]
        assert float(tokens) == spent
        assert float(score) == 100 * right
        assert (outcome == "right") == (right == 1)
        assert status == "ok" or outcome not in ("right", "wrong")
        assert grant == budget
    table.locator("thead th").filter(has_text="Tokens").get_by_role("button").click()
    sorted_tokens = [float(text) for text in table.locator("tbody tr td:nth-child(6)").all_text_contents()]
    assert sorted_tokens == sorted(sorted_tokens, reverse=True)


def test_predictions_and_grants_are_pictured(open_page):
    page = open_page()
    assert page.locator("#reliability").count() == 1
    assert page.get_by_text("a predictor when it was fitted").is_visible()
    pictures = page.locator("svg.small")
    assert pictures.count() == 4 + 4 + 1 + 1  # spending by difficulty and by cost, what was predicted, what was fitted
    clipped = pictures.evaluate_all(
        """(all) => all.flatMap((svg) => {
             const box = svg.getBoundingClientRect();
             return [...svg.querySelectorAll("text")].filter((text) => {
               const b = text.getBoundingClientRect();
               return b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 1 || b.bottom > box.bottom + 1;
             }).map((text) => text.textContent);
           })"""
    )
    assert clipped == []
    overlapping = pictures.evaluate_all(
        """(all) => all.flatMap((svg) => {
             const boxes = [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]);
             return boxes.flatMap(([a, x], i) => boxes.slice(i + 1).filter(([, y]) =>
               x.left < y.right - 1 && y.left < x.right - 1 && x.top < y.bottom - 3 && y.top < x.bottom - 3).map(([b]) => [a, b]));
           })"""
    )
    assert overlapping == []


def test_hover_and_keyboard_show_what_a_mark_is(open_page):
    page = open_page()
    tip = page.locator("#tip")
    assert not tip.is_visible()
    mark = page.locator(".plot .point").nth(5)
    mark.scroll_into_view_if_needed()
    at = mark.bounding_box()
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    assert tip.is_visible()
    assert tip.locator("strong").text_content() == mark.get_attribute("aria-label").split(":")[0]
    for words in ("n = 39 problems", "95 % interval", "budget", "seed 0"):
        assert words in tip.text_content()
    box, inside = tip.bounding_box(), page.locator(".plot").bounding_box()
    assert inside["x"] <= box["x"]
    assert box["x"] + box["width"] <= inside["x"] + inside["width"] + 1
    page.mouse.move(5, 5)
    assert not tip.is_visible()
    page.locator(".plot .point").first.focus()
    before = tip.text_content()
    assert tip.is_visible()
    page.keyboard.press("ArrowRight")
    assert tip.is_visible()
    assert tip.text_content() != before
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_another_baseline_changes_the_claims(open_page):
    page = open_page()
    select = page.locator(".baseline-line select")
    assert select.input_value() == "self-consistency under uniform"
    before = column(page, ".board", 6)
    select.select_option("greedy under uniform")
    assert column(page, ".board", 6) != before
    rows = dict(zip(zip(column(page, ".board", 0), column(page, ".board", 2), strict=True),
                    column(page, ".board", 8), strict=True))  # fmt: skip
    assert {verdict for (name, _), verdict in rows.items() if name == "greedy"} == {"baseline"}
    select.select_option("self-consistency under uniform")
    assert column(page, ".board", 6) == before


def test_texts_of_models_stay_texts(open_page):
    page = open_page()
    page.locator("details.problem").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    assert page.locator("details.problem").count() == 39
    shown = page.locator("details.problem pre").all_text_contents()
    assert sum("window.broken" in text for text in shown) >= 2  # a question and a sample
    assert page.evaluate("window.broken") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2


def test_injected_script_is_refused(browser, page_file):
    page = browser.new_page()
    page.goto(page_file.as_uri())
    page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.broken = 1'; document.body.append(s);"
    )
    assert page.evaluate("window.broken") is None
    page.close()


def test_without_script_picture_and_tables_remain(browser, page_file):
    context = browser.new_context(java_script_enabled=False, viewport=DESKTOP)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("#picture svg").is_visible()
    assert not page.locator("#chart").is_visible()
    assert not page.locator("#theme").is_visible()
    assert page.locator(".board tbody tr").count() == 16
    assert page.get_by_text("Baseline: self-consistency under uniform").is_visible()
    assert page.locator("#measures ~ .scroll").first.is_visible()
    assert "ttc show RUN --problem ID" in page.locator("noscript p").inner_text()
    assert page.locator("noscript p").is_visible()
    page.locator("details.problem summary").first.click()
    assert page.locator("details.problem pre").first.is_visible()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(open_page, scheme):
    page = open_page(viewport=PHONE, color_scheme=scheme)
    page.locator("details.problem").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    labels = page.locator(".plot text").evaluate_all(
        "(texts) => texts.map((t) => { const b = t.getBoundingClientRect(); return [b.left, b.right]; })"
    )
    plot = page.locator(".plot").bounding_box()
    assert all(plot["x"] <= left and right <= plot["x"] + plot["width"] for left, right in labels)


def test_themes(open_page):
    page = open_page(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.get_by_role("button", name="Theme").click()
    light = page.evaluate(paper)
    assert light == "rgb(255, 255, 255)"
    assert dark != light
    page.get_by_role("button", name="Theme").click()
    assert page.evaluate(paper) == dark


def test_printing_leaves_the_controls_out(open_page, tmp_path):
    page = open_page()
    page.emulate_media(media="print")
    assert not page.locator(".controls").is_visible()
    assert page.locator(".plot svg").is_visible()
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(("scheme", "viewport"), [("light", DESKTOP), ("dark", DESKTOP), ("light", PHONE)])
def test_accessibility(open_page, scheme, viewport):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(color_scheme=scheme, viewport=viewport)
    page.locator("details.problem").first.evaluate("(one) => { one.open = true; }")
    found = Axe().run(page)
    serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
    assert [(v["id"], v["nodes"][0]["html"]) for v in serious] == []
    assert len(found.response["passes"]) > 15  # the rules did run


def test_the_checked_in_run_opens(browser):
    folder = Path(__file__).parents[2] / "results" / "reference"
    for file in folder.glob("*/report/index.html"):
        page = browser.new_page()
        troubles = []
        page.on("console", lambda message, found=troubles: found.append(message.text))
        page.on("pageerror", lambda error, found=troubles: found.append(str(error)))
        page.goto(file.as_uri())
        assert RunDir(file.parents[1]).read_manifest()["state"] == "finished"
        assert page.locator("table").count() > 0
        assert troubles == []
        page.close()
