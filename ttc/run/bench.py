"""What stands ready before a run: problems, the engine that answers them, and the judge of the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ttc.core.errors import ConfigError, DataError
from ttc.core.identity import identity
from ttc.core.parameters import build
from ttc.core.profiles import DEFAULT, ModelProfile, choose_profile
from ttc.core.protocols import (
    Capability,
    Checker,
    Dataset,
    Engine,
    HasArchitecture,
    LoadOptions,
    RewardModel,
    Sandboxed,
    Task,
    joins,
)
from ttc.core.registry import load
from ttc.core.specs import ModelSpec, SamplingSpec, SweepConfig, TaskSpec, grids
from ttc.core.types import Completion, Example, Problem, Prompt, Sampling
from ttc.engines.joint import Joint, Member, MixedEngine
from ttc.engines.phased_reward import PhasedReward
from ttc.engines.replay import ReplayEngine
from ttc.run.choices import Subject
from ttc.run.grading import CheckerGrader
from ttc.run.plan import DEFAULT_MAX_TOKENS, DEFAULT_MIN_CALL_TOKENS, check_bank_models
from ttc.run.solve import Judge, Verdict
from ttc.store.bank import Bank, read_bank

MIN_CALL_SHARE = 0.25
MIN_CALL_MOST = 64
"""The smallest call worth starting is a quarter of a mean sample, 64 tokens at most (architecture, "Tokens are the one currency")."""
GRADE_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Bench:
    """A subject with what is needed to run it. `problems` may be called once the engine has started."""

    subject: Subject
    engine: Engine
    problems: Callable[[], list[Problem]]
    judge: Callable[[], Judge]
    source: dict[str, str]
    examples: tuple[Example, ...] = ()
    """The task's examples; none where a bank is replayed."""
    reward: RewardModel | None = None
    profile: ModelProfile = DEFAULT
    spec: ModelSpec | None = None
    """The model as it was asked for; None where a bank is replayed."""
    bank: Bank | None = None
    min_call_tokens: int = DEFAULT_MIN_CALL_TOKENS
    members: tuple[Bench, ...] = ()
    """The benches of the models that stand in one cell together; none where it is one model."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model as a run uses it: its engine, the reward model beside it, and how it writes."""

    engine: Engine
    reward: RewardModel | None
    profile: ModelProfile
    fingerprint: str
    """The engine's, and the profile's where one is given: it changes what strategies ask."""
    spec: ModelSpec


def serve(spec: ModelSpec, engine: Engine, reward: RewardModel | None) -> Served:
    """Pair an engine with the profile of its model.

    Raises:
        ConfigError: an unknown profile, or a field that does not fit.
    """
    architecture = engine.architecture if isinstance(engine, HasArchitecture) else None
    profile = choose_profile(spec.profile, engine.label, architecture)
    if isinstance(reward, PhasedReward):
        reward.add_plan_ends(profile.plan_stop)
    own = "" if spec.profile is None else f"+{identity(asdict(profile))}"
    return Served(engine, reward, profile, engine.fingerprint + own, spec)


class TaskJudge:
    """Judges live answers by the task's checker."""

    def __init__(self, grader: CheckerGrader) -> None:
        self._grader = grader

    async def read(self, problem_id: str, completions: Sequence[Completion]) -> list[Completion]:
        """Extract answers, spelled as the first equivalent answer of the same problem."""
        return await self._grader.read(problem_id, completions)

    async def verdicts(self, problem_id: str, draw: int, candidates: Sequence[Completion]) -> list[Verdict]:
        """Judge each distinct answer once."""
        answers = [c.answer for c in candidates if c.answer is not None and c.finish == "stop"]
        distinct = list(dict.fromkeys(answers))
        found = dict(zip(distinct, await self._grader.grade(problem_id, distinct), strict=True))
        return [found.get(c.answer, False) if c.answer is not None else False for c in candidates]

    async def close(self) -> None:
        """Stop the grader's workers."""
        self._grader.close()


