"""The demo: a Deployment, its Service, and the Ingress or HTTPRoute that opens it."""

from finetune_jobs.contract import DEMO_HOST_VARIABLE, DEMO_LOAD_FIRST_VARIABLE, DEMO_PORT_VARIABLE, Stage
from finetune_operator.manifests.names import Manifest, demo_name, labels, metadata, with_applied
from finetune_operator.manifests.pod import Surroundings, pod_metadata, pod_spec
from finetune_operator.plan import PlannedStage

HEALTH_PATH = "/_stcore/health"
"""Streamlit's own."""


def demo_objects(given: Surroundings, planned: PlannedStage) -> tuple[Manifest, ...]:
    """All that serves the page, each with the digest of what is applied."""
    made = (deployment(given, planned), service(given), ingress(given), http_route(given))
    return tuple(with_applied(manifest) for manifest in made if manifest is not None)


def deployment(given: Surroundings, planned: PlannedStage) -> Manifest:
    job, port = given.job, given.settings.demo_port
    name = demo_name(job.metadata.name)
    address = {DEMO_HOST_VARIABLE: "0.0.0.0", DEMO_PORT_VARIABLE: str(port)}  # noqa: S104 - a pod's
    pod = pod_spec(given, planned, {**address, DEMO_LOAD_FIRST_VARIABLE: "1"})
    pod["terminationGracePeriodSeconds"] = 30  # it has nothing to save
    served = pod["containers"][0]
    served["ports"] = [{"name": "http", "containerPort": port}]
    served |= probes()
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(job, name, Stage.DEMO, planned.digest),
        "spec": {
            "replicas": 0 if job.spec.suspend else job.spec.demo.replicas,
            "selector": {"matchLabels": labels(job.metadata.name, Stage.DEMO)},
            # The page that is open stays until the new one has its weights and answers, which takes demo.gpus twice.
            # Where they are missing the stage says so; Recreate would close the page for one that may never answer.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": pod_metadata(given, planned), "spec": pod},
        },
    }


def probes() -> Manifest:
    """An hour to start, for weights come from wherever they lie; then ten minutes of silence, for answers take long.

    Of these five in the Service: a page that is at an answer is not taken from its readers.
    """
    asked = {"httpGet": {"path": HEALTH_PATH, "port": "http"}}
    return {
        "startupProbe": asked | {"periodSeconds": 2, "failureThreshold": 1800},
        "readinessProbe": asked | {"periodSeconds": 2, "timeoutSeconds": 20, "failureThreshold": 15},
        "livenessProbe": asked | {"periodSeconds": 30, "timeoutSeconds": 20, "failureThreshold": 20},
    }


def service(given: Surroundings) -> Manifest:
    job = given.job
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(job, demo_name(job.metadata.name), Stage.DEMO),
        "spec": {
            "selector": labels(job.metadata.name, Stage.DEMO),
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            # A browser's session lives in one pod.
            "sessionAffinity": "ClientIP",
        },
    }


def ingress(given: Surroundings) -> Manifest | None:
    job, said = given.job, given.job.spec.demo.ingress
    if said is None:
        return None
    name = demo_name(job.metadata.name)
    backend = {"service": {"name": name, "port": {"name": "http"}}}
    rule = {"host": said.host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    spec: Manifest = {"rules": [rule]}
    if said.class_name:
        spec["ingressClassName"] = said.class_name
    if said.tls:
        spec["tls"] = [{"hosts": [said.host], "secretName": said.tls.secret_name}]
    meta = metadata(job, name, Stage.DEMO) | {"annotations": dict(said.annotations)}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": spec}


def http_route(given: Surroundings) -> Manifest | None:
    job, said = given.job, given.job.spec.demo.http_route
    if said is None:
        return None
    name = demo_name(job.metadata.name)
    spec: Manifest = {
        "parentRefs": [ref.model_dump(by_alias=True, exclude_none=True) for ref in said.parent_refs],
        "rules": [{"backendRefs": [{"name": name, "port": 80}]}],
    }
    if said.hostnames:
        spec["hostnames"] = list(said.hostnames)
    meta = metadata(job, name, Stage.DEMO)
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": meta, "spec": spec}


def demo_url(given: Surroundings) -> str:
    """Where a user opens the page."""
    demo, job = given.job.spec.demo, given.job
    if demo.ingress is not None:
        return f"http{'s' if demo.ingress.tls else ''}://{demo.ingress.host}"
    if demo.http_route is not None and demo.http_route.hostnames:
        return f"http://{demo.http_route.hostnames[0]}"
    return f"http://{demo_name(job.metadata.name)}.{job.metadata.namespace}.svc"
