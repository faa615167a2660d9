"""The one-file report: no network, one script whose hash the page allows, everything a model wrote escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from ttc.report.aggregate import Tables
from ttc.report.chapter import Chapter
from ttc.report.chart import script_json
from ttc.report.figures import GRID, INK
from ttc.report.labels import plain
from ttc.report.leaderboard import READING, headline, resolution
from ttc.report.measures import READING as MEASURES
from ttc.store.tables import rows_of

Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Page:
    """Everything the page shows."""

    title: str
    notes: Sequence[str]
    """Warnings about the numbers as a whole."""
    limited: bool
    svg: str
    facts: Facts
    chapters: Sequence[Chapter]
    chart: Mapping[str, Any] = field(default_factory=dict)


def render(page: Page) -> str:
    """Return the page as one HTML document."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ttc.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script, style = asset("report.js"), asset("report.css")
    return environment.get_template("report.html.j2").render(
        page=page,
        several=len(page.chapters) > 1,
        headline=headline,
        svg=_styled_once(inline_svg(page.svg)),
        reading=READING,
        measures=MEASURES,
        resolution=resolution,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=style,
        data=script_json(page.chart),
    )


def asset(name: str) -> str:
    """Return a file that is written into the page as it is."""
    return (files("ttc.report") / "templates" / name).read_text(encoding="utf-8")


def inline_svg(svg: str) -> str:
    """Return an SVG file's element for use inside a page, its neutral colours left to the page's style."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    # Hundredths of a point are finer than any screen; six digits are half of the picture's bytes.
    element = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d\d)\d+", r"\1", tag[0]), element)
    element = element.replace("<svg", '<svg role="img" aria-label="Accuracy against tokens per problem"', 1)
    return element.replace(INK.lower(), "currentColor").replace(GRID.lower(), "var(--grid)")


def _styled_once(svg: str) -> str:
    """Return an SVG element whose repeated styles stand once, as classes: they are half of its bytes.

    The classes are the page's own: two such pictures in one document would take each other's.
    """
    names: dict[str, str] = {}
    svg = re.sub(r' style="([^"]*)"', lambda found: f' class="{names.setdefault(found[1], f"mpl{len(names)}")}"', svg)
    rules = "".join(f".{name}{{{style}}}" for style, name in names.items())
    return re.sub(r">\s+<", "><", svg).replace(">", f"><style>{rules}</style>", 1)


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
        "Rows": _several(_source_text(source) for source in (manifest.get("sources") or {}).values()),
        "Model": _several(c["model"] for c in cells),
        "Model revision": _several((manifest.get("models") or {}).values()),
        "Weights (SHA-256)": _several((manifest.get("weights") or {}).values()),
        "Reward model": manifest.get("reward"),
        "Predictor": _predictor(manifest.get("predictor")),
        "Sampling": _several(_pairs(value) for value in _samplings(manifest.get("sampling") or {})),
        "Prices": _pairs(manifest.get("price") or {}),
        "Problems": _pairs(manifest.get("n_problems") or {}),
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


def _predictor(said: Any) -> str | None:
    if not isinstance(said, Mapping):
        return None
    return ", ".join(str(said[key]) for key in ("label", "fingerprint") if said.get(key)) or None


def _samplings(said: Mapping[str, Any]) -> Iterator[Any]:
    """Yield how each task's models were sampled; manifests once said it of all models of a task."""
    for models in said.values():
        several = isinstance(models, Mapping) and all(isinstance(value, Mapping) for value in models.values())
        yield from models.values() if several else [models]


def _source_text(source: Any) -> str:
    """Return where a task's rows came from; the wording of its prompt is in the manifest."""
    if not isinstance(source, Mapping):
        return str(source)
    return ", ".join(f"{key} {value}" for key, value in source.items() if key != "prompt_template")


def _pairs(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return str(value)


def _several(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
