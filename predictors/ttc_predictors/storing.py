"""What was learned, as JSON values and text files, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ttc.core.forecast import Unit
from ttc_predictors.calibration import Calibration
from ttc_predictors.files import Shelf
from ttc_predictors.model import ModelPart
from ttc_predictors.prior import Prior
from ttc_predictors.value import GAIN_FEATURES, LEVEL_FEATURES, ValuePart

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
        "success": shelf.put(f"{name}-success", part.success),
        "calibration": part.calibration.to_json(),
        "concentration": part.concentration,
        "tokens": shelf.put(f"{name}-tokens", part.tokens),
        "tokens_scale": part.tokens_scale,
        "upper": shelf.put(f"{name}-upper", part.upper),
    }


def _unpack_model(value: dict[str, Any], shelf: Shelf, threads: int) -> ModelPart:
    from ttc_predictors.pilot import FEATURES

    prior = Prior.from_json(value["prior"])
    width = len(prior.names) + len(FEATURES)
    return ModelPart(
        prior,
        shelf.get(value["success"], width, threads),
        Calibration.from_json(value["calibration"]),
        float(value["concentration"]),
        shelf.get(value["tokens"], width, threads),
        float(value["tokens_scale"]),
        shelf.get(value["upper"], width, threads),
    )


def _pack_value(name: str, part: ValuePart, shelf: Shelf) -> dict[str, Any]:
    arrays = {key: getattr(part, key).tolist() for key in ("options", "scores", "means", "spends")}
    return {
        "model": part.model,
        "strategy": part.strategy,
        "unit": part.unit,
        "rising": part.rising,
        "level": shelf.put(f"{name}-level", part.level),
        "calibration": part.calibration.to_json(),
        "gain": shelf.put(f"{name}-gain", part.gain),
        "closed_share": part.closed_share,
        "spend": shelf.put(f"{name}-spend", part.spend),
        **arrays,
    }


def _unpack_value(value: dict[str, Any], shelf: Shelf, threads: int, model: ModelPart) -> ValuePart:
    width = len(model.names)
    options = np.array(value["options"], dtype=np.int64)
    scores, means, spends = (np.array(value[key], dtype=np.float64) for key in ("scores", "means", "spends"))
    if (
        means.shape != (scores.size, options.size)
        or spends.shape != means.shape
        or value["unit"] not in ("tokens", "calls")
    ):
        raise ValueError("the training problems' arrays do not fit each other")
    gain_width = width + len(GAIN_FEATURES)
    return ValuePart(
        str(value["model"]),
        str(value["strategy"]),
        value["unit"],
        options,
        bool(value["rising"]),
        shelf.get(value["level"], width + len(LEVEL_FEATURES), threads),
        Calibration.from_json(value["calibration"]),
        shelf.get(value["gain"], gain_width, threads),
        float(value["closed_share"]),
        model.concentration,
        None if value["spend"] is None else shelf.get(value["spend"], gain_width, threads),
        scores,
        means,
        spends,
    )