class BankJudge:
    """Looks up what the bank recorded as right."""

    def __init__(self, engine: ReplayEngine | Joint) -> None:
        self._engine = engine

    async def read(self, problem_id: str, completions: Sequence[Completion]) -> list[Completion]:
        """Return the completions: a bank's answers are normalised already."""
        return list(completions)

    async def verdicts(self, problem_id: str, draw: int, candidates: Sequence[Completion]) -> list[Verdict]:
        """Return each sample's recorded `correct`; a sample cut by its cap is wrong."""
        return [c.finish == "stop" and self._engine.row(problem_id, draw, c.index).correct for c in candidates]

    async def close(self) -> None:
        """Do nothing: there is no process."""


def make_benches(
    config: SweepConfig, open_engine: Callable[[ModelSpec], Engine], reward: RewardModel | None = None
) -> tuple[list[Bench], int]:
    """Load the tasks or the bank and pair them with the models. Nothing heavy is started.

    Returns:
        The benches, those of one engine side by side, and the smallest call worth starting in tokens.

    Raises:
        ConfigError, DataError, EngineError: what was asked for cannot be had.
    """
    if config.bank is not None:
        benches, least = _bank_benches(config, config.bank)
        return [*benches, *_joint_benches(config, [benches])], least
    if not config.tasks:
        raise ConfigError("no task and no bank given", "give --task NAME (ttc ls tasks) or --bank FOLDER")
    if not config.models:
        raise ConfigError("no model given", "give --model with a hub name, a folder, or http://HOST/v1#NAME")
    names = [spec.name for spec in config.tasks]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"task {twice[0]!r} stands twice", "run its data sets one by one")
    loaded = [(spec, *_load_task(spec, config)) for spec in config.tasks]
    benches, opened = list[Bench](), dict[str, Engine]()
    for model in config.models:
        served = serve(model, _opened(model, open_engine, opened), reward)
        benches += [live_bench(config, spec.name, task, data, served) for spec, task, data in loaded]
    by_task = [[b for b in benches if b.subject.task == first.subject.task] for first in benches[: len(loaded)]]
    labels = [b.subject.model for b in by_task[0]]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ConfigError(f"two models are called {twice[0]!r}", "give each a label of its own in the YAML file")
    return [*benches, *_joint_benches(config, by_task)], config.min_call_tokens or DEFAULT_MIN_CALL_TOKENS


def _opened(model: ModelSpec, open_engine: Callable[[ModelSpec], Engine], opened: dict[str, Engine]) -> Engine:
    """Return a model's engine: one for all temperatures of a path that is set up in one way."""
    own = {} if model.temperature is None else {"label": None, "temperature": None}
    bare = model.model_copy(update={**own, "weight": 1.0})
    key = bare.model_copy(update={"profile": None}).model_dump_json()
    if key not in opened:
        opened[key] = open_engine(bare)
    return opened[key]


def load_task(spec: TaskSpec, limit: int | None, seed: int) -> tuple[Task, Dataset]:
    """Load a task's examples.

    Raises:
        ConfigError: unknown task. DataError: its rows cannot be read, or there are none.
    """
    task: Task = load("tasks", spec.name)()
    options = LoadOptions(spec.data, spec.split, limit, spec.fields, spec.hub, spec.hub_config, spec.revision,
                          seed if spec.seed is None else spec.seed)  # fmt: skip
    data = task.load(options)
    if not data.examples:
        raise DataError(f"task {spec.name} has no problems")
    return task, data


def _load_task(spec: TaskSpec, config: SweepConfig) -> tuple[Task, Dataset]:
    task, data = load_task(spec, config.limit, config.seed)
    if task.checker.executes_code and not config.allow_code_execution:
        raise ConfigError(
            f"task {spec.name} is graded by running code that the model writes",
            "add --allow-code-execution if this machine may do that (in a sandbox; docs/sandbox.md states its limits)",
        )
    return task, data


def _sampling(config: SweepConfig, longest: int) -> Sampling:
    s = config.sampling
    return Sampling(s.temperature, s.top_p, s.top_k, s.min_p, s.max_tokens or longest, s.stop)


