"""Public weights of detectors: fetched once, held to their digests, and only read."""

import torch

from sg3flow.downloads import cached
from sg3flow.errors import DataError, MetricError
from sg3flow.retry_policy import RetryPolicy


def load_weights(
    url: str, name: str, sha256: str, max_bytes: int, what: str
) -> dict[str, torch.Tensor]:
    """Tensors of a public weights file, on the CPU; nothing in the file is executed.

    Args:
        url, name, sha256, max_bytes: of the file; as for ``cached``.
        what: the weights in words, for the error.

    Raises:
        MetricError: it cannot be had, or is not what it should be.
    """
    try:
        path = cached(url, name, sha256, max_bytes=max_bytes, policy=RetryPolicy(tries=3))
    except DataError as error:
        # The cause names the file, its digest, its address, and where to put it by hand.
        raise MetricError(
            f"no weights of {what}: {error}; metrics with random in their name, say "
            "fd_random1k_full, need no download"
        ) from error
    tensors: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors
