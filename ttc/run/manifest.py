"""What a run's manifest and configuration say of it, as anybody may read it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from ttc.core.errors import ConfigError, DataError
from ttc.core.protocols import HasModelConfig, HasWeights
from ttc.core.secrets import without_secrets
from ttc.core.specs import SweepConfig
from ttc.run.choices import Subject
from ttc.run.shards import Shard
from ttc.run.sweep import Plan
from ttc.store.env import capture_environment, now
from ttc.store.rundir import RunDir

_PHASES = re.compile(r"(^plan=|,execution=)")


def begin(run: RunDir, plan: Plan, command: str, shard: Shard | None) -> None:
    """Write down what a run is asked to do and by what, or that it goes on. The folder is open for writing.

    Raises:
        ConfigError: it is dealt over another number of shards.
    """
    manifest = run.read_manifest()
    if "started_at" in manifest:
        if manifest.get("state") != "finished":
            _resume(run, manifest, shard)
        return
    if shard is not None:
        manifest["shards"] = shard.count
    config = plan.config
    run.write_json("env.json", capture_environment())
    subjects = [bench.subject for bench in plan.benches]
    run.write_json(
        "manifest.json",
        {
            **manifest,
            "command": command,
            "started_at": now(),
            "seed": config.seed,
            "limit": config.limit,
            "n_problems": {s.task: len(s.problem_ids) for s in subjects},
            "min_call_tokens": plan.cells[0].min_call_tokens,
            "price": dict(config.price),
            "price_per_mtok": config.price_per_mtok,
            "sampling": _sampling(subjects),
            "sources": {bench.subject.task: dict(bench.source) for bench in plan.benches},
            "models": {s.model: s.engine_fingerprint for s in subjects},
            "weights": {
                bench.engine.label: bench.engine.weights_sha256()
                for bench in plan.benches
                if isinstance(bench.engine, HasWeights)
            },
            "shapes": shapes_of(plan),
            "reward": plan.benches[0].reward.label if plan.benches[0].reward is not None else None,
            "predictor": _predictor(plan),
            "cells": [cell.id for cell in plan.cells],
        },
    )  # fmt: skip


def _sampling(subjects: Sequence[Subject]) -> dict[str, dict[str, dict[str, float]]]:
    """Return how each task's models were sampled."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for subject in subjects:
        s = subject.sampling
        told = {"temperature": s.temperature, "top_p": s.top_p, "max_tokens": s.max_tokens}
        found.setdefault(subject.task, {})[subject.model] = told
    return found


def _resume(run: RunDir, manifest: dict[str, Any], shard: Shard | None) -> None:
    """Note a restart; a shard's first start beside others is none."""
    if shard is not None and manifest.get("shards") not in (None, shard.count):
        raise ConfigError(
            f"{run.path} is dealt over {manifest['shards']} shards, not {shard.count}",
            "run its shards, or the same command without --shard, which runs whatever is left",
        )
    events = run.replay(without=("candidates", "trace")).events
    held = _in_flight(events)
    if shard is not None:
        manifest["shards"] = shard.count
        held = {part: tokens for part, tokens in held.items() if part == str(shard)}
    if held or shard is None:
        restart = {"at": now(), "reserved_tokens": sum(held.values())}
        manifest["restarts"] = [*manifest.get("restarts", []), restart]
    run.write_json("manifest.json", manifest)


def shapes_of(plan: Plan) -> dict[str, dict[str, int]]:
    """Return what the cost of each model's tokens depends on; nothing of a model whose configuration is not known."""
    from ttc.metrics.compute import attention_shape

    found = {}
    for bench in plan.benches:
        engine, parameters = bench.engine, bench.subject.parameters
        if parameters is None or not isinstance(engine, HasModelConfig):
            continue
        try:
            found[bench.subject.model] = {"parameters": parameters, **asdict(attention_shape(engine.model_config))}
        except DataError:
            continue  # not every model attends: its equivalent FLOPs stay unknown
    return found