def live_bench(config: SweepConfig, name: str, task: Task, data: Dataset, served: Served) -> Bench:
    """Pair a loaded task with a model; `name` is the task's registered name or `file.py:Class`."""
    engine, reward, profile, spec = served.engine, served.reward, served.profile, served.spec
    sampling, label = _sampling(config, DEFAULT_MAX_TOKENS), engine.label
    if spec.temperature is not None:
        sampling, label = replace(sampling, temperature=spec.temperature), f"{label}@{spec.temperature:g}"
    offered: frozenset[Capability] = frozenset({"reward", "score"}) if reward is not None else frozenset()
    checker, isolation = _bound(task.checker, name, config)
    lengths = [sum(len(m.content) for m in e.messages) for e in data.examples]
    subject = Subject(
        task=name.rpartition(":")[2] if ".py:" in name else name,
        model=label if spec.temperature is None else spec.label or label,
        task_fingerprint=identity([data.fingerprint, checker.version]),
        engine_fingerprint=served.fingerprint,
        capabilities=engine.capabilities | offered,
        problem_ids=tuple(example.id for example in data.examples),
        sampling=sampling,
        draws=1,
        reward_fingerprint=reward.fingerprint if reward is not None else None,
        parameters=engine.parameters,
        reward_parameters=reward.parameters if reward is not None else None,
        prompt_characters=sum(lengths) / len(lengths),
        longest_prompt=max(lengths),
        weight=spec.weight,
    )

    def problems() -> list[Problem]:
        flags = profile.template_flags
        return [Problem(e.id, e.question, engine.render(e.messages, flags), e.meta) for e in data.examples]

    def judge() -> Judge:
        return TaskJudge(_grader(checker, data, config.grade_timeout_s))

    source = {**data.source, "prompt_template": task.prompt_template, "checker": checker.version, **isolation}
    least = config.min_call_tokens or DEFAULT_MIN_CALL_TOKENS
    return Bench(
        subject, engine, problems, judge, source, data.examples, reward, profile, served.spec, min_call_tokens=least
    )


def _bound(checker: Checker, name: str, config: SweepConfig) -> tuple[Checker, dict[str, str]]:
    """Choose the sandbox that answers run in, before anything is generated; the record says which it is."""
    if isinstance(checker, Sandboxed):
        bound, level = checker.bound(config.sandbox)
        return bound, {"sandbox": level}
    if checker.executes_code and config.sandbox is not None:
        raise ConfigError(f"task {name} cannot say which sandbox it runs code in", "leave --sandbox out")
    return checker, {}


def _grader(checker: Checker, data: Dataset, time_limit_s: float) -> CheckerGrader:
    return CheckerGrader(checker, {e.id: e.gold for e in data.examples}, GRADE_WORKERS, time_limit_s)


def _bank_benches(config: SweepConfig, path: Path) -> tuple[list[Bench], int]:
    _check_recorded(config)
    bank = read_bank(path)
    if hot := [m.path for m in config.models if m.temperature is not None]:
        raise ConfigError(
            f"{hot[0]}: a bank's samples are recorded, their temperature cannot be chosen any more",
            "name the configuration that was recorded at the temperature you want",
        )
    names = check_bank_models([m.path for m in config.models], sorted(bank.pools), path)
    least = config.min_call_tokens or min(MIN_CALL_MOST, max(1, round(bank.mean_tokens * MIN_CALL_SHARE)))
    weights = {m.path: m.weight for m in config.models}
    return [_bank_bench(config, bank, name, least, weights.get(name, 1.0)) for name in names], least


def _check_recorded(config: SweepConfig) -> None:
    """Refuse what only a live model can follow; its samples' lengths are all that a bank can still cap."""
    default, given = SamplingSpec(), config.sampling
    chosen = [name for name in SamplingSpec.model_fields if getattr(given, name) != getattr(default, name)]
    lost = [name for name in [*(["prm"] if config.prm not in (None, "off") else []), *chosen] if name != "max_tokens"]
    if lost:
        raise ConfigError(
            f"a bank's samples are recorded: {lost[0]} cannot be chosen any more",
            "leave it out, or draw new samples with --task and --model",
        )


