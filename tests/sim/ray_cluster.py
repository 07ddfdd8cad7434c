"""A cluster of Ray on loopback, as a program: nodes of one processor each, until its input ends.

python -m tests.sim.ray_cluster [FOLDER …]: for each a further node, on which that comes first on
PYTHONPATH. It prints the cluster's address.
"""

from __future__ import annotations

import os
import sys
import tempfile

# Ray listens on loopback alone where it believes that there can be no further host.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="onestream-ray-", ignore_cleanup_errors=True) as folder:
        os.environ["RAY_TMPDIR"] = folder
        from ray.cluster_utils import Cluster

        head = {**NODE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(**NODE)
            for each in sys.argv[1:]:
                cluster.add_node(**NODE, env_vars={"PYTHONPATH": each})
            print(cluster.address, flush=True)
            sys.stdin.read()
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    main()
