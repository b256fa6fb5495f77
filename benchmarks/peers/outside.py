"""Imports torchvision, which most of the peers import, beside a CPU build of torch.

torchvision's wheels for Linux are built for CUDA. Beside a CPU build of torch their compiled
operators do not load, and torchvision 0.28 then fails to describe two of them, `nms` and `qnms`. No
peer calls these: declaring them (`torch.library.define`) is enough for the rest, which is Python.
Import this module first:

    import outside  # noqa: F401
    import pytorch_fid.fid_score
"""

import sys

import torch

_OPERATORS = ("nms", "qnms")
_ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _import_torchvision() -> None:
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in _OPERATORS:
            torch.library.define(f"torchvision::{name}", _ARGUMENTS)
        import torchvision  # noqa: F401


_import_torchvision()