def _bank_bench(config: SweepConfig, bank: Bank, name: str, min_call_tokens: int, weight: float) -> Bench:
    engine = ReplayEngine(bank, name, config.seed)
    ids = bank.problem_ids(name)[: config.limit]
    sampling = replace(_sampling(config, bank.longest(name)), stop=())
    subject = Subject(
        task=bank.name,
        model=name,
        task_fingerprint=identity([bank.fingerprint, ids]),
        engine_fingerprint=engine.fingerprint,
        capabilities=engine.capabilities,
        problem_ids=tuple(ids),
        sampling=sampling,
        draws=config.draws,
        weight=weight,
    )

    def problems() -> list[Problem]:
        firsts = [bank.pools[name][pid][0] for pid in ids]
        # A bank holds no token ids; a prompt of the right length keeps its price right.
        return [Problem(r.problem_id, r.prompt or "", Prompt((), (0,) * r.prompt_tokens)) for r in firsts]

    source = {"bank": bank.name, "sha256": bank.fingerprint}
    return Bench(
        subject,
        engine,
        problems,
        lambda: BankJudge(engine),
        source,
        bank=bank,
        min_call_tokens=min_call_tokens,
    )


def _joint_benches(config: SweepConfig, groups: Sequence[Sequence[Bench]]) -> list[Bench]:
    """Return a bench for each group of models, where an allocator joins them and there is something to join."""
    specs = [spec for grid in grids(config) for spec in grid.allocators]
    wanted = any(joins(build("allocators", spec.name, spec.params)) == "models" for spec in specs)
    if not wanted or len(groups[0]) < 2:
        return []
    members = [_member(bench) for bench in groups[0]]
    engine = MixedEngine(members, [1] * len(members))
    return [_joint_bench(config, group, engine) for group in groups]


def _member(bench: Bench) -> Member:
    if bench.spec is None:
        return Member(bench.engine, weight=bench.subject.weight)
    return Member(bench.engine, bench.spec.temperature, bench.subject.weight, bench.profile.template_flags)


def _joint_bench(config: SweepConfig, benches: Sequence[Bench], engine: MixedEngine) -> Bench:
    """Join the models of one task, or the configurations of one bank, on the problems that all of them have.

    Raises:
        DataError: there is none.
    """
    first, subjects = benches[0], [bench.subject for bench in benches]
    shared = set[str].intersection(*(set(s.problem_ids) for s in subjects))
    ids = tuple(pid for pid in subjects[0].problem_ids if pid in shared)
    if not ids:
        raise DataError(f"{' and '.join(s.model for s in subjects)} have no problem in common")
    told = [[s.engine_fingerprint, s.sampling.temperature, s.weight] for s in subjects]
    scored = subjects[0].capabilities & {"reward", "score"} if first.reward is not None else frozenset[Capability]()
    longest = max(s.sampling.max_tokens for s in subjects)
    sampling = replace(subjects[0].sampling, max_tokens=longest, temperature=config.sampling.temperature)
    subject = replace(
        subjects[0],
        model="+".join(s.model for s in subjects),
        task_fingerprint=identity([s.task_fingerprint for s in subjects]),
        engine_fingerprint=identity(["joined", told]),
        capabilities=engine.capabilities | scored,
        problem_ids=ids,
        sampling=sampling,
        parameters=engine.parameters,
        weight=1.0,
        members=tuple(subjects),
    )

    def problems() -> list[Problem]:
        if first.examples:
            return [Problem(e.id, e.question, engine.render(e.messages), e.meta) for e in first.examples]
        every = [{p.id: p for p in bench.problems()} for bench in benches]
        return [max((own[pid] for own in every), key=lambda p: len(p.prompt.ids)) for pid in ids]

    same = all(bench.profile == first.profile for bench in benches)
    return replace(
        first,
        subject=subject,
        engine=engine,
        problems=problems,
        judge=first.judge if first.bank is None else lambda: BankJudge(engine),
        profile=first.profile if same else DEFAULT,
        spec=None,
        members=tuple(benches),
    )
