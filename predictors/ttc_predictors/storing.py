"""What was learned, as JSON values and text files, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ttc.core.forecast import Unit
from ttc_predictors.boosting import LINKS, Stack
from ttc_predictors.calibration import Calibration
from ttc_predictors.files import Shelf
from ttc_predictors.linear import Linear, design
from ttc_predictors.model import ModelPart, moment_names
from ttc_predictors.posterior import Habits
from ttc_predictors.prior import Prior
from ttc_predictors.value import GAIN_FEATURES, LEVEL_FEATURES, SPEND_FEATURES, Fresh, ValuePart

if TYPE_CHECKING:
    from ttc_predictors.budget import BudgetPredictor


def pack(predictor: BudgetPredictor) -> tuple[dict[str, Any], Shelf]:
    """Return the content of predictor.json, without its seal, and the text files."""
    shelf = Shelf()
    models = [
        _pack_model(f"model-{i}", name, part, shelf) for i, (name, part) in enumerate(sorted(predictor.models_.items()))
    ]
    values = [_pack_value(f"value-{i}", part, shelf) for i, (_, part) in enumerate(sorted(predictor.values_.items()))]
    content = {
        "kind": predictor.kind,
        "parameters": predictor.get_params(),
        "notes": predictor.notes_,
        "models": models,
        "values": values,
    }
    return content, shelf


def unpack(
    content: dict[str, Any], shelf: Shelf, threads: int
) -> tuple[dict[str, ModelPart], dict[tuple[str, str, Unit], ValuePart]]:
    """Return what `pack` described.

    Raises KeyError, TypeError, ValueError or DataError where it is none.
    """
    models = {str(value["model"]): _unpack_model(value, shelf, threads) for value in content["models"]}
    parts = [_unpack_value(value, shelf, threads, models[value["model"]]) for value in content["values"]]
    return models, {(part.model, part.strategy, part.unit): part for part in parts}


def _pack_model(name: str, model: str, part: ModelPart, shelf: Shelf) -> dict[str, Any]:
    return {
        "model": model,
        "prior": part.prior.to_json(),
        "concentration": part.habits.concentration,
        "scatter": part.habits.scatter,
        "success": _pack_stack(f"{name}-success", part.success, shelf),
        "calibration": part.calibration.to_json(),
        "tokens": _pack_stack(f"{name}-tokens", part.tokens, shelf),
        "tokens_scale": part.tokens_scale,
        "upper": _pack_stack(f"{name}-upper", part.upper, shelf),
    }


def _unpack_model(value: dict[str, Any], shelf: Shelf, threads: int) -> ModelPart:
    prior = Prior.from_json(value["prior"])
    names = moment_names(prior)
    return ModelPart(
        prior,
        Habits(float(value["concentration"]), float(value["scatter"])),
        _unpack_stack(value["success"], names, shelf, threads),
        Calibration.from_json(value["calibration"]),
        _unpack_stack(value["tokens"], names, shelf, threads),
        float(value["tokens_scale"]),
        _unpack_stack(value["upper"], names, shelf, threads),
    )


def _pack_value(name: str, part: ValuePart, shelf: Shelf) -> dict[str, Any]:
    arrays = {key: getattr(part, key).tolist() for key in ("options", "scores", "means", "spends")}
    return {
        "model": part.model,
        "strategy": part.strategy,
        "unit": part.unit,
        "rising": part.rising,
        "level": _pack_stack(f"{name}-level", part.level, shelf),
        "calibration": part.calibration.to_json(),
        "gain": None if part.gain is None else _pack_stack(f"{name}-gain", part.gain, shelf),
        "fresh": {
            "recorded": part.fresh.recorded.tolist(),
            "predicted": part.fresh.predicted.tolist(),
            "trust": part.fresh.trust,
        },
        "spend": None if part.spend is None else _pack_stack(f"{name}-spend", part.spend, shelf),
        "problem_ids": list(part.problem_ids),
        **arrays,
    }


def _unpack_value(value: dict[str, Any], shelf: Shelf, threads: int, model: ModelPart) -> ValuePart:
    options = np.array(value["options"], dtype=np.int64)
    scores, means, spends = (np.array(value[key], dtype=np.float64) for key in ("scores", "means", "spends"))
    ids = tuple(map(str, value["problem_ids"]))
    recorded, predicted = (np.array(value["fresh"][key], dtype=np.float64) for key in ("recorded", "predicted"))
    if recorded.shape != options.shape or predicted.shape != options.shape:
        raise ValueError("mean gains do not fit the options")
    fits = means.shape == spends.shape == (scores.size, options.size) and value["unit"] in ("tokens", "calls")
    if not fits or len(ids) != scores.size or (np.diff(options) <= 0).any():
        raise ValueError("the training problems' arrays do not fit each other")
    return ValuePart(
        str(value["model"]),
        str(value["strategy"]),
        value["unit"],
        options,
        bool(value["rising"]),
        _unpack_stack(value["level"], (*model.names, *LEVEL_FEATURES), shelf, threads),
        Calibration.from_json(value["calibration"]),
        None if value["gain"] is None else _unpack_stack(value["gain"], (*model.names, *GAIN_FEATURES), shelf, threads),
        Fresh(recorded, predicted, float(value["fresh"]["trust"])),
        None
        if value["spend"] is None
        else _unpack_stack(value["spend"], (*model.names, *SPEND_FEATURES), shelf, threads),
        scores,
        means,
        spends,
        ids,
    )


def _pack_stack(name: str, stack: Stack, shelf: Shelf) -> dict[str, Any]:
    return {"objective": stack.objective, "linear": stack.linear.to_json(), "trees": shelf.put(name, stack.forest)}


def _unpack_stack(value: dict[str, Any], names: tuple[str, ...], shelf: Shelf, threads: int) -> Stack:
    if value["objective"] not in LINKS:
        raise ValueError(f"unknown objective {value['objective']!r}")
    linear = Linear.from_json(value["linear"])
    width = design(linear.design, names, np.zeros((1, len(names)), dtype=np.float32)).shape[1]
    if linear.mean.size != width:
        raise ValueError(f"a linear stage has {linear.mean.size} columns, {width} were expected")
    forest = None if value["trees"] is None else shelf.get(value["trees"], len(names), threads)
    return Stack(value["objective"], names, linear, forest)
