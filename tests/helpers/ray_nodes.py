"""A Ray cluster of several nodes on the loopback, which only the tests know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from advrad.engine.ray_engine import ready_ray


@contextmanager
def ray_nodes(count: int) -> Iterator[Any]:
    """A cluster of nodes with one processor each; tasks run on all of them but the first one, the driver's.

    Args:
        count: Number of nodes for tasks, >= 0.

    Yields:
        The cluster, with `address`, `add_node(num_cpus=1)` and `remove_node(node, allow_graceful=False)`.
    """
    ready_ray()  # the same settings as the engine's
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()
