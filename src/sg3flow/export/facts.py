"""What an exported file says of itself, and the marks by which sg3flow recognizes its own files."""

import json
from pathlib import Path
from typing import Any

import sg3flow
from sg3flow.export.export_source import ExportSource
from sg3flow.export.plain_generator import OUTPUT, PlainGenerator

FORMAT = "sg3flow-export-1"
FACTS_NAME = "sg3flow.json"  # in a TorchScript archive


def facts_of(source: ExportSource, plain: PlainGenerator) -> dict[str, str]:
    """The facts of an exported generator, as text by name; lists are JSON."""
    G: Any = source.G
    known = {
        "format": FORMAT,
        "source": _shown_source(source.address),
        "weights_sha256": source.weights_sha256,
        "resolution": str(G.img_resolution),
        "channels": str(G.img_channels),
        "inputs": json.dumps(plain.inputs),
        "output": OUTPUT,
        "class_names": json.dumps(source.class_names, ensure_ascii=False),
        "training_set": str(source.training_set.get("name") or ""),
        "training_set_license": str(source.training_set.get("licence") or "not known"),
        "software": f"sg3flow {sg3flow.__version__} (Apache-2.0)",
    }
    return {key: value for key, value in known.items() if value}


def _shown_source(address: str) -> str:
    """An address as it is; of a local file, its name: folders are nobody else's business."""
    return address if ":/" in address else Path(address).name
