"""Vectors are read as they were written, other configurations stay, and a file that does not fit is told."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ttc.core.errors import DataError, StorageError
from ttc.store.features import FILE, Feature, load_features, read_features, write_features


def row(problem, config="m", numbers=(0.5, -2.0), **told):
    return Feature(problem, config, np.asarray(numbers, dtype=np.float32), **told)


def written(folder, **columns):
    good = {"problem_id": ["a", "b"], "config": ["m", "m"], "vector": [[0.5, 1.0], [2.0, -3.0]]}
    table = {name: values for name, values in {**good, **columns}.items() if values is not None}
    pq.write_table(pa.table(table), folder / FILE)


def plain(folder):
    return {
        config: {problem: vector.tolist() for problem, vector in vectors.items()}
        for config, vectors in read_features(folder).items()
    }


def test_vectors_are_float32_and_read_as_written(tmp_path):
    numbers = np.random.default_rng(3).standard_normal((5, 7)).astype(np.float32)
    write_features(tmp_path, "m T=0.7", [row(f"p{i}", "m T=0.7", numbers[i], prompt_tokens=9) for i in range(5)])
    found = read_features(tmp_path)["m T=0.7"]
    assert list(found) == [f"p{i}" for i in range(5)]
    for i, vector in enumerate(found.values()):
        assert vector.dtype == np.float32
        assert np.array_equal(vector, numbers[i])
    table = pq.read_table(tmp_path / FILE)
    assert table.schema.field("vector").type == pa.list_(pa.float32())
    assert table.column_names[:3] == ["problem_id", "config", "vector"]


def test_what_a_vector_cost_and_came_from_is_kept(tmp_path):
    write_features(tmp_path, "m", [row("a", prompt_tokens=31, source="s"), row("b")])
    assert [(r.problem_id, r.prompt_tokens, r.source) for r in load_features(tmp_path)] == [
        ("a", 31, "s"), ("b", None, None),
    ]  # fmt: skip


def test_a_configuration_is_replaced_and_the_others_stay(tmp_path):
    write_features(tmp_path, "m", [row("a"), row("b")])
    write_features(tmp_path, "wide", [row("a", "wide", (1.0, 2.0, 3.0))])
    write_features(tmp_path, "m", [row("c", "m", (7.0,))])
    assert plain(tmp_path) == {"m": {"c": [7.0]}, "wide": {"a": [1.0, 2.0, 3.0]}}


def test_no_file_is_no_vectors(tmp_path):
    assert read_features(tmp_path) == {}


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float16(), 2)])
def test_rows_from_elsewhere_need_three_columns_and_any_list_of_numbers(tmp_path, kind):
    numbers = [np.asarray(v, dtype=np.float16) for v in ([0.5, 1.0], [2.0, -3.0])]
    written(tmp_path, vector=pa.array(numbers, kind))
    assert plain(tmp_path) == {"m": {"a": [0.5, 1.0], "b": [2.0, -3.0]}}


def test_a_file_of_several_row_groups_is_read_whole(tmp_path):
    written(tmp_path)
    table = pq.read_table(tmp_path / FILE)
    pq.write_table(table, tmp_path / FILE, row_group_size=1)
    assert plain(tmp_path) == {"m": {"a": [0.5, 1.0], "b": [2.0, -3.0]}}
    pq.write_table(table.slice(0, 0), tmp_path / FILE)
    assert plain(tmp_path) == {}


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"vector": None}, "lacks the column 'vector'"),
        ({"config": None}, "lacks the column 'config'"),
        ({"vector": ["x", "y"]}, "column 'vector' is of type string"),
        ({"vector": [["x"], ["y"]]}, "column 'vector': Failed to parse"),
        ({"vector": [0.5, 1.0]}, "column 'vector' is of type double"),
        ({"vector": [[0.5, 1.0], None]}, "column 'vector' has empty places"),
        ({"vector": [[0.5, 1.0], [2.0, None]]}, "may not be null"),
        ({"problem_id": ["a", None]}, "column 'problem_id' has empty places"),
        ({"vector": [[0.5, 1.0], [2.0]]}, "problem 'b' in 'm' has 1 numbers, others have 2"),
        ({"vector": [[], []]}, "problem 'a' in 'm' has 0 numbers"),
        ({"vector": [[0.5, 1.0], [2.0, math.nan]]}, "problem 'b' in 'm' holds a number that is not finite"),
        ({"vector": [[0.5, 1e300], [2.0, 1.0]]}, "problem 'a' in 'm' holds a number that is not finite"),
        ({"problem_id": ["a", "a"]}, "problem 'a' in 'm' stands twice"),
        ({"prompt_tokens": ["many", "few"]}, "column 'prompt_tokens' is of type string"),
    ],
)
def test_what_does_not_fit_is_told_with_a_way_out(tmp_path, columns, told):
    written(tmp_path, **columns)
    with pytest.raises(DataError) as caught:
        read_features(tmp_path)
    assert told in caught.value.message
    assert FILE in caught.value.message
    assert caught.value.hint.startswith("delete it")


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / FILE).write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="cannot read"):
        read_features(tmp_path)


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    write_features(tmp_path, "m", [row("a")])
    for wrong in ([row("a"), row("b", "m", (1.0,))], [row("a", "m", (math.inf, 0.0))], [row("a"), row("a")]):
        with pytest.raises(DataError):
            write_features(tmp_path, "m", wrong)
    assert plain(tmp_path) == {"m": {"a": [0.5, -2.0]}}
    with pytest.raises(StorageError):
        write_features(tmp_path / "none", "m", [row("a")])
