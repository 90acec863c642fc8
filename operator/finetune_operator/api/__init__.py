"""The FineTuneJob: its spec, its sources, its reading from YAML."""

from finetune_operator.api.job import API_VERSION, GROUP, KIND, PLURAL, VERSION, FineTuneJob
from finetune_operator.api.problems import SpecError, nearest
from finetune_operator.api.read import ConfigMaps, JobFile, job_of_json, parse_job, read_job
from finetune_operator.api.spec import Spec, template_of

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "PLURAL",
    "VERSION",
    "ConfigMaps",
    "FineTuneJob",
    "JobFile",
    "Spec",
    "SpecError",
    "job_of_json",
    "nearest",
    "parse_job",
    "read_job",
    "template_of",
]
