"""What vLLM is told on a CPU about its cache: a policy and a reward model share one machine."""

import pytest

from ttc.engines.vllm_pooling import PoolingOptions
from ttc.engines.vllm_profile import VLLMOptions, engine_arguments

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
