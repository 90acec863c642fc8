"""The whole job in pods: from a wheel and rows on a claim to a page that an Ingress opens."""

import subprocess
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import yaml
from tests.browser import SEARCH
from tests.cluster.kube import Job, Object, condition
from tests.cluster.release import Release
from tests.cluster.specs import CLAIM, config_map, example

HOST = "demo.test"
TITLE = "An agent from a cluster"
QUESTIONS = [
    *({"question": asked, "tool": SEARCH} for asked in (
        "Please help me search the InternLM2 Technical Report.",
        "What papers exist on mean field games?",
        "Which preprints talk about magnetic monopoles?",
        "Search for studies that look at sleep stages.",
    )),
    {"question": "What is the capital of Norway?"},
]  # fmt: skip
GATE = "0.5"


@dataclass
class Agent:
    """The job, and what was seen of it on the way."""

    job: Job
    table: str = ""
    """What `kubectl get ftj -w` printed."""
    killed: dict[str, str] = field(default_factory=dict)
    """Stage -> uid of the operator's pod that was killed in it."""
    history: list[Object] = field(default_factory=list)
    """Each status."""


def spec(index_url: str | None) -> Object:
    changes: dict[str, Any] = {
        "dataset__volume": {"claimName": CLAIM, "path": "learns"},
        "evaluation": {
            "promptsFrom": {"configMapKeyRef": {"name": "prompts", "key": "list"}},
            "turns": 1, "maxNewTokens": 64, "minimumValidCalls": GATE,
        },
        "demo__title": TITLE,
        "demo__ingress": {"host": HOST},
    }  # fmt: skip
    return example(index_url, **changes)


def raise_agent(job: Job, release: Release, index_url: str | None) -> Agent:
    """Submit the job and see it through until it is Ready."""
    made, cluster = Agent(job), job.cluster
    questions = config_map("prompts", {"list": yaml.safe_dump(QUESTIONS)})
    questions["metadata"]["namespace"] = job.namespace
    cluster.apply(questions)
    job.submit(spec(index_url))
    command = cluster.command("get", "ftj", job.name, "-n", job.namespace, "--watch")
    table = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        job.until(lambda status: seen(made, release, status), "Ready")
    finally:
        table.terminate()
        made.table = table.communicate()[0]
    return made


def seen(made: Agent, release: Release, status: Object) -> bool:
    """Note a status, kill the operator once in each stage; whether the job is Ready."""
    made.history.append(status)
    running = next((row["name"] for row in status.get("stages", ()) if row["state"] == "Running"), None)
    if running is not None and running not in made.killed:
        made.killed[running] = release.kill()
    return bool(condition(status, "Ready").get("status") == "True")


def pods_of_stages(job: Job) -> Counter[str]:
    """How many pods each stage has had; those of the demo may change."""
    listed = job.cluster.get("pods", "-n", job.namespace, "-l", f"finetune.dev/job={job.name}")["items"]
    return Counter(pod["metadata"]["labels"]["finetune.dev/stage"] for pod in listed)
