"""What a run writes down of how it was asked for: no key, and no path out of the working directory."""

import pytest

from ttc.core.specs import parse_config
from ttc.run.manifest import portable, portable_word


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("/home/me/prm;tensor_parallel_size=2", "prm;tensor_parallel_size=2"),
        ("plan=/home/me/a,execution=/home/me/b;dtype=half", "plan=a,execution=b;dtype=half"),
        ("plan=/home/me/a,execution=http://u:pw@h/v1?t=1#m", "plan=a,execution=http://h/v1?***#m"),
        ("http://u:pw@h/v1?token=a=b#m;max_retries=1", "http://h/v1?***#m;max_retries=1"),
        ("http://u:pw@h/v1,http://u:pw@i/v1#m;api_key=sk", "http://h/v1,http://i/v1#m;api_key=***"),
        ("O/M;tokenizer=/home/me/t", "O/M;tokenizer=t"),
        ("/home/me/a.py:X,greedy,../b.py:Y", "a.py:X,greedy,b.py:Y"),
        ("fake:p=0.5;fail=1", "fake:p=0.5;fail=1"),
        ("prompt=0.1,reward=0.2", "prompt=0.1,reward=0.2"),
        ("data/rows.jsonl", "data/rows.jsonl"),
    ],
)
def test_a_word_as_others_may_read_it(word, shown):
    assert portable_word(word) == shown


def test_options_of_a_model_keep_no_key():
    model = {"path": "http://h/v1#m", "options": {"api_key": "sk", "max_retries": 2}}
    config = parse_config({"models": [model], "prm": "/home/me/prm;api_key=sk"}, "test")
    values = portable(config)
    assert values["models"] == [{"path": "http://h/v1#m", "options": {"api_key": "***", "max_retries": 2}}]
    assert values["prm"] == "prm;api_key=***"
