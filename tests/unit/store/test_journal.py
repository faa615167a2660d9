"""What was written is read back, and what a crash or a bad disk left is told and survived."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttc.core.errors import StorageError
from ttc.store.journal import JournalWriter, read_journal


def row(problem, **other):
    return {"cell": "c", "problem_id": problem, "status": "ok", "score": 1.0, **other}


def write(folder, *rows, worker="main"):
    with JournalWriter(folder, worker) as journal:
        for r in rows:
            journal.append(r)
    return folder / f"{worker}.jsonl"


def problems(folder):
    return [problem for _, problem in read_journal(folder).records]


def test_records_and_events_are_read_back_in_order(tmp_path):
    first, second = {"kind": "cell", "cell": "c"}, {"kind": "cell_end", "cell": "c", "wall_s": None}
    write(tmp_path, first, row("p1", text='é "quoted"\nline'), row("p2"), second)
    replay = read_journal(tmp_path)
    assert list(replay.records.values()) == [row("p1", text='é "quoted"\nline'), row("p2")]
    assert (replay.events, replay.damaged) == ([first, second], [])


def test_a_folder_without_files_is_an_empty_journal(tmp_path):
    replay = read_journal(tmp_path / "none")
    assert (replay.records, replay.events, replay.damaged) == ({}, [], [])


def test_each_row_is_on_disk_as_soon_as_it_is_appended(tmp_path):
    with JournalWriter(tmp_path, "main") as journal:
        for i in range(3):
            journal.append(row(f"p{i}"))
            assert len(problems(tmp_path)) == i + 1


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_torn_last_line_is_dropped_without_a_word(tmp_path, keep):
    file = write(tmp_path, row("p1"), row("p2"))
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][: int(keep * (len(lines[1]) - 2))])
    replay = read_journal(tmp_path)
    assert (problems(tmp_path), replay.damaged) == (["p1"], [])


def test_a_last_line_that_lacks_only_its_end_counts(tmp_path):
    file = write(tmp_path, row("p1"), row("p2"))
    file.write_bytes(file.read_bytes()[:-1])
    assert problems(tmp_path) == ["p1", "p2"]


def test_writing_after_a_torn_line_does_not_glue_to_it(tmp_path):
    file = write(tmp_path, row("p1"), row("p2"))
    file.write_bytes(file.read_bytes()[:-20])
    write(tmp_path, row("p2"), row("p3"))
    replay = read_journal(tmp_path)
    assert problems(tmp_path) == ["p1", "p2", "p3"]
    assert replay.damaged == []


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_after_any_tear_all_whole_lines_and_all_later_ones_are_kept(tmp_path_factory, dice):
    folder = tmp_path_factory.mktemp("journal")
    file = write(folder, *(row(f"p{i}", text="é" * i) for i in range(5)))
    data = file.read_bytes()
    cut = dice.randrange(len(data) + 1)
    file.write_bytes(data[:cut])
    write(folder, row("late"))
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    whole = sum(end <= cut or end == cut + 1 for end in ends)
    assert problems(folder) == [*(f"p{i}" for i in range(whole)), "late"]


def test_a_damaged_line_in_the_middle_is_skipped_and_named(tmp_path):
    file = write(tmp_path, *(row(f"p{i}") for i in range(4)))
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"', b"\x02", 1)
    file.write_bytes(b"".join(lines))
    replay = read_journal(tmp_path)
    assert problems(tmp_path) == ["p0", "p2", "p3"]
    assert replay.damaged == ["main.jsonl:2"]


@pytest.mark.parametrize(
    "line", [b"\x00\x00\x00", b"[1]", b"null", b'"p"', b"{", b'{"cell":"c","problem_id":"p\xff1"}']
)
def test_a_line_that_is_no_object_of_utf8_text_is_damaged(tmp_path, line):
    file = write(tmp_path, row("p1"))
    file.write_bytes(line + b"\n" + file.read_bytes())
    assert read_journal(tmp_path).damaged == ["main.jsonl:1"]
    assert problems(tmp_path) == ["p1"]


def test_no_flipped_bit_is_believed_or_reaches_another_line(tmp_path):
    rows = [row(f"p{i}", text="abc é", tokens=123) for i in range(3)]
    file = write(tmp_path, *rows)
    data = file.read_bytes()
    second = data.index(b"\n") + 1, data.index(b"\n", data.index(b"\n") + 1)
    believed = 0
    for place in range(*second):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            file.write_bytes(flipped)
            replay = read_journal(tmp_path)
            others = {key: found for key, found in replay.records.items() if key != ("c", "p1")}
            assert others == {("c", "p0"): rows[0], ("c", "p2"): rows[2]}
            found = replay.records.get(("c", "p1"))
            if found is None:
                assert replay.damaged[0] == "main.jsonl:2"
            else:  # the flip hit the name of the checksum: all that it covers is as it was
                assert rows[1].items() <= found.items()
                believed += 1
    assert believed <= 24  # the eight bits of three letters


def test_lines_without_a_checksum_are_taken_as_they_are(tmp_path):
    """As written by hand, or before lines had one."""
    (tmp_path / "main.jsonl").write_text(json.dumps(row("p1")) + "\n")
    write(tmp_path, row("p2"))
    assert read_journal(tmp_path).records == {("c", "p1"): row("p1"), ("c", "p2"): row("p2")}


def test_an_error_gives_way_to_a_later_attempt_and_nothing_else_does(tmp_path):
    failed = {"status": "error", "score": None}
    write(
        tmp_path,
        row("p1", **failed, n=1), row("p2", n=1), row("p3", **failed, n=1),
        row("p1", n=2), row("p2", n=2), row("p3", **failed, n=2), row("p1", n=3),
    )  # fmt: skip
    replay = read_journal(tmp_path)
    found = {problem: (r["n"], r["status"]) for (_, problem), r in replay.records.items()}
    assert found == {"p1": (2, "ok"), "p2": (1, "ok"), "p3": (2, "error")}
    assert [(r["problem_id"], r["n"]) for r in replay.retried] == [("p1", 1), ("p3", 1)]


@pytest.mark.parametrize("names", [("main", "shard-1-of-2"), ("shard-1-of-2", "main")])
def test_what_a_failed_attempt_spent_is_known_in_whatever_file_it_stands(tmp_path, names):
    failed, done = ({"cell": "c", "problem_id": "p", "status": status} for status in ("error", "ok"))
    for name, row in zip(names, (failed, done), strict=True):
        with JournalWriter(tmp_path, name) as journal:
            journal.append(row)
    replay = read_journal(tmp_path)
    assert list(replay.records.values()) == [done]
    assert replay.retried == [failed]


def test_workers_files_are_joined_in_order_of_their_names(tmp_path):
    write(tmp_path, row("p2"), row("p1", n="late"), worker="b")
    write(tmp_path, row("p1", n="early"), worker="a")
    replay = read_journal(tmp_path)
    assert problems(tmp_path) == ["p1", "p2"]
    assert replay.records["c", "p1"]["n"] == "early"


def test_a_full_disk_is_a_storage_error_that_says_what_to_do(tmp_path):
    (tmp_path / "main.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left") as caught, JournalWriter(tmp_path, "main") as journal:
        journal.append(row("p1"))
    assert "free some space" in caught.value.hint
    assert caught.value.exit_code == 6


def test_a_disk_that_fills_up_leaves_what_was_written_before(tmp_path, monkeypatch):
    with pytest.raises(StorageError, match="disk quota"), JournalWriter(tmp_path, "main") as journal:
        journal.append(row("p1"))

        class Full:
            def write(self, text):
                raise OSError(122, "disk quota exceeded")

            def close(self):
                raise OSError(122, "disk quota exceeded again")

        monkeypatch.setattr(journal, "_file", Full())
        journal.append(row("p2"))
    assert problems(tmp_path) == ["p1"]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError), JournalWriter(tmp_path / "file" / "journal", "main"):
        pass


def test_a_closed_journal_refuses_rows(tmp_path):
    with JournalWriter(tmp_path, "main") as journal:
        pass
    with pytest.raises(StorageError, match="not open"):
        journal.append(row("p"))


def test_half_a_surrogate_pair_in_a_text_is_written_as_something_else(tmp_path):
    write(tmp_path, row("p1", text="a\ud83d"), row("p2"))
    assert problems(tmp_path) == ["p1", "p2"]
    assert read_journal(tmp_path).records["c", "p1"]["text"] == "a?"


def test_a_number_that_json_cannot_hold_is_never_written(tmp_path):
    with JournalWriter(tmp_path, "main") as journal:
        with pytest.raises(ValueError, match="JSON"):
            journal.append(row("p1", logprob=float("nan")))
        journal.append(row("p2"))
    assert len((tmp_path / "main.jsonl").read_text().splitlines()) == 1
    assert read_journal(tmp_path).records == {("c", "p2"): row("p2")}
