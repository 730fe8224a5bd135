"""A real Ray cluster on one machine whose autoscaler starts and ends nodes: Ray's own fake provider, logical GPUs.

`ray.cluster_utils.AutoscalingCluster` does the same, but begins and ends with `ray stop --force`, which would end every
other Ray on the machine.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from app.config import read_serve_file
from app.isolation import Isolation
from app.ports import free_port

_HEAD = "f" * 51 + "00000"
# Seconds in place of the minutes that production takes for the same decisions.
_QUICK = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
}
_RAY = "import sys; from ray.scripts.scripts import main; sys.exit(main())"


class FakeCluster:
    """A head without GPUs and nodes of one GPU each, none at first, and a gateway on it, inside the `with` block.

    Args:
        path: The gateway's file.
        max_nodes: GPU nodes at most.
    """

    def __init__(self, path: Path, max_nodes: int) -> None:
        self._path = path
        self._isolation = Isolation()
        self._state: dict[str, Any] = {}
        self._driver: subprocess.Popen[str] | None = None
        self._max_nodes = max_nodes

    def __enter__(self) -> Self:
        port = free_port()
        environment = {
            **self._isolation.open(read_serve_file(self._path).host),
            **_QUICK,
            "RAY_ADDRESS": f"127.0.0.1:{port}",
            "RAY_AUTH_MODE": "disabled",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
        }
        scaling = self._path.parent / "cluster.yaml"
        scaling.write_text(yaml.safe_dump(self._nodes(port)))
        head = {"RAY_CLOUD_INSTANCE_ID": _HEAD, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD}
        options = f"""
            --head --port={port} --num-cpus=4 --num-gpus=0 --labels=pool=cpu --include-dashboard=false
            --temp-dir={self._isolation.folder} --autoscaling-config={scaling} --object-store-memory=100000000
        """
        command = [sys.executable, "-c", _RAY, "start", *options.split()]
        try:
            subprocess.run(command, env=environment | head, check=True, capture_output=True, timeout=120)
            driver = [sys.executable, str(Path(__file__).with_name("fake_cluster_driver.py")), str(self._path)]
            self._driver = subprocess.Popen(driver, env=environment, stdout=subprocess.PIPE, text=True)
            self._reader = threading.Thread(target=self._read, args=(self._driver,))
            self._reader.start()
        except BaseException:
            self._sweep()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sweep()

    @property
    def nodes(self) -> int:
        """How many nodes there are, the head included."""
        return int(self._state.get("nodes", 0))

    def replicas(self, deployment: str) -> int:
        """How many replicas of a deployment run; -1 as long as there is no such deployment."""
        return int(self._state.get("replicas", {}).get(deployment, -1))

    def _nodes(self, port: int) -> dict[str, Any]:
        gpu = {"CPU": 1, "GPU": 1, "object_store_memory": 100_000_000}
        nothing = "initialization_commands setup_commands head_setup_commands worker_setup_commands rsync_exclude"
        nothing += " head_start_ray_commands worker_start_ray_commands cluster_synced_files rsync_filter"
        return {
            "cluster_name": "fake",
            "max_workers": self._max_nodes,
            "provider": {
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "gcs_address": f"127.0.0.1:{port}",
                "launch_multiple": True,
                "head_node_id": _HEAD,
            },
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": 4}, "node_config": {}, "max_workers": 0},
                "gpu": {"resources": gpu, "node_config": {}, "min_workers": 0, "max_workers": self._max_nodes},
            },
            "head_node_type": "ray.head.default",
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 0.05,
            **{name: [] for name in nothing.split()},
        }

    def _read(self, driver: subprocess.Popen[str]) -> None:
        assert driver.stdout is not None
        for line in driver.stdout:
            with contextlib.suppress(ValueError):
                state = json.loads(line)
                if state != self._state:
                    print(f"{time.strftime('%X')} {line.strip()}")
                self._state = state

    def _sweep(self) -> None:
        self._isolation.close()
        if self._driver is not None:
            self._reader.join()
            self._driver.communicate(timeout=10)
