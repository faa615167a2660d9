"""Break a live sweep in every way that docs/faults.md names, run the same command again, and count what was lost.

    python benchmarks/faults.py [--engine embedded] [--kills 30] [--seed 0] [--out FOLDER] [--only kill,disk]

Every fault hits a real program: `ttc sweep` on the shipped pair through vLLM (`--engine fake` needs no vLLM), or on a
local endpoint that misbehaves. After a fault its session must be empty, the run's lock free, every finished record as it
was; after the same command the run must be complete and its tables those of a run that nothing happened to. Writes
faults.md and faults.json into --out; ends with 1 where anything was lost, made twice or left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from ttc.testing.breaking import (
    FATAL_TASK,
    MOMENTS,
    VICTIM,
    engine_cores,
    journal_rows,
    left_running,
    records,
    tables,
    write_sums,
)
from ttc.testing.stub_server import MISBEHAVIOURS, Stub, serving_stub

LATE = ("tables", "report")
COMPILED = "torchinductor_"
"""What PyTorch compiled, which the next start takes up."""
SHARED = Path("/dev/shm")  # noqa: S108 - where Linux keeps it
MEASURED = ("logprob", "prompt_tokens", "cached_tokens", "reward_tokens", "flops")
"""Log-probabilities, whose digits follow what vLLM batches, and what was really computed: prompts by what the prefix
cache held (their sum with what was cached is compared), scores by what the reward model had read since it was started."""
LAST_DIGITS = 1e-6
"""Of a reward model's scores, which follow what it batches too."""
UNREPEATED = ("wrong JSON",)
"""What no server is asked again for: it answered."""
CORES = {"policy": "the policy's engine", "reward": "the reward model's engine"}
"""In the order in which a run starts them."""
GRID = {
    "embedded": ["--task", "arithmetic", "--limit", "24", "--strategies", "self-consistency,best-of-n,beam"],
    "fake": ["--task", "local", "--data", "rows.jsonl", "--model", "fake:p=0.5;delay_s=0.02", "--max-tokens", "120",
             "--strategies", "self-consistency,best-of-n,adaptive-consistency"],
}  # fmt: skip


@dataclass
class Row:
    """One line of the table."""

    fault: str
    injected: int = 0
    before: int = 0
    """Finished records when the fault hit, summed over all times."""
    lost: int = 0
    """Of them, those that the complete run does not have as they were."""
    after: int = 0
    """Records when the same command had ended."""
    expected: int = 0
    duplicates: int = 0
    same_table: bool | None = None
    """None where the fault itself decides a score: of exactly one problem."""
    over_budget: int = 0
    """Cells that spent more than their total."""
    in_flight: int = 0
    """Tokens noted as reserved when it hit: beside the total, charged to nobody."""
    left_behind: int = 0
    """Processes that still ran half a minute later, temporary files, shared memory, and locks that were still held."""
    exits: list[int] = field(default_factory=list)
    message: str = ""

    @property
    def wrong(self) -> bool:
        """Say whether anything is not as it must be."""
        bad = self.lost + self.duplicates + self.over_budget + self.left_behind + abs(self.after - self.expected)
        return bool(bad) or self.same_table is False


@dataclass
class Ended:
    """How a program ended."""

    code: int
    said: str
    left: int


@dataclass
class Lab:
    """Where things are broken, and by what dice."""

    work: Path
    grid: list[str]
    dice: random.Random
    whole: Path
    rows: dict[str, Row] = field(default_factory=dict)

    def row(self, fault: str) -> Row:
        """Return the line of a fault."""
        return self.rows.setdefault(fault, Row(fault))

    def run(
        self,
        out: Path,
        moment: str = "-",
        number: int = 0,
        words: list[str] | None = None,
        watch: Callable[[int], None] | None = None,
        limit: int | None = None,
        fatal: str | None = None,
    ) -> Ended:
        """Run the sweep into a folder; `watch` is told its process, `limit` bounds the length of its files in bytes."""
        command = [sys.executable, "-c", VICTIM, moment, str(number), "sweep", *(words or self.grid)]
        command += ["--display", "none", "--out", str(out)]
        scratch, shared = self.work / "tmp", _shared_memory()
        scratch.mkdir(exist_ok=True)
        environment = {**os.environ, "TMPDIR": str(scratch), **({"TTC_FATAL": fatal} if fatal else {})}
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=self.work,
            start_new_session=True, env=environment,
        ) as program:  # fmt: skip
            if limit is not None:
                resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (limit, limit))
            watcher = threading.Thread(target=watch, args=(program.pid,)) if watch else None
            if watcher:
                watcher.start()
            said = program.communicate()[1]
            if watcher:
                watcher.join()
        left = [str(process) for process in left_running(program.pid, within_s=30)]
        left += [path.name for path in scratch.iterdir() if not path.name.startswith(COMPILED)]
        left += _shared_memory() - shared
        for thing in left:
            print(f"left behind: {thing}", file=sys.stderr)
        for path in scratch.iterdir():
            if not path.name.startswith(COMPILED):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return Ended(program.returncode, said, len(left) + _locked(out))


class Broken:
    """One run that is broken, perhaps several times, and then completed."""

    def __init__(self, lab: Lab, name: str, words: list[str] | None = None) -> None:
        self.lab, self.words = lab, words
        self.out = lab.work / name
        self._snapshots: list[tuple[Row, list[dict[str, Any]]]] = []

    def hit(self, fault: str, ended: Ended, found: list[dict[str, Any]] | None = None) -> Row:
        """Note what a fault found, which is what it left unless `found` says otherwise."""
        row = self.lab.row(fault)
        found = finished(self.out) if found is None else found
        self._snapshots.append((row, found))
        row.injected += 1
        row.before += len(found)
        row.exits.append(ended.code)
        row.left_behind += ended.left
        lines = [line for line in ended.said.splitlines() if line.startswith(("error: ", "interrupted", "journal "))]
        row.message = row.message or (lines[-1] if lines else "")
        print(
            f"{time.strftime('%H:%M:%S')} {fault}: exit {ended.code}, {len(found)} records; {row.message}", flush=True
        )
        return row

    def complete(self, whole: Path | None, fatal: str | None = None) -> None:
        """Run the same command until it ends by itself, and hold the run against one that nothing happened to."""
        ended = self.lab.run(self.out, words=self.words, fatal=fatal)
        print(f"{time.strftime('%H:%M:%S')}   again: exit {ended.code}", flush=True)
        rows = finished(self.out)
        by_key = {(r["cell"], r["problem_id"]): r for r in rows}
        cells = [line for line in journal_rows(self.out) if line.get("kind") == "cell"]
        totals = {cell["cell"]: cell["budget"] * cell["n_problems"] for cell in cells}
        spent = Counter[str]()
        for r in records(self.out):  # failed attempts are charged too
            spent[r["cell"]] += r["draw_spent"][0]
        restarts = json.loads((self.out / "manifest.json").read_text())["restarts"]
        for n, (row, found) in enumerate(self._snapshots):
            row.lost += sum(by_key.get((r["cell"], r["problem_id"])) != r for r in found)
            row.after += len(by_key)
            row.expected += sum(cell["n_problems"] for cell in cells)
            row.duplicates += len(rows) - len(by_key)
            row.over_budget += sum(spent[cell] > total for cell, total in totals.items())
            row.left_behind += ended.left
            row.in_flight += restarts[n]["reserved_tokens"] if n < len(restarts) else 0
            if ended.code != 0:
                row.message, row.same_table = f"the same command again: {ended.code} {ended.said[-300:]}", False
            elif whole is not None:
                row.same_table = row.same_table is not False and same(self.out, whole)


def same(out: Path, whole: Path) -> bool:
    """Say whether two runs have the same tables, but for what follows from batches and caches (see MEASURED)."""
    here, there = tables(out), tables(whole)
    return all(len(here[name]) == len(there[name]) and all(map(_alike, here[name], there[name])) for name in here)


def _alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    left_out: tuple[str, ...] = MEASURED
    if "text" in a:  # a candidate, whose score is a reward model's
        left_out = (*MEASURED, "score")
        if not math.isclose(a["score"] or 0, b["score"] or 0, abs_tol=LAST_DIGITS):
            return False
    if "cached_tokens" in a and a["prompt_tokens"] + a["cached_tokens"] != b["prompt_tokens"] + b["cached_tokens"]:
        return False
    return all(value == b[key] for key, value in a.items() if key not in left_out)


def finished(out: Path) -> list[dict[str, Any]]:
    """Return the records of a run, without those of errors."""
    return [row for row in records(out) if row["status"] != "error"]


def _shared_memory() -> set[str]:
    """Return the names of Python's shared memory that no process holds."""
    held = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            held |= {Path(part.path).name for part in process.memory_maps() if Path(part.path).parent == SHARED}
    return {path.name for path in SHARED.glob("psm_*")} - held


def _locked(out: Path) -> int:
    if not (out / ".lock").exists():
        return 0
    with (out / ".lock").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 1
    return 0


