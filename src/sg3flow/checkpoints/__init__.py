"""Safe loading of networks from any source, and writing of snapshots."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sg3flow.checkpoints.loading import Networks, load_networks
    from sg3flow.checkpoints.snapshots import save_snapshot

# Imported at their first use: they need torch, which who lists the names of networks does not.
_MODULE_OF = {"Networks": "loading", "load_networks": "loading", "save_snapshot": "snapshots"}

__all__ = ["Networks", "load_networks", "save_snapshot"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
