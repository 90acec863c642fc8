"""One API call: the official client's transport with plain dicts, our errors and our timeouts.

- ApiError: the API server refused; `status` and `reason` say how
- ApiUnreachable: no answer
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config

from finetune_operator.cluster.kinds import Kind
from finetune_operator.cluster.metrics import API_CALLS
from finetune_operator.cluster.settings import Settings
from finetune_operator.manifests.names import MANAGER

Body = dict[str, Any]

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
NOT_FOUND, CONFLICT = 404, 409
IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class ApiError(Exception):
    """The API server's refusal."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


class ApiUnreachable(Exception):
    """No answer from the API server."""


def by_service_account() -> bool:
    """Whether the pod's account logs in: somebody who has set KUBECONFIG means that."""
    return not os.environ.get("KUBECONFIG") and IN_CLUSTER.exists()


async def connect(settings: Settings) -> "Api":
    """By KUBECONFIG where it is set, else by the pod's service account, else by ~/.kube/config."""
    configuration = Configuration()
    if by_service_account():
        load_incluster_config(client_configuration=configuration)
    else:
        await load_kube_config(os.environ.get("KUBECONFIG") or None, client_configuration=configuration)
    configuration.connection_pool_maxsize = 2 * settings.workers
    # Else aiohttp reads a .netrc and the proxies anew for every call, in a thread; the API server's proxy is
    # the configuration's own.
    configuration.client_session_kwargs = {"trust_env": False}
    return Api(ApiClient(configuration), settings)


class Api:
    """Use as `async with`."""

    def __init__(self, client: ApiClient, settings: Settings) -> None:
        self.client = client
        self._timeout = aiohttp.ClientTimeout(total=settings.request_timeout, sock_connect=settings.connect_timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
        accept: str = "application/json",
    ) -> Body:
        headers = {"Accept": accept, "Content-Type": content}
        url = f"{path}?{urlencode(query)}" if query else path
        request = await self.client.param_serialize(
            method, url, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        API_CALLS.labels(method).inc()
        try:
            answer = await self.client.call_api(*request, _request_timeout=self._timeout)
            text = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ApiUnreachable(f"{method} {path}: {type(error).__name__} {error}") from error
        if answer.status >= 300:  # noqa: PLR2004 - what is not 2xx
            raise refused(answer.status, text)
        try:
            return json.loads(text)  # type: ignore[no-any-return]
        except ValueError as error:  # a cut answer, or somebody else's
            raise ApiUnreachable(f"{method} {path}: the answer is no JSON") from error

    async def get(self, kind: Kind, namespace: str, name: str) -> Body:
        return await self.call("GET", kind.path(namespace, name))

    async def create(self, kind: Kind, namespace: str, manifest: Body) -> Body:
        """ApiError 409 where the name is taken: whatever is there is left alone."""
        return await self.call("POST", kind.path(namespace), manifest, query={"fieldManager": MANAGER})

    async def apply(self, kind: Kind, namespace: str, manifest: Body, *, ours: bool) -> Body:
        """Server-side apply. Without `ours` an object of other managers answers 409 and is left alone."""
        query = {"fieldManager": MANAGER} | ({"force": "true"} if ours else {})
        path = kind.path(namespace, manifest["metadata"]["name"])
        return await self.call("PATCH", path, manifest, query=query, content=APPLY)

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Body, *, sub: str = "") -> Body:
        path = kind.path(namespace, name) + sub
        return await self.call("PATCH", path, patch, query={"fieldManager": MANAGER}, content=MERGE)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Only the object of that uid; its pods are asked to end. Gone already is as good."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self.call("DELETE", kind.path(namespace, name), options)
        except ApiError as error:
            if error.status not in {NOT_FOUND, CONFLICT}:
                raise

    async def list_uids(self, kind: Kind, namespace: str | None, query: Mapping[str, str]) -> set[str]:
        """The uids of all, from the API server's cache, in chunks."""
        found: set[str] = set()
        onward = ""
        while True:
            asked = {**query, "limit": "250"} | ({"continue": onward} if onward else {})
            page = await self.call("GET", kind.path(namespace), query=asked, accept=METADATA_ONLY)
            found |= {item["metadata"]["uid"] for item in page["items"] or ()}
            onward = page["metadata"].get("continue", "")
            if not onward:
                return found


def refused(status: int, text: bytes) -> ApiError:
    try:
        body = json.loads(text)
        return ApiError(status, str(body.get("reason", "")), str(body.get("message", "")))
    except (ValueError, AttributeError):  # a proxy's page, not the API server's Status
        return ApiError(status, "", text.decode(errors="replace")[:300].strip())
