"""A report in which every text is hostile, opened in a real browser: nothing runs, nothing is fetched, nothing is a mark-up."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ttc.api import sweep
from ttc.cli.main import run
from ttc.report.build import build_report

PAYLOADS = [
    "<script>window.broken = 1</script>",
    "</script><script>window.broken = 1</script>",
    "</SCRIPT ><script>window.broken = 1</script>",
    "<!--<script>window.broken = 1</script>",
    "--><script>window.broken = 1</script>",
    "]]><script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    '" onmouseover="window.broken = 1" autofocus onfocus="window.broken = 1" x="',
    "' onmouseover='window.broken = 1' x='",
    "<svg onload='window.broken = 1'><animate onbegin='window.broken = 1' attributeName=x dur=1s></svg>",
    "<svg><script>window.broken = 1</script></svg>",
    "</style><style>body { display: none }</style>",
    "</pre></details></main><h1 id='fake'>forged</h1>",
    "<iframe srcdoc='<script>parent.broken = 1</script>'></iframe>",
    "<iframe src='javascript:parent.broken = 1'></iframe>",
    "<a href='javascript:window.broken = 1' id='lure'>click</a>",
    "<form action='https://evil.example'><input name=a></form>",
    "<meta http-equiv='refresh' content='0;url=https://evil.example'>",
    "<base href='https://evil.example/'>",
    "<link rel=stylesheet href='https://evil.example/a.css'>",
    "<object data='data:text/html,<script>1</script>'></object><embed src='x'>",
    "<math><mtext><table><mglyph><style><img src=x onerror='window.broken = 1'>",
    "<template shadowrootmode=open><script>window.broken = 1</script></template>",
    "{{ 7 * 7 }}{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "${window.broken = 1}`;window.broken = 1;//",
    "\\u003cscript\\u003ewindow.broken = 1\\u003c/script\\u003e",
    "&lt;script&gt;window.broken = 1&lt;/script&gt;",
    "\u2028window.broken = 1\u2029</script>",
    "__proto__",
    "constructor",
    "\x1b]8;;https://evil.example\x07link\x1b]8;;\x07\x1b[2J\x1b[31mred\x1b]0;title\x07\x9b31m",
    "\u202egnp.exe\u2066",
    "[red]rich[/red][link=https://evil.example]x[/link]",
    "![x](https://evil.example/x.png)\n\n# forged | a | b |\n<b>bold</b>",
    "$x_{\\input{/etc/passwd}}$ \\frac{",
    "=HYPERLINK(\"https://evil.example\")",
]  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run whose every text was written by an enemy: questions, answers, names, and the record of how it was made."""
    folder = tmp_path_factory.mktemp("hostile")
    ids = [f"{i:02} {payload}" for i, payload in enumerate(PAYLOADS)]
    rows = [{"id": pid, "question": f"What is {i} + 3?", "answer": str(i + 3)} for i, pid in enumerate(ids)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = sweep(
        {
            "tasks": [{"name": "local", "data": str(folder / "rows.jsonl")}],
            "models": [{"path": "fake", "label": "".join(PAYLOADS[:8])}],
            "strategies": [
                {"name": "greedy", "label": PAYLOADS[6] + PAYLOADS[1]},
                {"name": "self-consistency", "label": PAYLOADS[7]},
            ],
            "budgets": [64, 128],
            "cache": "off",
        },
        folder / "run",
    ).folder
    for table, columns in {
        "candidates": ("text", "answer"),
        "records": ("answer",),
        "problems": ("question", "reference"),
    }.items():
        data = pq.read_table(found.table(table))
        for name in columns:
            at = data.column_names.index(name)
            texts = [PAYLOADS[(i + at) % len(PAYLOADS)] for i in range(len(data))]
            data = data.set_column(at, data.schema.field(name), pa.array(texts, pa.string()))
        pq.write_table(data, found.table(table))
    shutil.rmtree(found.journal)  # the tables are the truth from here on
    manifest = found.read_manifest()
    for key in ("command", "reward", "started_at", "finished_at"):
        manifest[key] = "".join(PAYLOADS)
    manifest["predictor"] = {"label": PAYLOADS[1], "fingerprint": PAYLOADS[6]}
    manifest["sources"] = {PAYLOADS[0]: {PAYLOADS[1]: PAYLOADS[6]}}
    manifest["weights"] = {PAYLOADS[2]: PAYLOADS[9]}
    found.write_json("manifest.json", manifest)
    environment = json.loads((found.path / "env.json").read_text())
    found.write_json("env.json", {**environment, "processor": PAYLOADS[1], "packages": {PAYLOADS[6]: PAYLOADS[7]}})
    return build_report(found).html, found


@pytest.mark.browser
def test_nothing_that_a_model_wrote_does_anything_in_a_browser(hostile, browser_path):
    from playwright.sync_api import sync_playwright

    html, _ = hostile
    troubles, requests, dialogs = [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=180_000
        )
        page = browser.new_page()
        page.set_default_timeout(180_000)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(html.as_uri())
        # All that a reader may do: open everything, hover, focus, sort, choose.
        page.evaluate(
            """() => {
              document.querySelectorAll("details").forEach((one) => { one.open = true; });
            }"""
        )
        page.wait_for_function("document.querySelector('details.problem .outcomes table') !== null")
        page.evaluate(
            """() => {
              for (const kind of ["mouseover", "mouseenter", "pointermove", "focus", "click"])
                document.querySelectorAll(".point, th button, summary, td, pre, option").forEach(
                  (one) => one.dispatchEvent(new MouseEvent(kind, { bubbles: true })));
              document.querySelectorAll("select").forEach((one) => [...one.options].forEach((option) => {
                one.value = option.value; one.dispatchEvent(new Event("change")); }));
            }"""
        )
        assert page.evaluate("window.broken") is None
        made = "img, iframe, object, embed, form, base, link, template, math, a[href^='javascript'], #fake, #lure, [onmouseover], [onfocus], [onload], [onerror]"
        assert page.locator(made).count() == 0
        assert page.locator("script").count() == 2
        assert page.locator("meta[http-equiv=refresh]").count() == 0
        assert page.locator("main h1").count() == 0
        assert page.evaluate("getComputedStyle(document.body).display") != "none"
        assert page.evaluate("({}).broken === undefined && Object.prototype.toString.call([]) === '[object Array]'")
        shown = "\n".join(page.locator("details.problem pre").all_text_contents())
        assert sum(payload in shown for payload in PAYLOADS[:28]) >= 20  # they are there, as texts
        browser.close()
    assert (troubles, dialogs) == ([], [])
    assert set(requests) == {html.as_uri()}


def test_no_text_can_steer_the_terminal(hostile, capfd, monkeypatch):
    _, found = hostile
    monkeypatch.setenv("COLUMNS", "200")
    for words in (["report", str(found.path)], ["show", str(found.path), "--problem", f"30 {PAYLOADS[30]}"],
                  ["show", str(found.path), "--problem", f"32 {PAYLOADS[32]}"]):  # fmt: skip
        capfd.readouterr()
        code = run(words)
        said = "".join(capfd.readouterr())
        assert code in (0, 2, 3), said
        assert not {c for c in said if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0}, words
        assert "\u202e" not in said


def test_the_written_report_holds_no_mark_up_of_theirs(hostile):
    html, _ = hostile
    for path in html.parent.rglob("*"):
        if path.suffix in (".html", ".md", ".svg"):
            text = path.read_text()
            assert "<script>window.broken" not in text
            assert "<img" not in text
