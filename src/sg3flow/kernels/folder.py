"""The folder of compiled kernels, of the CPU and of GPUs."""

from pathlib import Path

from sg3flow.settings import KERNELS, cache_folder


def kernels_folder() -> Path:
    """Where compiled kernels are kept: ``SG3FLOW_KERNELS``, or ``kernels`` in the cache folder."""
    return KERNELS.path() or cache_folder() / "kernels"
