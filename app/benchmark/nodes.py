"""Three Ray nodes on this machine, as a process of its own: `python -m app.benchmark.nodes CONFIG`.

It says where Ray's dashboard is once it runs; then it takes a command a line, `kill` a worker node or `add` one, and
answers each with a line.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ray
from ray import serve
from ray.cluster_utils import Cluster

from app.config import ServeFile, read_serve_file
from app.ports import free_port

_CPUS = 4  # logical ones, of a worker


def main(file: ServeFile) -> None:
    """Run until the input ends."""
    dashboard = free_port()
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": dashboard}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    workers = [cluster.add_node(num_cpus=_CPUS) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    serve.start(proxy_location=file.raw["proxy_location"], http_options=file.raw["http_options"])
    print(f"http://127.0.0.1:{dashboard}", flush=True)
    for line in sys.stdin:
        if line == "kill\n":
            cluster.remove_node(workers.pop(0), allow_graceful=False)
        elif line == "add\n":
            workers.append(cluster.add_node(num_cpus=_CPUS))
        print("done", flush=True)


if __name__ == "__main__":
    main(read_serve_file(Path(sys.argv[1])))
