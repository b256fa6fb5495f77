"""The network that a training starts from."""

from pathlib import Path
from typing import Any

from sg3flow.addresses import without_secrets
from sg3flow.files import sha256_file


def network_facts(source: str, digest: str) -> dict[str, Any]:
    """What is recorded of the network that ``source`` names; empty: none.

    ``shortened`` says that the address had more than a record may hold: a password, a query.
    """
    if not source:
        return {}
    shown = without_secrets(source)
    return {"source": shown, "shortened": shown != source, "sha256": digest}


def network_digest(path: Path) -> str:
    """SHA-256 of the network in a file, or in a folder that holds one; empty: not exactly one."""
    files = [path] if path.is_file() else sorted(path.rglob("*.pkl"))
    files = files or sorted(path.rglob("*.safetensors"))
    return sha256_file(files[0]) if len(files) == 1 else ""