def kills(lab: Lab, count: int, cores: int) -> None:
    """Kill the program `count` times and each engine `cores` times, in runs of about eight faults each.

    Within a run the faults come in the order of its life: those of its report last.
    """
    early = [lab.dice.choice([m for m in MOMENTS if m not in LATE]) for _ in range(count - count // 4)]
    late = [LATE[n % len(LATE)] for n in range(count // 4)]
    chains = max(1, round((count + 2 * cores) / 8))
    for n in range(chains):
        broken = Broken(lab, f"kill-{n}")
        faults = [*early[n::chains], *(which for which in CORES for k in range(cores) if k % chains == n)]
        lab.dice.shuffle(faults)
        faults.sort(key=lambda fault: fault != "drawn")  # the first cells draw what the others share
        for fault in [*faults, *late[n::chains]]:
            if fault in CORES:
                at = len(finished(broken.out)) + lab.dice.randint(1, 6)
                watch = partial(kill_core, list(CORES).index(fault), broken.out, at)
                name, ended = f"kill -9 of {CORES[fault]}", lab.run(broken.out, watch=watch)
            else:
                number = lab.dice.randint(1, {"tables": 3, "report": 5}.get(fault, 8))
                name, ended = f"kill -9 of the program ({fault})", lab.run(broken.out, fault, number)
            if ended.code == 0:
                print(f"{name}: the run ended before it came", flush=True)
            else:
                broken.hit(name, ended)
        broken.complete(lab.whole)


def kill_core(which: int, out: Path, at: int, program: int) -> None:
    """Kill the program's first or second engine once so many records are finished."""
    with contextlib.suppress(psutil.Error):
        owner = psutil.Process(program)
        while owner.is_running() and owner.status() != psutil.STATUS_ZOMBIE:
            if len(finished(out)) >= at:
                engine_cores(owner)[which].kill()
                return
            time.sleep(0.05)


def disk(lab: Lab) -> None:
    """Fill the disk (a small tmpfs; a limit on the length of files where none may be mounted) in the middle of a run."""
    size = sum(p.stat().st_size for p in [*lab.whole.glob("cache.sqlite*"), *lab.whole.glob("journal/*")])
    share = lab.dice.uniform(0.3, 0.6)
    broken, small = Broken(lab, "disk"), lab.work / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(size * share) >> 10}k", "none", str(small)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            ended = lab.run(small / "run")
            shutil.copytree(small / "run", broken.out)
        finally:
            subprocess.run(["umount", "-l", str(small)], check=True)
    else:
        ended = lab.run(broken.out, limit=int(size * share / 2))
    broken.hit("disk full", ended)
    broken.complete(lab.whole)


def closed(lab: Lab) -> None:
    """Take the right to write from the results folder before the run begins."""
    broken, folder = Broken(lab, "closed/run"), lab.work / "closed"
    folder.mkdir()
    with _read_only(folder):
        broken.hit("read-only results folder", lab.run(broken.out))
    broken.complete(lab.whole)


@contextlib.contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    if os.geteuid() == 0:
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
    folder_mode = folder.stat().st_mode
    with contextlib.suppress(OSError):
        folder.chmod(0o555)
    try:
        yield
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.chmod(folder_mode)


def damage(lab: Lab) -> None:
    """Tear the finished journal's last line, and flip one bit in each of eight lines; the records are drawn anew."""
    for fault in ("torn journal line", "flipped bits in eight journal lines"):
        broken = Broken(lab, fault.split()[0])
        shutil.copytree(lab.whole, broken.out)
        manifest = broken.out / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "state": "running"}))
        journal = broken.out / "journal" / "main.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        if fault.startswith("torn"):
            last = max(i for i, line in enumerate(lines) if b'"problem_id"' in line)
            lines = [*lines[:last], lines[last][: len(lines[last]) // 2]]
        else:
            for n in lab.dice.sample(range(len(lines)), 8):
                flipped = bytearray(lines[n])
                flipped[lab.dice.randrange(len(flipped) - 1)] ^= 1 << lab.dice.randrange(8)
                lines[n] = bytes(flipped)
        journal.write_bytes(b"".join(lines))
        left = finished(broken.out)
        broken.hit(fault, lab.run(broken.out), left)
        broken.complete(lab.whole)


def clock(lab: Lab) -> None:
    """Let the wall clock go back by a minute whenever the program looks at it."""
    broken = Broken(lab, "clock")
    broken.hit("clock going backwards", lab.run(broken.out, "clock", 60))
    broken.complete(lab.whole)


def graders(lab: Lab) -> None:
    """Let a checker hang or eat memory on one problem: its record says timeout, and it is not tried again.

    The answers are the fake engine's: the shipped pair gives these sums none that a checker would be asked about.
    """
    (lab.work / "risky.py").write_text(FATAL_TASK)
    (lab.work / "grade.yaml").write_text(json.dumps({"grade_timeout_s": 5}))
    words = ["grade.yaml", "--task", "risky.py:Risky", "--data", "rows.jsonl", "--model", "fake:p=0.5", "--max-tokens", "120",
             "--strategies", "self-consistency", "--budgets", "400"]  # fmt: skip
    for how, answer, fault in (("hangs", "4", "a grader that hangs"), ("eats", "26", "a grader that eats memory")):
        fatal = json.dumps({answer: how})
        broken = Broken(lab, f"grader-{how}", words)
        row = broken.hit(fault, lab.run(broken.out, words=words, fatal=fatal))
        stopped = sum(r["status"] == "timeout" for r in finished(broken.out))
        row.message = f"{stopped} record with status timeout"
        row.same_table = None if stopped == 1 else False
        broken.complete(None, fatal=fatal)


def endpoints(lab: Lab) -> None:
    """Let an endpoint misbehave: at three requests, which are asked again, and from some request on."""
    with serving_stub(Stub(name="m", chats=True)) as endpoint:
        words = _endpoint_config(lab, endpoint, 3)
        if lab.run(lab.work / "smooth", words=words).code != 0:
            raise SystemExit("the endpoint's unbroken run failed")
        for n, (name, fault) in enumerate(MISBEHAVIOURS.items()):
            for once in (True, False):
                endpoint.asked, endpoint.chatted = 0, []
                numbers = lab.dice.sample(range(20), 3) if once else range(lab.dice.randint(5, 20), 10_000)
                endpoint.faults = dict.fromkeys(numbers, fault)
                broken = Broken(lab, f"endpoint-{n}-{once}", _endpoint_config(lab, endpoint, 3 if once else 0))
                fault_name = f"endpoint: {name}, {'3 times' if once else 'from then on'}"
                row = broken.hit(fault_name, lab.run(broken.out, words=words))
                endpoint.faults = {}
                # What a failed attempt spent stays charged, so that the last problems may draw less.
                broken.complete(lab.work / "smooth" if row.exits == [0] else None)
                if row.exits != [0] and once and name not in UNREPEATED:
                    row.same_table = False  # it was to be asked again until it answered


def _endpoint_config(lab: Lab, endpoint: Stub, retries: int) -> list[str]:
    model = {"path": f"{endpoint.address}#m", "label": "endpoint", "options": {"max_retries": retries, "timeout_s": 5}}
    (lab.work / "endpoint.yaml").write_text(json.dumps({"models": [model]}))
    return ["endpoint.yaml", "--task", "local", "--data", "rows.jsonl", "--max-tokens", "120", "--strategies",
            "self-consistency", "--budgets", "500"]  # fmt: skip


def markdown(rows: list[Row]) -> str:
    """Return the table."""
    head = ["fault", "times", "finished before", "after", "of", "duplicates", "lost", "same table", "in flight, tokens",
            "left behind", "exit code", "message"]  # fmt: skip
    lines = [" | ".join(["", *head, ""]).strip(), "|" + "---|" * len(head)]
    for row in rows:
        same = {True: "yes", False: "NO", None: "-"}[row.same_table]
        exits = ", ".join(str(code) for code in sorted(set(row.exits)))
        values = [row.fault, row.injected, row.before, row.after, row.expected, row.duplicates, row.lost, same,
                  row.in_flight, row.left_behind, exits, f"`{row.message}`" if row.message else "-"]  # fmt: skip
        lines.append("| " + " | ".join(map(str, values)) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Break things, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=list(GRID), default="embedded")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--engine-kills", type=int, default=2, help="of each of the pair's engines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("faults"))
    parser.add_argument("--only", default="kill,disk,closed,damage,clock,grader,endpoint")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ttc-faults-") as folder:
        work = Path(folder)
        write_sums(work, 12)
        grid = [*GRID[args.engine], "--budgets", "250,700"]
        lab = Lab(work, grid, random.Random(args.seed), work / "whole")  # noqa: S311 - dice, not keys
        begun = time.monotonic()
        ended = lab.run(lab.whole)
        if ended.code != 0:
            raise SystemExit(f"the unbroken run failed: {ended.said}")
        print(f"unbroken run: {len(finished(lab.whole))} records, {time.monotonic() - begun:.0f} s", flush=True)
        again = Broken(lab, "again")
        again.hit("none: a second unbroken run", lab.run(again.out))
        again.complete(lab.whole)
        parts: dict[str, Callable[[], None]] = {
            "kill": lambda: kills(lab, args.kills, args.engine_kills if args.engine == "embedded" else 0),
            "disk": lambda: disk(lab),
            "closed": lambda: closed(lab),
            "damage": lambda: damage(lab),
            "clock": lambda: clock(lab),
            "grader": lambda: graders(lab),
            "endpoint": lambda: endpoints(lab),
        }
        for name in args.only.split(","):
            parts[name]()
            rows = list(lab.rows.values())
            (args.out / "faults.md").write_text(markdown(rows))
            (args.out / "faults.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(markdown(rows))
    wrong = [row.fault for row in rows if row.wrong]
    if wrong:
        print("not as it must be: " + "; ".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
