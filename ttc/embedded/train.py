"""The recipe of the shipped pair: `python -m ttc.embedded.train`, from nothing, seeded, resumable.

Stages: the policy, its samples on other problems, the process reward model, its calibration, and the figures on test
problems that nothing has seen. What a stage has done is kept in the work folder; killed at any moment, the same
command goes on from there.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttc.embedded.corpus import Question, mixed_questions, questions
from ttc.embedded.figures import draw, measure
from ttc.embedded.policy import Sample, Schedule, as_llama, draw_samples, train_policy
from ttc.embedded.prm import Calibration, boundary_logits, calibrate, judge, new_prm, teach_outcome, teach_process
from ttc.embedded.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

POLICY = Schedule(steps=3000, batch=64, rate=4e-3)
PROBLEMS = 6000
"""Training problems of each difficulty of each family."""
PRM_PROCESS = Schedule(steps=2000, batch=64, rate=4e-3)
PRM_OUTCOME = Schedule(steps=500, batch=64, rate=3e-4)
SAMPLED_PROBLEMS = 1000
"""Problems of each difficulty that the policy answers for the reward model; it has not been trained on them."""
SAMPLES = 2
CALIBRATION_PROBLEMS = 100
CALIBRATION_SAMPLES = 4
TEMPERATURE = 0.7
"""The temperature of a run by default: the score is calibrated and the pair is measured at it."""
TEST_PROBLEMS = 150
"""Test problems of each family, their difficulties in turn."""
TEST_SAMPLES = 32


def train(
    out: Annotated[Path, typer.Option(help="Where the folders policy and prm are written.")] = Path("ttc/embedded"),
    work: Annotated[Path, typer.Option(help="What is unfinished; the same folder goes on.")] = Path("build/embedded"),
    seed: Annotated[int, typer.Option(help="Of the weights, the data and the samples.")] = 0,
    policy_steps: Annotated[
        int | None, typer.Option(min=100, help="Train only a policy, so long: a weaker sibling of the shipped one.")
    ] = None,
) -> None:
    """Train the policy and its process reward model, and measure both."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if policy_steps is None:
        Recipe(work / f"seed-{seed}", seed).run(out)
    else:
        schedule = replace(POLICY, steps=policy_steps)
        Recipe(work / f"seed-{seed}-{policy_steps}", seed).policy(out, schedule)


class Recipe:
    """One run of the recipe in its work folder."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work = work
        self.seed = seed
        self.tokenizer: PreTrainedTokenizerFast = build_tokenizer()
        work.mkdir(parents=True, exist_ok=True)

    def run(self, out: Path) -> None:
        """Do every stage that is not done, and write the two model folders."""
        policy, learnt = self.policy(out, POLICY)
        known = {question.text for question in learnt}
        fresh = [q for q in questions("train", SAMPLED_PROBLEMS, self.seed + 1) if q.text not in known]
        samples = self._samples("train", policy, fresh, SAMPLES, TEMPERATURE, self.seed)
        judged = judge(fresh, samples, self.tokenizer)
        prm = new_prm(policy, self.tokenizer, self.seed)
        folder, log = self.work / "process", self._log("process")
        teach_process(prm, policy, learnt, self.tokenizer, PRM_PROCESS, self.seed, folder, log)
        teach_outcome(prm, judged, self.tokenizer, PRM_OUTCOME, self.seed, self.work / "outcome", self._log("outcome"))

        unseen = questions("validation", CALIBRATION_PROBLEMS, self.seed)
        samples = self._samples("validation", policy, unseen, CALIBRATION_SAMPLES, TEMPERATURE, self.seed)
        judged = judge(unseen, samples, self.tokenizer)
        calibration = calibrate(boundary_logits(prm, judged, self._pad), judged)
        self._write(prm, out / "prm", calibration)

        asked = mixed_questions("test", TEST_PROBLEMS, 0)
        samples = self._samples("test", policy, asked, TEST_SAMPLES, TEMPERATURE, 0)
        figures = measure(asked, samples, prm, calibration, self.tokenizer)
        seconds = {name: round(self._seconds(name)) for name in self._stages()}
        figures = {"seed": self.seed, "seconds": seconds, **figures}
        (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        draw(
            figures,
            {name: self.work / f"{name}.jsonl" for name in ("policy", "process", "outcome")},
            out / "figures.png",
        )

    def policy(self, out: Path, schedule: Schedule) -> tuple[Any, list[Question]]:
        """Train a policy and write its folder; returns it, and the problems it has seen."""
        learnt = questions("train", PROBLEMS, self.seed)
        policy = train_policy(learnt, self.tokenizer, schedule, self.seed, self.work / "policy", self._log("policy"))
        self._write(policy, out / "policy")
        return policy, learnt

    @property
    def _pad(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def _samples(
        self, name: str, policy: Any, asked: Sequence[Question], n: int, temperature: float, seed: int
    ) -> list[list[Sample]]:
        """Draw samples, or read those that were drawn before."""
        path = self.work / f"samples-{name}.json"
        if not path.exists():
            start = time.monotonic()
            drawn = draw_samples(policy, asked, n, temperature, self.tokenizer, seed)
            draft = path.with_suffix(".new")
            draft.write_text(json.dumps(drawn))
            draft.replace(path)
            self._note("samples", name=name, seconds=time.monotonic() - start)
        return [[Sample(*sample) for sample in samples] for samples in json.loads(path.read_text())]

    def _write(self, model: Any, folder: Path, calibration: Calibration | None = None) -> None:
        """Write a model folder as vLLM serves it, in bfloat16."""
        import torch

        shutil.rmtree(folder, ignore_errors=True)
        as_llama(model.bfloat16()).save_pretrained(folder)
        model.to(torch.float32)
        self.tokenizer.save_pretrained(folder)
        if calibration is not None:
            (folder / "prm.json").write_text(json.dumps(calibration._asdict(), indent=1) + "\n")

    def _log(self, stage: str) -> Callable[[int, float], None]:
        last = time.monotonic()

        def log(step: int, loss: float) -> None:
            nonlocal last
            now = time.monotonic()
            self._note(stage, step=step, loss=round(loss, 5), seconds=now - last)
            typer.echo(f"{stage} step {step}: loss {loss:.4f}, {50 / (now - last):.2f} steps/s", err=True)
            last = now

        return log

    def _note(self, stage: str, **values: float | str) -> None:
        with (self.work / f"{stage}.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")

    def _stages(self) -> list[str]:
        return sorted(path.stem for path in self.work.glob("*.jsonl"))

    def _seconds(self, stage: str) -> float:
        lines = (self.work / f"{stage}.jsonl").read_text().splitlines()
        return sum(float(json.loads(line)["seconds"]) for line in lines)


if __name__ == "__main__":
    typer.run(train)
