"""Safe loading of networks from any source, and writing of snapshots."""

from sg3flow.checkpoints.loading import Networks, load_networks
from sg3flow.checkpoints.snapshots import save_snapshot

__all__ = ["Networks", "load_networks", "save_snapshot"]
