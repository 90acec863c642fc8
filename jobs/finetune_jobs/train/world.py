"""How many processes train, and where.

One process a GPU; several nodes by the environment that Kubernetes sets in an Indexed Job's pods: NNODES, MASTER_ADDR
and MASTER_PORT, and NODE_RANK or JOB_COMPLETION_INDEX. Without it all processes run on this machine, on its CPU cores
where it has no GPUs.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from finetune_jobs.contract import TrainRequest
from finetune_jobs.errors import UserMistake
from finetune_jobs.hardware import Machine

MASTER_PORT = "29500"


@dataclass(frozen=True)
class World:
    nodes: int
    node_rank: int
    per_node: int
    """Processes on each node."""
    gpu: bool
    address: str
    port: int

    @property
    def size(self) -> int:
        return self.nodes * self.per_node

    @property
    def backend(self) -> str:
        return "nccl" if self.gpu else "gloo"


def make_world(request: TrainRequest, machine: Machine, environ: Mapping[str, str] = os.environ) -> World:
    gpu = bool(machine.gpus) and request.gpus > 0
    each = max(request.gpus, 1)
    if int(environ.get("NNODES", "1")) > 1:
        world = _of_many_nodes(request, each, environ, gpu=gpu)
    else:
        world = World(1, 0, request.nodes * each, gpu, "127.0.0.1", _free_port())
    if gpu and len(machine.gpus) < world.per_node:
        raise UserMistake(
            "TooFewGpus",
            f"The job asks for {world.per_node} GPUs on this machine, which has {len(machine.gpus)}.",
            f"Write training.gpus: {len(machine.gpus)}, or run on a machine with {world.per_node} GPUs.",
        )
    return world


def _of_many_nodes(request: TrainRequest, each: int, environ: Mapping[str, str], *, gpu: bool) -> World:
    nodes = int(environ["NNODES"])
    rank = environ.get("NODE_RANK", environ.get("JOB_COMPLETION_INDEX"))
    address = environ.get("MASTER_ADDR")
    if nodes != request.nodes or rank is None or address is None:
        raise UserMistake(
            "NodesDisagree",
            f"The job asks for {request.nodes} nodes; the environment says NNODES={nodes}, "
            f"NODE_RANK={rank}, MASTER_ADDR={address}.",
            "Set NNODES to training.nodes, NODE_RANK from 0 on each node, and MASTER_ADDR to the first node's name.",
        )
    return World(nodes, int(rank), each, gpu, address, int(environ.get("MASTER_PORT", MASTER_PORT)))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
