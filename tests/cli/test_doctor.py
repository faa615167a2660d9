"""What `ttc doctor` says of a machine."""

import json

from ttc.cli import doctor
from ttc.cli.main import run


def test_vllm_is_needed_by_local_models_only(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda *_: None)
    assert run(["doctor", "--json"]) == 0
    (found,) = (check for check in json.loads(capsys.readouterr().out) if check["name"] == "vllm")
    assert (found["state"], found["found"]) == ("warning", "not installed")
    assert "pip install 'ttc-toolkit[cpu]'" in found["hint"]
