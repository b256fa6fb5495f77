"""Which device computes."""

import torch

from sg3flow.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """``auto``: the CUDA device if there is one, else the CPU; ``cpu`` or ``cuda``: that one.

    Raises:
        ConfigError: ``cuda`` is asked for and there is none.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("no CUDA device is visible to torch; use --device cpu or auto")
    return torch.device("cuda", torch.cuda.current_device())
