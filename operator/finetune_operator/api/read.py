"""A job from the YAML that kubectl takes: one FineTuneJob and the ConfigMaps that it names."""

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from finetune_operator.api.job import API_VERSION, KIND, FineTuneJob
from finetune_operator.api.problems import SpecError, nearest, problems_of

ConfigMaps = Mapping[str, Mapping[str, str]]
"""ConfigMap name -> key -> text."""

YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""What PyYAML raises for what is no YAML, also: a date in month 13, `!!int` without digits, endless nesting."""


BESIDE = "a {kind} stands beside the job; write it into a file of its own, here only the ConfigMaps that the job names"


class Named(BaseModel):
    name: str


class ConfigMap(BaseModel):
    """As much of it as a job reads."""

    metadata: Named
    data: dict[str, str] = {}


@dataclass(frozen=True)
class JobFile:
    job: FineTuneJob
    config_maps: ConfigMaps


class KubernetesYaml(yaml.SafeLoader):
    """YAML as kubectl reads it: 2e-4 is a number and a key may stand only once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise SpecError([f"line {node.start_mark.line + 1}: {key!r} stands twice; keep one"])
        return super().construct_mapping(node, deep=deep)


KubernetesYaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_job(text: str) -> JobFile:
    """The job in `text`; SpecError with a sentence per problem."""
    try:
        documents = [d for d in yaml.load_all(text, Loader=KubernetesYaml) if d is not None]
    except YAML_ERRORS as error:
        raise SpecError([f"this is not YAML: {error}"]) from None
    for document in documents:
        if not isinstance(document, dict):
            raise SpecError([f"a document is {type(document).__name__}, not an object; write apiVersion, kind, ..."])
    others = [d for d in documents if d.get("kind") != "ConfigMap"]
    jobs = others if len(others) == 1 else [d for d in others if d.get("kind") == KIND]
    if len(jobs) != 1:
        raise SpecError([f"{len(jobs)} FineTuneJobs; write exactly one, with the ConfigMaps that it names beside it"])
    if len(others) > 1:
        raise SpecError([BESIDE.format(kind=d.get("kind")) for d in others if d is not jobs[0]])
    maps = [read_config_map(d) for d in documents if d.get("kind") == "ConfigMap"]
    return JobFile(parse_job(jobs[0]), {found.metadata.name: found.data for found in maps})


def read_config_map(document: Mapping[str, Any]) -> ConfigMap:
    try:
        return ConfigMap.model_validate(without_nulls(document), strict=True)
    except ValidationError as error:
        raise SpecError(f"ConfigMap: {problem}" for problem in problems_of(error, ConfigMap)) from None


def without_nulls(value: Any) -> Any:
    """As the API server reads an object: a field that is null is a field that is left out."""
    if isinstance(value, Mapping):
        return {key: without_nulls(child) for key, child in value.items() if child is not None}
    return [without_nulls(child) for child in value] if isinstance(value, list) else value


def job_of_json(text: str | bytes) -> FineTuneJob:
    """As strict as the API server: camelCase names only, no conversion between types; else a ValidationError."""
    return FineTuneJob.model_validate_json(text, strict=True, by_alias=True, by_name=False)


def parse_job(document: Mapping[str, Any]) -> FineTuneJob:
    """The job in a YAML document; SpecError with a sentence per problem."""
    if document.get("kind") != KIND:
        said = str(document.get("kind"))
        raise SpecError([f"kind: {said!r} is not {KIND}; {nearest(said, [KIND])}"])
    if document.get("apiVersion") != API_VERSION:
        raise SpecError([f"apiVersion: {document.get('apiVersion')!r} is not known; write {API_VERSION}"])
    try:
        job = job_of_json(json.dumps(without_nulls(document), default=str))
    except ValidationError as error:
        raise SpecError(problems_of(error, FineTuneJob)) from None
    unknown = unknown_nulls(document)
    if unknown:
        raise SpecError(unknown)
    return job


def unknown_nulls(document: Mapping[str, Any]) -> tuple[str, ...]:
    """A field that is null and unknown is refused all the same."""
    try:
        job_of_json(json.dumps(document, default=str))
    except ValidationError as error:
        return problems_of(error, FineTuneJob, lambda d: d["type"] == "extra_forbidden" and d["input"] is None)
    return ()
