"""What an installation says of the operator: one value a line with its unit, each from an environment variable.

``finetune_operator.manifests.settings`` holds what it says of the pods.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from finetune_operator.lifecycle.attempts import MAX_ATTEMPTS
from finetune_operator.manifests.settings import PodSettings

PREFIX = "FINETUNE_"


@dataclass(frozen=True)
class Settings:
    """A field `watch_timeout` is read from FINETUNE_WATCH_TIMEOUT; one of `pods` from FINETUNE_POD_..."""

    namespaces: tuple[str, ...] = ()
    """Namespaces that are served, separated by commas; none serves the whole cluster."""
    own_namespace: str = "finetune-system"
    """Where the operator runs and its Lease lies."""
    identity: str = field(default_factory=socket.gethostname)
    """Holder of the Lease: a pod's name, so that a container that starts again goes on at once."""
    lease_name: str = "finetune-operator"
    """Name of the Lease; two operators with one name never both work."""
    lease_seconds: int = 15
    """Seconds after which a Lease that is not renewed may be taken by another."""
    lease_renew: float = 10.0
    """Seconds in which the Lease has to be renewed, else the operator ends itself."""
    lease_retry: float = 2.0
    """Seconds between two tries at the Lease."""
    workers: int = 16
    """Jobs that are looked at at the same time."""
    request_timeout: float = 30.0
    """Seconds that one API call may take."""
    connect_timeout: float = 30.0
    """Seconds that connecting to the API server may take."""
    watch_timeout: int = 1800
    """Seconds after which the API server ends a watch; it is begun anew, by a list of all."""
    watch_client_timeout: float = 1810.0
    """Seconds after which this side ends a watch that the server forgot."""
    watch_silence: float = 70.0
    """Seconds without even a bookmark after which a watch is taken for dead; the server sends one each minute."""
    sweep_every: float = 60.0
    """Seconds between two comparisons of what the watches told with what the API server lists."""
    silent_after: float = 180.0
    """Seconds without any sign that the watches work after which /healthz fails."""
    port: int = 8080
    """Port of /metrics and /healthz; 0 takes a free one."""
    host: str = "0.0.0.0"  # noqa: S104 - a pod's own address is not known before it runs
    """Address of /metrics and /healthz."""
    log_format: str = "text"
    """text, or json: one object a line."""
    log_level: str = "INFO"
    """Least level that is logged."""
    pods: PodSettings = field(default_factory=lambda: PodSettings(attempts=MAX_ATTEMPTS))

    @property
    def logs(self) -> str:
        """The command that shows the operator's log; its Deployment and its Lease have one name."""
        return f"kubectl -n {self.own_namespace} logs deployment/{self.lease_name}"


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """ValueError with the variable's name for a value of the wrong type."""
    pods = filled(PodSettings(attempts=MAX_ATTEMPTS), environ, f"{PREFIX}POD_")
    settings: Settings = filled(Settings(), environ, PREFIX)
    return replace(settings, pods=pods)


def filled(defaults: Any, environ: Mapping[str, str], prefix: str) -> Any:
    found = {}
    for row in fields(defaults):
        variable, default = prefix + row.name.upper(), getattr(defaults, row.name)
        if variable in environ and isinstance(default, str | int | float | tuple):
            found[row.name] = converted(variable, environ[variable], default)
    return replace(defaults, **found)


def converted(variable: str, text: str, default: object) -> object:
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return type(default)(text)  # type: ignore[call-arg]
    except ValueError:
        raise ValueError(f"{variable}: {text!r} is no {type(default).__name__}; the default is {default}") from None
