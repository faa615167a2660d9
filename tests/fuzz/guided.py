"""Coverage-guided tests of the answer extractors and of the journal: `python tests/fuzz/guided.py answers --seconds 300`.

Needs atheris (the extra `fuzz`). What it finds is kept as an example in test_readers.py. Ends with how much it did.
"""

import argparse
import sys

try:
    import atheris
except ImportError:
    sys.exit("error: there is no atheris here\nhint: pip install -e '.[fuzz]'")

with atheris.instrument_imports(include=["ttc_evals", "ttc.store", "json"]):
    import oracles


def answers(data):
    """Read an answer out of any text."""
    oracles.check_answer(atheris.FuzzedDataProvider(data).ConsumeUnicode(len(data)))


def journal(data):
    """Read any bytes as a journal and go on with it."""
    oracles.check_journal(data)


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
    atheris.Setup([sys.argv[0], *limits], {"answers": answers, "journal": journal}[options.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
