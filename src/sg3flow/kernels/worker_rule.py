"""Data loading processes build no kernels: each would wait, and they use few ops."""

from sg3flow.errors import ConfigError


def refuse_in_workers() -> None:
    """Raise ConfigError in a process of a torch DataLoader."""
    from torch.utils.data import get_worker_info

    if get_worker_info() is not None:
        raise ConfigError("kernels are not built in a data loading process")