def _predictor(plan: Plan) -> dict[str, Any] | None:
    """Return what a report says of the run's predictors: their fingerprints, and how good they were when fitted."""
    told = (p for cell in plan.cells for p in (cell.predictor, *(share.predictor for share in cell.shares)))
    known = {p.fingerprint: p for p in told if p is not None}
    if not known:
        return None
    rows = [
        row
        for p in known.values()
        for quality in getattr(p, "report_", {}).get("success", [])
        for row in _bins(quality)
    ]
    return {"label": "whether one sample is right", "fingerprint": "+".join(known), "reliability": rows}


def _bins(quality: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a predictor's reliability bins with their bounds: half way between neighbouring means."""
    bins = quality["reliability"]
    means = [row["predicted"] for row in bins]
    bounds = [0.0, *((a + b) / 2 for a, b in pairwise(means)), 1.0]
    for row, low, high in zip(bins, bounds[:-1], bounds[1:], strict=True):
        yield {
            "model": quality["model"],
            "bin_low": low,
            "bin_high": high,
            "mean_predicted": row["predicted"],
            "mean_actual": row["recorded"],
            "n": round(row["share"] * quality["problems"]),
        }


def _in_flight(events: Sequence[Mapping[str, Any]]) -> dict[str | None, int]:
    """Return the tokens that each shard, or None, had reserved when its process ended, as far as it had noted them.

    A process of the whole run that started later has told of all of them.
    """
    held: dict[str | None, dict[str, int]] = {}
    started: dict[str | None, str] = {}
    for event in events:
        own = held.setdefault(event.get("shard"), {})
        if event.get("kind") == "start":
            started[event.get("shard")] = event.get("at", "")
            own.clear()
        elif event.get("kind") == "in_flight":
            own[event["cell"]] = event["reserved_tokens"]
        elif event.get("kind") == "cell_end":
            own.pop(event["cell"], None)
    whole = started.get(None, "")
    return {
        part: sum(own.values()) if part is None or started.get(part, "") >= whole else 0 for part, own in held.items()
    }


def portable(config: SweepConfig) -> dict[str, Any]:
    """Return the configuration as plain data, with paths outside the working directory cut to their names, and no keys."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    for model in values.get("models", []):
        model["path"] = portable_word(model["path"])
        if model.get("options"):
            model["options"] = {key: _portable_option(key, value) for key, value in model["options"].items()}
    for task in values.get("tasks", []):
        task.update({key: portable_word(task[key]) for key in ("data", "name") if task.get(key)})
    for choice in [
        c
        for grid in (values, *values.get("also", []))
        for c in (*grid.get("strategies", []), *grid.get("allocators", []))
    ]:
        choice["name"] = portable_word(choice["name"])
        if choice.get("predictor"):
            choice["predictor"] = portable_word(choice["predictor"])
    if values.get("track"):
        values["track"] = [portable_word(word) for word in values["track"]]
    for key in ("bank", "cache", "predictor", "prm"):
        if values.get(key):
            values[key] = portable_word(values[key])
    return values


def portable_word(text: str) -> str:
    """Return a word of a command or a configuration as others may read it: no key, and no path out of the working directory.

    A word is a path, an address, a list of them, `plan=MODEL,execution=MODEL`, or any other; `;key=value` may follow.
    """
    words, *options = text.split(";")
    parts = _PHASES.split(words)
    parts[::2] = [_portable_path(part) for part in parts[::2]]
    pairs = [option.partition("=") for option in options]
    return ";".join(
        ["".join(parts), *(key + equals + str(_portable_option(key, value)) for key, equals, value in pairs)]
    )


def _portable_option(key: str, value: object) -> object:
    if key == "api_key":
        return "***"
    return _portable_path(value) if isinstance(value, str) else value


def _portable_path(text: str) -> str:
    if "://" in text:
        return without_secrets(text)
    if "," in text:
        return ",".join(map(_portable_path, text.split(",")))
    if not (text.startswith(("/", "~")) or ".." in Path(text).parts):
        return text
    return Path(text).name
