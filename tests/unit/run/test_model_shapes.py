"""What a run records of its models, so that a report can tell what their tokens cost."""

import json
import math
import struct
from importlib.resources import files
from pathlib import Path

import pytest

import ttc
from ttc.api import make_plan
from ttc.report.costs import rates_of
from ttc.run.manifest import shapes_of

CONFIG = {"tasks": ["arithmetic"], "strategies": ["best-of-n"], "budgets": [64], "limit": 2}


def counted(folder):
    """Return the numbers in a safetensors file, read by hand."""
    total = 0
    for path in folder.glob("*.safetensors"):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total


def test_cells_know_the_size_of_policy_and_reward_model():
    described = make_plan(CONFIG).cells[0].describe()
    shipped = Path(str(files("ttc.embedded")))
    assert described["parameters"] == counted(shipped / "policy")
    assert described["reward_parameters"] == counted(shipped / "prm")
    assert make_plan({**CONFIG, "models": ["fake"]}).cells[0].describe()["reward_parameters"] is None


def test_the_manifest_holds_the_attention_of_a_local_model(monkeypatch):
    plan = make_plan(CONFIG)
    config = json.loads((Path(str(files("ttc.embedded"))) / "policy" / "config.json").read_text())
    shape = rates_of({"shapes": shapes_of(plan)}).shapes["embedded"]
    assert shape.parameters == plan.cells[0].subject.parameters
    assert shape.attention.layers == config["num_hidden_layers"]
    assert shape.attention.query_heads == config["num_attention_heads"]
    assert shape.attention.kv_heads == config["num_key_value_heads"]
    # A model without attention, or without a readable shape, has none.
    monkeypatch.setitem(plan.benches[0].engine.model_config, "num_hidden_layers", "many")
    assert shapes_of(plan) == {}
    assert shapes_of(make_plan({**CONFIG, "models": ["fake"]})) == {}


@pytest.mark.parametrize("price", [[1], [1, 2, 3, 4], [-1, 2], ["a", 2], [True, 2], 3])
def test_a_price_is_two_or_three_numbers(price):
    with pytest.raises(ttc.TtcError, match="price_per_mtok"):
        make_plan({**CONFIG, "price_per_mtok": price})
