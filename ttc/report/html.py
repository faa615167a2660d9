"""The one-file report: no network, no script, everything escaped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttc.report.aggregate import UNANSWERED, Tables
from ttc.report.figures import GRID, INK
from ttc.report.labels import plain
from ttc.report.leaderboard import HEADERS, READING, Section, headline, texts
from ttc.store.tables import rows_of

Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Page:
    """What the page shows besides its leaderboard."""

    title: str
    notes: Sequence[str]
    """Warnings about the numbers as a whole, such as a limited run."""
    svg: str
    facts: Facts


def render(page: Page, sections: Sequence[Section], tables: Tables) -> str:
    """Return the page as one HTML document."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ttc.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    shown = [
        {
            "title": section.title,
            "headline": headline(section),
            "baseline": section.baseline,
            "rows": [
                {"texts": texts(row, seed=section.many_seeds), "oracle": row.oracle, "baseline": row.baseline}
                for row in section.rows
            ],
        }
        for section in sections
    ]
    return environment.get_template("report.html.j2").render(
        page=page,
        svg=inline_svg(page.svg),
        headers=HEADERS,
        sections=shown,
        reading=READING,
        failures=_failures(sections, tables),
    )


def inline_svg(svg: str) -> str:
    """Return an SVG file's element for use inside a page, its neutral colours left to the page's style."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    element = element.replace("<svg", '<svg role="img" aria-label="Accuracy against tokens per problem"', 1)
    return element.replace(INK.lower(), "currentColor").replace(GRID.lower(), "var(--grid)")


def _failures(sections: Sequence[Section], tables: Tables) -> list[tuple[str, ...]]:
    statuses: dict[str, Counter[str]] = {}
    for record in rows_of(tables.records.select(["cell", "status"])):
        statuses.setdefault(record["cell"], Counter())[record["status"]] += 1
    rows: list[tuple[str, ...]] = []
    for section in sections:
        for row in section.rows:
            counts = statuses[row.cell]
            if row.n_errors or row.n_unanswered:
                shown = texts(row, seed=section.many_seeds)
                rows.append(
                    (section.title, *shown[:3], str(row.n_problems), *(str(counts[s]) for s in ("error", *UNANSWERED)))
                )
    return rows


def provenance(manifest: Mapping[str, Any], environment: Mapping[str, Any], tables: Tables) -> Facts:
    """Return what the numbers were made with as (name, value) texts; what is unknown is left out."""
    cells = rows_of(tables.cells)
    restarts = [r for r in manifest.get("restarts") or [] if isinstance(r, Mapping)]
    reserved = sum(r.get("reserved_tokens") or 0 for r in restarts)
    packages = environment.get("packages") or {}
    gpus = environment.get("gpus") or []
    memory, cores = environment.get("memory_gib"), environment.get("cores")
    machine = [environment.get("processor") or environment.get("machine"), f"{cores} cores" if cores else None,
               f"{memory} GiB" if memory else None, *gpus]  # fmt: skip
    system = [environment.get("system"), environment.get("release")]
    facts = {
        "Run": manifest.get("spec_id"),
        "Command": manifest.get("command"),
        "Data set": _several(c["task"] for c in cells),
        "Model": _several(c["model"] for c in cells),
        "Weights (SHA-256)": _several((manifest.get("weights") or {}).values()),
        "Rows": _several(_source_text(source) for source in (manifest.get("sources") or {}).values()),
        "Problems": manifest.get("n_problems"),
        "Limit": manifest.get("limit"),
        "Seed": manifest.get("seed", _several(c["seed"] for c in cells)),
        "Draws": _several(c["draws"] for c in cells),
        "Completion tokens": f"{sum(c['tokens_total'] for c in cells):,.0f}",
        "Restarts": f"{len(restarts)}, with {reserved:,} tokens reserved and not counted above" if restarts else None,
        "Started": manifest.get("started_at"),
        "Finished": manifest.get("finished_at"),
        "Machine": ", ".join(str(part) for part in machine if part),
        "System": " ".join(str(part) for part in system if part),
        "Python": environment.get("python"),
        "Packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "Source": environment.get("commit"),
    }
    return [(name, plain(_words(value))) for name, value in facts.items() if value not in (None, "")]


def _source_text(source: Any) -> str:
    """Return where a task's rows came from; the wording of its prompt is in the manifest."""
    if not isinstance(source, Mapping):
        return str(source)
    return ", ".join(f"{key} {value}" for key, value in source.items() if key not in ("prompt_template", "checker"))


def _several(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
