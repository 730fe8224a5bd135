"""Deploys a file on the Ray of `RAY_ADDRESS`, then prints what runs, a line of JSON every half second."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import ray
import yaml
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema


def main(path: Path) -> None:
    """Deploy and watch until ended."""
    raw = yaml.safe_load(path.read_text("utf-8"))
    ray.init(log_to_driver=False)
    serve.start(proxy_location=raw["proxy_location"], http_options=raw["http_options"])
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(raw))
    while True:
        application = serve.status().applications["tierwise"]
        replicas = {name: found.replica_states.get("RUNNING", 0) for name, found in application.deployments.items()}
        nodes = sum(node["Alive"] for node in ray.nodes())
        message = application.message if application.status == "DEPLOY_FAILED" else ""
        print(json.dumps({"nodes": nodes, "replicas": replicas, "message": message}), flush=True)
        time.sleep(0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
