"""Which GPUs are seen, how many processes train, and what DeepSpeed is told about them."""

import json
import os
import re

import pytest

from finetune_jobs.contract import GPUS_VARIABLE, TrainRequest
from finetune_jobs.errors import MachineTrouble, UserMistake
from finetune_jobs.hardware import Gpu, Machine, _cores, available_memory, parse_gpus, require_given_gpus, survey
from finetune_jobs.processor import cpu_dtype
from finetune_jobs.train.world import make_world
from finetune_jobs.train.zero import custom_deepspeed_config, deepspeed_config

LISTING = """0, GPU-aa, NVIDIA H200, 143771, 143000, 9.0
1, GPU-bb, NVIDIA H200, 143771, 100, 9.0
"""
H200 = Gpu("NVIDIA H200", 143_771 * 2**20, 143_000 * 2**20, 9.0)
V100 = Gpu("Tesla V100", 32 * 2**30, 32 * 2**30, 7.0)


def request(**changes):
    defaults = {"template": "llama3_chat", "epochs": 1, "max_length": 64, "batch_size": 1, "gradient_accumulation": 1,
                "learning_rate": "2e-4"}  # fmt: skip
    return TrainRequest(**{**defaults, **changes})


@pytest.mark.parametrize(
    ("visible", "free"),
    [(None, [143_000, 100]), ("1", [100]), ("GPU-bb,0", [100, 143_000]), ("", []), ("7", [])],
)
def test_gpus_are_those_that_cuda_visible_devices_leaves(visible, free):
    assert [gpu.free // 2**20 for gpu in parse_gpus(LISTING, visible)] == free


@pytest.mark.parametrize(
    ("visible", "listing", "said"),
    [
        ("MIG-0a1b", LISTING, "CUDA_VISIBLE_DEVICES is MIG-0a1b"),
        (None, "0, GPU-aa, NVIDIA A100, [N/A], [N/A], 8.0\n", "does not tell the memory of a GPU: 0, GPU-aa"),
    ],
)
def test_a_gpu_of_unknown_memory_is_not_taken_for_none(visible, listing, said):
    with pytest.raises(MachineTrouble, match=re.escape(said)):
        parse_gpus(listing, visible)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A fake that says something and ends with a code."""

    def say(text, code):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return say


def test_a_driver_that_fails_is_not_taken_for_a_machine_without_gpus(nvidia_smi):
    nvidia_smi("Failed to initialize NVML: Driver/library version mismatch", 18)
    with pytest.raises(MachineTrouble, match="ends with 18: Failed to initialize NVML") as caught:
        survey({})
    assert caught.value.failure.reason == "GpuFailed"
    assert survey({"CUDA_VISIBLE_DEVICES": ""}).gpus == ()


def test_a_driver_without_a_gpu_is_a_machine_without_gpus(nvidia_smi):
    nvidia_smi("No devices were found", 6)
    assert survey({}).gpus == ()


def test_a_pod_that_was_given_gpus_and_sees_none_does_not_begin(nvidia_smi):
    nvidia_smi("No devices were found", 6)
    with pytest.raises(MachineTrouble, match="was given 2 GPUs, .* shows none") as caught:
        require_given_gpus({GPUS_VARIABLE: "2"})
    assert caught.value.failure.reason == "GpuInvisible"
    require_given_gpus({})
    nvidia_smi(LISTING.splitlines()[0], 0)
    require_given_gpus({GPUS_VARIABLE: "2"})


def test_a_gpu_without_bf16_computes_in_fp16():
    assert Machine((H200,), 4).dtype == "bfloat16"
    assert Machine((H200, V100), 4).dtype == "float16"


@pytest.mark.parametrize(
    ("environ", "cpuinfo", "dtype"),
    [
        ({}, "flags\t\t: fpu avx512f avx512_bf16 sse2", "bfloat16"),
        ({}, "Features\t: fp asimd bf16", "bfloat16"),
        ({}, "flags\t\t: fpu avx512f\nmodel name : bf16", "float32"),
        ({}, "", "float32"),
        ({"FINETUNE_CPU_DTYPE": "float32"}, "flags\t\t: amx_bf16", "float32"),
    ],
)
def test_a_processor_computes_in_bf16_where_it_multiplies_in_it(environ, cpuinfo, dtype, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{cpuinfo}\n")
    assert cpu_dtype(environ, tmp_path / "cpuinfo") == dtype
    assert cpu_dtype(environ, tmp_path / "none") == environ.get("FINETUNE_CPU_DTYPE", "float32")


def test_cores_are_no_more_than_the_containers_quota(tmp_path):
    quota = tmp_path / "cpu.max"
    quota.write_text("100000 100000\n")
    assert _cores(quota) == 1


def test_free_memory_is_no_more_than_the_containers_limit(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:       90 kB\n")
    (tmp_path / "memory.max").write_text("30000\n")
    (tmp_path / "memory.current").write_text("10000\n")
    assert available_memory(meminfo, tmp_path) == 20_000
    assert available_memory(meminfo, tmp_path / "none") == 90 * 1024


@pytest.mark.parametrize(
    ("gpus", "machine", "size", "backend"),
    [
        (0, Machine((), 2), 1, "gloo"),
        (2, Machine((), 2), 2, "gloo"),
        (1, Machine((H200,), 16), 1, "nccl"),
        (0, Machine((H200,), 16), 1, "gloo"),
    ],
)
def test_one_process_a_gpu_or_as_many_on_cpu(gpus, machine, size, backend):
    world = make_world(request(gpus=gpus), machine, {})
    assert (world.size, world.backend) == (size, backend)


def test_more_gpus_than_there_are_is_refused():
    with pytest.raises(UserMistake, match=r"asks for 8 GPUs on this machine, which has 1.*training.gpus: 1"):
        make_world(request(gpus=8), Machine((H200,), 16), {})


def test_an_indexed_jobs_pod_finds_its_place_in_the_environment():
    environ = {"NNODES": "2", "JOB_COMPLETION_INDEX": "1", "MASTER_ADDR": "job-0.job", "MASTER_PORT": "29501"}
    world = make_world(request(gpus=1, nodes=2), Machine((H200,), 16), environ)
    assert (world.nodes, world.node_rank, world.size, world.address, world.port) == (2, 1, 2, "job-0.job", 29501)


def test_nodes_that_the_environment_does_not_agree_with_are_refused():
    environ = {"NNODES": "4", "NODE_RANK": "0", "MASTER_ADDR": "here"}
    with pytest.raises(UserMistake, match="asks for 2 nodes; the environment says NNODES=4"):
        make_world(request(nodes=2), Machine((), 2), environ)


def test_nodes_without_a_cluster_become_processes_of_this_machine():
    assert make_world(request(nodes=2), Machine((), 2), {}).size == 2


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
def test_deepspeed_computes_in_what_the_model_does(name):
    assert "fp16" not in deepspeed_config(name, "float32", gpu=False)
    assert deepspeed_config(name, "bfloat16", gpu=True)["bf16"] == {"enabled": True}
    assert deepspeed_config(name, "float16", gpu=True)["fp16"]["enabled"] is True


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
def test_an_adapter_s_gradients_are_reduced_in_parts_while_the_backward_pass_runs(name):
    """Llama-3-8B at rank 64 has 168 million of them."""
    zero = deepspeed_config(name, "bfloat16", gpu=True)["zero_optimization"]
    assert zero["overlap_comm"]
    assert zero["reduce_bucket_size"] < 168e6 / 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no DeepSpeed JSON came with it"),
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"fp16": {"enabled": true}}', "turns fp16 on, but the model computes in float32"),
    ],
)
def test_a_bad_deepspeed_config_is_refused_with_what_to_write(text, said):
    with pytest.raises(UserMistake, match=said):
        custom_deepspeed_config(text, "float32")


def test_auto_in_the_users_deepspeed_config_is_settled_by_the_machine():
    text = json.dumps({"fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"}})
    config = custom_deepspeed_config(text, "bfloat16")
    assert (config["fp16"]["enabled"], config["bf16"]["enabled"]) == (False, True)
