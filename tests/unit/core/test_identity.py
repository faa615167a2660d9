"""Equal things have equal names, and seeds depend on nothing but the sample."""

import hashlib
import inspect
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttc.core.identity import canonical_json, file_sha256, identity, sample_seed

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=4), plain, max_size=6), st.randoms())
def test_identity_ignores_the_order_of_keys_only(value, random):
    keys = list(value)
    random.shuffle(keys)
    assert identity({key: value[key] for key in keys}) == identity(value)
    assert identity({**value, "more": 1}) != identity({**value, "more": 2})


@given(plain)
def test_canonical_json_reads_back_as_the_same_value(value):
    assert json.loads(canonical_json(value)) == value


def test_canonical_json_is_one_form():
    assert canonical_json({"b": [1, 2.5, None], "a": "é"}) == '{"a":"é","b":[1,2.5,null]}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": object()}, {1j}])
def test_canonical_json_refuses_what_json_cannot_hold(value):
    with pytest.raises((TypeError, ValueError)):
        canonical_json(value)


def test_seeds_depend_on_the_sample_and_on_no_strategy_allocator_or_budget():
    assert list(inspect.signature(sample_seed).parameters) == ["run_seed", "problem_id", "branch", "index"]
    data = b"7\x1fp1\x1f/a\x1f3"
    assert sample_seed(7, "p1", "/a", 3) == int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def test_seeds_fit_63_bits_and_neighbours_do_not_collide():
    seeds = [
        sample_seed(run, problem, branch, index)
        for run in (0, 1)
        for problem in ("p1", "p2", "p11")
        for branch in ("", "/a", "/a/b")
        for index in range(200)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # vLLM gives child i of a request `seed + i`: no two samples may come that close.
    ordered = sorted(seeds)
    assert min(b - a for a, b in itertools.pairwise(ordered)) > 1000


def test_file_hash_is_sha256_of_all_blocks(tmp_path):
    data = bytes(range(256)) * 40_000  # more than two blocks
    (tmp_path / "f").write_bytes(data)
    told = []
    assert file_sha256(tmp_path / "f", told.append) == hashlib.sha256(data).hexdigest()
    assert sum(told) == len(data)
    assert len(told) > 1
