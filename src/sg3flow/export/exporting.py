"""Exports the generator of any source to a file of another format."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import nn

from sg3flow.addresses import shown_url
from sg3flow.checkpoints import load_networks
from sg3flow.checkpoints.network_entries import network_entry
from sg3flow.errors import CheckpointError, DataError
from sg3flow.export.export_source import ExportSource
from sg3flow.export.formats import find_format
from sg3flow.files import atomic_write, sha256_file
from sg3flow.output_checks import check_replaceable


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written.

    Attributes:
        form: the name of its format.
        weights_sha256: digest of the weights of the exported generator.
        checked: what was checked, as a sentence; empty: nothing was.
    """

    path: Path
    form: str
    num_bytes: int
    sha256: str
    weights_sha256: str
    checked: str


def export_network(source: str, dest: Path, form: str = "") -> ExportedFile:
    """Write the generator of ``source`` into the file ``dest``.

    Args:
        source: a path, a URL, ``models:/…``, ``runs:/…`` or a name.
        form: one of ``FORMATS``; empty: that of the suffix of ``dest``.

    Raises:
        CheckpointError: the source cannot be read, has no generator, or the file does not compute
            what the network does.
        ConfigError: there is no such format, or a package that writes it is missing.
        DataError: ``dest`` is taken by something else or cannot be written, or a download failed.
        TrackingError: the tracking server or the registry failed.
    """
    chosen = find_format(form, dest)
    check_replaceable(dest, chosen.is_ours, f"a file of the format {chosen.name}", "DEST")
    content = read_source(source)
    try:
        with atomic_write(dest) as stream:
            checked = chosen.write(content, stream)
    except OSError as error:
        raise DataError(f"cannot write {dest}: {error.strerror or error}") from None
    size, digest = dest.stat().st_size, sha256_file(dest)
    return ExportedFile(dest, chosen.name, size, digest, content.weights_sha256, checked)


def read_source(source: str) -> ExportSource:
    """The networks of a source, with what is recorded in an exported file.

    Raises:
        CheckpointError: the source cannot be read, or has no generator.
        DataError: a download failed.
        TrackingError: the tracking server or the registry failed.
    """
    networks = load_networks(source)
    address = shown_url(source)
    G = networks.G_ema or networks.G
    if G is None:
        raise CheckpointError(f"{address} has no generator to export")
    G.requires_grad_(False)
    described = networks.training_set or {}
    names = tuple(str(name) for name in described.get("class_names") or ())
    return ExportSource(G, networks, address, described, names, weights_digest(G))


def weights_digest(G: nn.Module) -> str:
    """SHA-256 of the weights in the form of safetensors, as a registered version has it."""
    state = network_entry(G)["state_dict"]
    return hashlib.sha256(save({name: t.contiguous() for name, t in state.items()})).hexdigest()
