"""How well the shipped reward model tells the right prefixes of a problem from its wrong ones, line by line.

    python benchmarks/reward_by_line.py RUN [--budget 1024]

RUN is a finished sweep of `coverage` on the shipped policy (`benchmarks/search.yaml`). Each sample that ended is cut
after each of its lines; the figure is the share of pairs, one prefix right and one wrong, both of the same problem and
cut after equally many lines, in which the right one scores higher (AUROC within problems; a tie is half a pair). Right
means that every line so far is, and in countdown that the target can still be reached. Search prunes by this figure.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ttc.embedded.corpus import Question, encode
from ttc.embedded.policy import Sample
from ttc.embedded.prm import boundary_logits, judge
from ttc.embedded.tokenizer import load_tokenizer
from ttc.report.aggregate import load_tables
from ttc.store.rundir import RunDir
from ttc.store.tables import rows_of
from ttc_evals import arithmetic, countdown

SHIPPED = Path("ttc/embedded")
LAST = "the end"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for every family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--budget", type=int, default=1024)
    args = parser.parse_args(arguments)
    from transformers import AutoModelForSequenceClassification

    tokenizer = load_tokenizer(SHIPPED / "policy")
    prm = AutoModelForSequenceClassification.from_pretrained(SHIPPED / "prm").float().eval()
    texts = drawn(RunDir(args.run), args.budget)
    print("| family | after line | right above wrong, % | pairs |\n|---|---|---|---|")
    for family in (arithmetic, countdown):
        examples = [e for e in family.generate("test", 150, 0) if e.id in texts]
        name = family.__name__.rsplit(".", 1)[-1]
        asked = [Question(name, e.meta["difficulty"], e.question, e.gold) for e in examples]
        samples = [[Sample(list(ids), True) for ids in encode(texts[e.id], tokenizer)] for e in examples]
        judged = judge(asked, samples, tokenizer)
        logits = boundary_logits(prm, judged, int(tokenizer.pad_token_id))
        newline = tokenizer.get_vocab()["\n"]
        found: dict[str, dict[str, list[tuple[float, bool]]]] = defaultdict(lambda: defaultdict(list))
        for row, scores in zip(judged, logits, strict=True):
            lines = 0
            for place, score, right in zip(row.boundaries, scores, row.right, strict=True):
                if row.ids[place] == newline:
                    lines += 1
                    found[str(lines)][row.question.text].append((score, right))
            found[LAST][row.question.text].append((scores[-1], row.right[-1]))
        for line in sorted(found):
            won, pairs = above(found[line].values())
            if pairs:
                print(f"| {name} | {line} | {100 * won / pairs:.1f} | {pairs:,} |")


def drawn(run: RunDir, budget: int) -> dict[str, list[str]]:
    """Return the texts of the samples that ended, by problem."""
    tables = load_tables(run)
    cells = {
        row["cell"]
        for row in rows_of(tables.cells)
        if row["strategy"].startswith("coverage") and row["budget"] == budget
    }
    texts = defaultdict[str, list[str]](list)
    for row in rows_of(tables.candidates.only(cells).whole()):
        if row["finish"] == "stop":
            texts[row["problem_id"]].append(row["text"])
    return texts


def above(problems: Iterable[list[tuple[float, bool]]]) -> tuple[float, int]:
    """Return how many pairs of a right and a wrong prefix are in order, and how many there are."""
    won, pairs = 0.0, 0
    for rows in problems:
        right = np.array([score for score, ok in rows if ok])
        wrong = np.array([score for score, ok in rows if not ok])
        won += float((right[:, None] > wrong).sum() + 0.5 * (right[:, None] == wrong).sum())
        pairs += len(right) * len(wrong)
    return won, pairs


if __name__ == "__main__":
    main()
