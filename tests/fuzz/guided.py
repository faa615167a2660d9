"""Coverage-guided tests of the answer extractors and of the journal: `python tests/fuzz/guided.py answers --seconds 300`.

Needs atheris (the extra `fuzz`). What it finds is kept as an example in test_readers.py. Ends with how much it did.
"""

import argparse
import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("error: there is no atheris here\nhint: pip install -e '.[fuzz]'")

with atheris.instrument_imports(include=["ttc_evals", "ttc.store", "json"]):
    import oracles


def answers(data):
    """Read an answer out of any text."""
    oracles.check_answer(data.decode("utf-8", "replace"))


def journal(data):
    """Read any bytes as a journal and go on with it."""
    oracles.check_journal(data)


SEEDS = {
    "answers": ["so \\boxed{\\frac{1}{2}}", "The answer is **42**.", "#### -1,234.5e3", "\\fbox{(B)}", "```python\ndef f(x):\n    return {x: 1}\n```",
                "x^{10} \\text{ cm} 50\\% $3$ \\boxed{}", "3 + 4 = 7\n7 * 2 = 14\nso \\boxed{(3 + 4) * 2}", "~~~\n1\n~~~"],
    "journal": ['{"cell": "c", "problem_id": "1", "status": "error"}\n{"cell": "c", "problem_id": "1", "status": "ok"}\n',
                '{"kind": "restart", "reserved": 3}\n\n{"cell": "c"', '{"cell":"c","problem_id":"p","crc":"00000000"}\n', "[[[1]]]\nnull\n"],
}  # fmt: skip


def main():
    """Fuzz one target for some seconds; a finding ends it with a traceback and the input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=["answers", "journal"])
    parser.add_argument("--seconds", type=int, default=300)
    options = parser.parse_args()
    limits = [
        f"-max_total_time={options.seconds}",
        "-max_len=4096",
        "-timeout=60",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
    ]
    corpus = Path(tempfile.mkdtemp(prefix="ttc-fuzz-"))  # libFuzzer ends the process: nothing can clear it away
    for number, text in enumerate(SEEDS[options.target]):
        (corpus / str(number)).write_text(text, encoding="utf-8")
    target = {"answers": answers, "journal": journal}[options.target]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
