"""A bank says what its rows said; a wrong row is named by line and field."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttc.core.errors import DataError, StorageError
from ttc.store.bank import Row, import_rows, parse_rows, read_bank, write_bank
from ttc.store.tables import SCHEMAS, read_groups, read_table, rows_of, to_table, write_table

GOOD = {
    "problem_id": "p1", "prompt": "2 + 2", "config": "m T=0.7", "sample": 0, "answer": "4", "correct": True,
    "completion_tokens": 12, "prompt_tokens": 5, "finish": "stop", "logprob": -3.5, "score": 0.5,
}  # fmt: skip
MAY_BE_NULL = ["prompt", "answer", "logprob", "score"]


def refusal(*lines):
    with pytest.raises(DataError) as caught:
        parse_rows(lines, "rows.jsonl")
    assert caught.value.exit_code == 3
    return caught.value


def line(**changed):
    return json.dumps({**GOOD, **changed})


def test_a_row_is_read_as_written():
    assert parse_rows([line()], "r") == [Row(**GOOD)]


@pytest.mark.parametrize("field", MAY_BE_NULL)
def test_what_may_be_null_may_also_be_absent(field):
    absent = json.dumps({key: value for key, value in GOOD.items() if key != field})
    assert parse_rows([line(**{field: None})], "r") == parse_rows([absent], "r")


@pytest.mark.parametrize("field", [f for f in GOOD if f not in MAY_BE_NULL])
def test_what_is_required_is_told_when_null_or_missing(field):
    absent = json.dumps({key: value for key, value in GOOD.items() if key != field})
    assert refusal(line(sample=7), absent).message == f"rows.jsonl, line 2: field {field!r} is missing"
    assert refusal(line(**{field: None})).message == f"rows.jsonl, line 1: field {field!r} is null"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("problem_id", 5), ("problem_id", ""), ("config", ""), ("config", ["m"]), ("prompt", 3), ("answer", 4),
        ("answer", True), ("correct", 1), ("correct", "true"), ("sample", -1), ("sample", 1.0), ("sample", "0"),
        ("sample", True), ("completion_tokens", -5), ("completion_tokens", 2.5), ("prompt_tokens", "5"),
        ("completion_tokens", 2**63), ("finish", "eos"), ("finish", True), ("logprob", "low"), ("logprob", True),
        ("logprob", math.inf), ("logprob", math.nan), ("logprob", 10**400), ("score", 1.01), ("score", -0.01),
        ("score", math.nan), ("score", [0.5]), ("answer", "\ud83d"), ("problem_id", "\udc00"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_line_and_field(field, value):
    message = refusal(line(sample=9), "", line(**{field: value})).message
    assert message.startswith(f"rows.jsonl, line 3: field {field!r} ")
    assert len(message) < 600


def test_an_unknown_field_is_told_with_line_and_nearest():
    error = refusal(line(completion_token=3))
    assert error.message == "rows.jsonl, line 1: unknown field 'completion_token'"
    assert error.hint == "did you mean 'completion_tokens'?"


@pytest.mark.parametrize(
    ("text", "told"), [("{", "not JSON"), ("[1]", "found list"), ("5", "found int"), ("x", "not JSON")]
)
def test_a_line_that_is_no_object_is_told(text, told):
    message = refusal(line(), text).message
    assert message.startswith("rows.jsonl, line 2: ")
    assert told in message


def test_a_sample_that_stands_twice_is_told_with_both_lines():
    message = refusal(line(), line(sample=1), line(answer="5")).message
    assert message.startswith("rows.jsonl, line 3: sample 0 of problem 'p1'")
    assert message.endswith("line 1")
    assert len(parse_rows([line(), line(config="n"), line(problem_id="p2"), line(sample=1)], "r")) == 4


def test_a_file_without_rows_is_refused():
    assert "holds no samples" in refusal("", "  \n").message


def test_whole_numbers_are_good_measures():
    (row,) = parse_rows([line(logprob=-3, score=1)], "r")
    assert (row.logprob, row.score) == (-3.0, 1.0)
    assert isinstance(row.logprob, float)


def test_an_imported_bank_is_read_back_with_its_name(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join([line(sample=1), line(sample=0), line(problem_id="é", config="n")]))
    bank = import_rows(tmp_path / "rows.jsonl", tmp_path / "sums", None)
    assert bank == read_bank(tmp_path / "sums")
    assert (bank.name, sorted(bank.pools)) == ("sums", ["m T=0.7", "n"])
    assert [r.sample for r in bank.pools["m T=0.7"]["p1"]] == [0, 1]
    assert import_rows(tmp_path / "rows.jsonl", tmp_path / "other", "gsm8k").name == "gsm8k"


def test_a_bank_is_not_written_over(tmp_path):
    (tmp_path / "rows.jsonl").write_text(line())
    import_rows(tmp_path / "rows.jsonl", tmp_path / "bank", None)
    with pytest.raises(StorageError, match="already holds a bank"):
        import_rows(tmp_path / "rows.jsonl", tmp_path / "bank", None)


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        import_rows(tmp_path / "none.jsonl", tmp_path / "bank", None)
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(DataError, match="not UTF-8"):
        import_rows(tmp_path / "latin.jsonl", tmp_path / "bank", None)
    assert not (tmp_path / "bank").exists()


def test_a_folder_without_a_bank_and_a_damaged_one_are_told(tmp_path):
    with pytest.raises(DataError, match="is not a bank"):
        read_bank(tmp_path)
    write_bank([Row(**GOOD)], tmp_path / "bank", "t")
    file = tmp_path / "bank" / "bank.parquet"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"bank\.parquet"):
        read_bank(tmp_path / "bank")


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_name_is_told_and_a_lost_one_is_the_folders(tmp_path, content):
    write_bank([Row(**GOOD)], tmp_path / "bank", "t")
    (tmp_path / "bank" / "bank.json").write_text(content)
    with pytest.raises(DataError, match=r"bank\.json"):
        read_bank(tmp_path / "bank")
    (tmp_path / "bank" / "bank.json").unlink()
    assert read_bank(tmp_path / "bank").name == "bank"


def test_a_bank_lacking_a_column_is_told(tmp_path):
    write_bank([Row(**GOOD)], tmp_path / "bank", "t")
    file = tmp_path / "bank" / "bank.parquet"
    write_table(read_table(file, "bank").drop_columns(["finish"]), file)
    with pytest.raises(DataError, match="lacks the column 'finish'"):
        read_bank(tmp_path / "bank")


def test_the_fingerprint_follows_the_rows(tmp_path):
    def fingerprint(folder, **changed):
        write_bank([Row(**{**GOOD, **changed})], tmp_path / folder, "t")
        return read_bank(tmp_path / folder).fingerprint

    assert fingerprint("a") == fingerprint("b") != fingerprint("c", answer="5")


def test_means_and_lengths_are_over_the_right_rows(tmp_path):
    rows = [Row(**{**GOOD, "sample": i, "config": c, "completion_tokens": t}) for i, (c, t) in
            enumerate([("m", 10), ("m", 20), ("n", 90)])]  # fmt: skip
    write_bank(rows, tmp_path / "b", "t")
    bank = read_bank(tmp_path / "b")
    assert (bank.mean_tokens, bank.longest("m"), bank.longest("n")) == (40, 20, 90)


rows = st.builds(
    Row, st.text(st.characters(codec="utf-8"), min_size=1, max_size=3), st.none() | st.just("q"), st.sampled_from("mn"),
    st.integers(0, 2**63 - 1), st.none() | st.text(st.characters(codec="utf-8"), max_size=4), st.booleans(),
    st.integers(0, 2**40), st.integers(0, 9), st.sampled_from(["stop", "length"]),
    st.none() | st.floats(allow_nan=False, allow_infinity=False), st.none() | st.floats(0, 1),
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.lists(rows, min_size=1, max_size=8, unique_by=lambda r: (r.problem_id, r.config, r.sample)))
def test_json_lines_and_parquet_hold_the_same_rows(tmp_path_factory, drawn):
    lines = [json.dumps({name: getattr(r, name) for name in SCHEMAS["bank"]}) for r in drawn]
    assert parse_rows(lines, "r") == drawn
    folder = tmp_path_factory.mktemp("bank")
    write_bank(drawn, folder, "t")
    assert sorted(read_bank(folder).rows(), key=repr) == sorted(drawn, key=repr)


# --- tables


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_every_table_holds_its_columns_and_types_and_leaves_others_out(tmp_path, name):
    example = {"str": "é", "int": 3, "float": 0.5, "bool": True, "vector": [0.5, -2.0]}
    full = {column: example[kind.rstrip("?")] for column, kind in SCHEMAS[name].items()}
    empty = {column: None if kind.endswith("?") else full[column] for column, kind in SCHEMAS[name].items()}
    write_table(to_table(name, [{**full, "other": 1}, empty]), tmp_path / "t.parquet")
    assert list(rows_of(read_table(tmp_path / "t.parquet", name))) == [full, empty]


def test_a_table_that_is_missing_or_damaged_is_told_with_a_way_out(tmp_path):
    with pytest.raises(StorageError, match="does not exist") as caught:
        read_table(tmp_path / "none.parquet", "cells")
    assert "--rebuild" in caught.value.hint
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(StorageError, match="cannot read"):
        read_table(tmp_path / "bad.parquet", "cells")


@pytest.fixture
def small_machine(monkeypatch):
    """A machine of 100 MB."""
    monkeypatch.setattr("ttc.store.tables.os.sysconf", {"SC_PAGE_SIZE": 1000, "SC_PHYS_PAGES": 100_000}.get)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("read", [read_table, lambda path, name: list(read_groups(path, name))])
def test_text_that_unfolds_beyond_the_memory_is_refused_before_it_does(tmp_path, small_machine, folded, read):
    """One text of 10 kB ten thousand times: some kB in the file, 100 MB as values."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), ["x" * 10_000])
    rows = pa.table({
        "task": texts if folded else texts.cast(pa.string()),
        "problem_id": pa.array(range(10_000)).cast(pa.string()),
    })  # fmt: skip
    pq.write_table(rows, tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    with pytest.raises(StorageError, match="unfolds to 0 GB, more than half of this machine's 0 GB"):
        read(tmp_path / "bomb.parquet", "problems")


def test_numbers_that_unfold_beyond_the_memory_are_refused_before_they_do(tmp_path, small_machine):
    rows = pa.table(
        {"problem_id": ["p"], "config": ["c"], "vector": pa.array([[0.5] * 10_000_000], pa.list_(pa.float32()))}
    )
    pq.write_table(rows, tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    with pytest.raises(StorageError, match="unfolds to"):
        read_table(tmp_path / "bomb.parquet", "features")


def test_groups_are_each_held_to_the_memory(tmp_path, small_machine):
    """Eight groups of 10 MB: no whole table here, and each group is fine."""
    rows = pa.table({"task": ["x" * 10_000] * 8_000, "problem_id": list(map(str, range(8_000)))})
    pq.write_table(rows, tmp_path / "t.parquet", row_group_size=1_000)
    with pytest.raises(StorageError, match="unfolds to"):
        read_table(tmp_path / "t.parquet", "problems")
    assert [group.num_rows for group in read_groups(tmp_path / "t.parquet", "problems")] == [1_000] * 8


def test_a_column_that_stands_twice_is_told(tmp_path):
    pq.write_table(pa.table([["a"], ["b"], ["1"]], names=["task", "task", "problem_id"]), tmp_path / "t.parquet")
    with pytest.raises(StorageError, match="has the column 'task' twice"):
        read_table(tmp_path / "t.parquet", "problems")


def test_a_dictionary_column_is_read_as_its_values(tmp_path):
    rows = pa.table({"task": pa.array(["a", "b", "a"]).dictionary_encode(), "problem_id": ["1", "2", "3"]})
    pq.write_table(rows, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", "problems")["task"].to_pylist() == ["a", "b", "a"]


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path):
    table = to_table("allocation", [])
    with pytest.raises(StorageError, match="cannot write"):
        write_table(table, tmp_path / "no" / "t.parquet")
    write_table(table, tmp_path / "t.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
