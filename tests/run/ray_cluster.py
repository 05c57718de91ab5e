"""A Ray cluster of three nodes on this machine, which can be killed one by one."""

SMALL = {"object_store_memory": 80_000_000, "include_dashboard": False}


class ThreeNodes:
    """A cluster of three nodes that take one cell each; what was killed is replaced before the next test."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
        self.nodes = []
        self.make_whole()

    @property
    def address(self):
        return self.cluster.address

    def make_whole(self):
        while len(self.nodes) < 3:
            self.nodes.append(self.cluster.add_node(num_cpus=1, wait=False, **SMALL))
        self.cluster.wait_for_nodes()

    def kill(self, place):
        """Kills the node of a place as the display calls it, with all that runs there."""
        (node,) = (node for node in self.nodes if place.endswith(f" {node.node_id[:6]}"))
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)
