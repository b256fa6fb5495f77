"""Loading networks from any source, and the packaged form of a generator.

``load_networks`` reads a path, a URL, an address of the model registry or a name of
``network_catalog.py``: a snapshot, a public pickle, a bundled network or a packaged generator. A
registered model contains the packaged form: weights as safetensors and a description as JSON.
Nothing that is read is executed.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from sg3flow.addresses import RESOLVERS, address_mark, local_path, shown_url, url_file_name
from sg3flow.checkpoints.bundled_network import SUFFIX, read_bundled
from sg3flow.checkpoints.network_catalog import (
    NETWORKS,
    NamedNetwork,
    named_network,
    near_names,
)
from sg3flow.checkpoints.network_entries import (
    build_network,
    check_role,
    network_entry,
    primitive_dict,
)
from sg3flow.checkpoints.public_pickle import read_public_pickle
from sg3flow.checkpoints.snapshots import read_snapshot
from sg3flow.downloads import cached
from sg3flow.errors import CheckpointError, ConfigError, cut, nearest
from sg3flow.files import sha256_file, write_bytes, write_json
from sg3flow.networks.augment import AUGMENT_PRESETS, AugmentPipe
from sg3flow.settings import cache_folder

FORMAT = "sg3flow-generator-1"
WEIGHTS_NAME, DESCRIPTION_NAME = "generator.safetensors", "generator.json"
DIRECTIONS_NAME = "directions.npz"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_REGISTRY_SCHEMES = ("models", "runs")
_MAX_NAMES, _MAX_PATH = 5, 300
_ZIP_MAGIC = b"PK\x03\x04"
_START_BYTES, _HEADER_START = 9, b"{"  # safetensors: the length of a JSON header, then the header


@dataclass(frozen=True)
class Networks:
    """The content of a checkpoint; None for parts that it does not have.

    A bundled network has no G of its own: its G is its G_ema, the same module. The networks are in
    evaluation mode on the CPU. ``augment_pipe`` has the strength ``p`` of that moment;
    ``training_set`` and ``progress`` are primitives.
    """

    G: nn.Module | None = None
    D: nn.Module | None = None
    G_ema: nn.Module | None = None
    augment_pipe: AugmentPipe | None = None
    training_set: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    directions_file: Path | None = None  # registered with the network; not yet checked


@dataclass(frozen=True)
class Package:
    """A packaged generator: its two files, and the SHA-256 of the weights."""

    weights: Path
    description: Path
    weights_sha256: str


def load_networks(source: str | os.PathLike[str]) -> Networks:
    """Read networks from a path, a URL, ``models:/…``, ``runs:/…`` or a name.

    Nothing that is read is executed.

    Raises:
        CheckpointError: no such file, not a checkpoint, damaged or hostile, or weights that do not
            fit their architecture; the message names the file and the problem.
        DataError: a download failed.
        TrackingError: the tracking server or the registry failed.
    """
    path = local_copy(source)
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    try:
        with path.open("rb") as stream:
            start = stream.read(_START_BYTES)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if start.startswith(_ZIP_MAGIC):
        return _from_snapshot(path)
    is_bundled = path.suffix == SUFFIX and start.endswith(_HEADER_START)
    return _from_bundled(path) if is_bundled else _from_public_pickle(path)


def local_copy(source: str | os.PathLike[str]) -> Path:
    """A local file or folder with the content of ``source``.

    Args:
        source: a path; an ``http://``, ``https://`` (cached) or ``file://`` URL;
            ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``runs:/RUN_ID/PATH``; or a name of
            ``network_catalog.py``, if no file or folder has that name.

    Raises:
        CheckpointError: there is no such file or name, or the scheme is unknown.
        DataError: the download failed, or a ``file://`` URL names another machine.
        TrackingError: the tracking server or the registry failed.
    """
    name = os.fspath(source)
    if not name:  # `Path` would turn it into the current folder
        raise CheckpointError(
            "no network is given; give a file, a URL, models:/NAME@ALIAS or a name of "
            "`sg3flow networks`"
        )
    scheme = _SCHEME.match(name)
    if scheme is None:
        named = named_network(name)
        return _existing(Path(name).expanduser()) if named is None else _file_of(named)
    kind = scheme[1].lower()
    if kind in _REGISTRY_SCHEMES:
        return _resolved(kind, name)
    if kind == "file":
        return _existing(local_path(name))
    if kind in ("http", "https"):
        return _downloaded(name)
    known = "a path, https://, http://, file://, models:/ or runs:/"
    raise CheckpointError(f"cannot read networks from {shown_url(name)}: expected {known}")


def is_network(source: str | os.PathLike[str]) -> bool:
    """Whether ``source`` is a network by its form, and no set of images; nothing is read of it.

    A network is a name, a ``models:/`` or ``runs:/`` address, a .pkl or .safetensors file, or a
    folder that ``load_networks`` takes.
    """
    name = os.fspath(source)
    scheme = _SCHEME.match(name)
    if scheme is not None and scheme[1].lower() in _REGISTRY_SCHEMES:
        return True
    if named_network(name) is not None or name.endswith((".pkl", SUFFIX)):
        return True
    folder = Path(name).expanduser()
    has_snapshot = folder.is_dir() and next(folder.glob("*.pkl"), None) is not None
    return has_snapshot or (folder / "artifacts" / DESCRIPTION_NAME).is_file()


def package_generator(
    network: nn.Module,
    folder: Path,
    *,
    training_set: dict[str, Any],
    metrics: dict[str, Any],
    snapshot_sha256: str,
) -> Package:
    """Write a generator's weights and description into ``folder``.

    Args:
        network: a generator of ``sg3flow.networks``.
        training_set: description of the training set from the snapshot, with its license.
        metrics: its metrics, by name.
        snapshot_sha256: digest of its snapshot.

    Raises:
        CheckpointError: a value is not a primitive.
        OSError: writing failed.
    """
    entry = network_entry(network)
    weights = _weights(entry)
    digest = hashlib.sha256(weights).hexdigest()
    description = {
        "format": FORMAT,
        "class_name": entry["class_name"],
        "init_kwargs": entry["init_kwargs"],
        "training_set": training_set,
        "metrics": metrics,
        "snapshot_sha256": snapshot_sha256,
        "weights_sha256": digest,
    }
    write_bytes(folder / WEIGHTS_NAME, weights)
    write_json(folder / DESCRIPTION_NAME, description)
    return Package(folder / WEIGHTS_NAME, folder / DESCRIPTION_NAME, digest)


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights, the same in every format that holds them.

    It is the digest of the packaged weights and the tag ``sg3flow.weights_sha256`` of a version.
    """
    return hashlib.sha256(_weights(network_entry(network))).hexdigest()


def _weights(entry: Mapping[str, Any]) -> bytes:
    """The weights as safetensors; equal weights give equal bytes."""
    # Contiguous, because safetensors refuses other layouts.
    content: bytes = save({n: tensor.contiguous() for n, tensor in entry["state_dict"].items()})
    return content


def load_packaged(weights: Path, description: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The generator of a package, in evaluation mode on the CPU, and its description.

    Raises:
        CheckpointError: a file is missing or damaged, or the two do not belong together.
    """
    content = _read_description(description)
    try:
        data = weights.read_bytes()
        state = load(data)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(_unusable(weights, error)) from None
    if content.get("weights_sha256") != hashlib.sha256(data).hexdigest():
        raise CheckpointError(f"{weights} is not the file that {description.name} describes")
    entry = {key: content.get(key) for key in ("class_name", "init_kwargs")}
    network = build_network(entry | {"state_dict": state}, str(weights))
    check_role("G_ema", type(network).__name__, str(description))
    return network, content


def _from_snapshot(path: Path) -> Networks:
    content = read_snapshot(path)
    pipe = AugmentPipe(**AUGMENT_PRESETS["bgc"])
    pipe.p.fill_(content["augment_p"])
    return Networks(
        G=build_network(content["G"], f"{path}: G"),
        D=build_network(content["D"], f"{path}: D"),
        G_ema=build_network(content["G_ema"], f"{path}: G_ema"),
        augment_pipe=pipe,
        training_set=content["training_set"],
        progress=content["progress"],
    )


def _from_bundled(path: Path) -> Networks:
    content = read_bundled(path)
    G_ema = build_network(content["G_ema"], f"{path}: G_ema")
    return Networks(
        G=G_ema,
        D=None if content["D"] is None else build_network(content["D"], f"{path}: D"),
        G_ema=G_ema,
        training_set=content["training_set"],
        progress=content["progress"],
    )


def _from_public_pickle(path: Path) -> Networks:
    content = read_public_pickle(path)
    G, D, G_ema = (
        build_network(content[key], f"{path}: {key}") if content[key] else None
        for key in ("G", "D", "G_ema")
    )
    return Networks(
        G=G,
        D=D,
        G_ema=G_ema,
        augment_pipe=_public_augment_pipe(content["augment_pipe"], path),
        training_set=_known(content, "training_set", path) or content["training_set_kwargs"],
        progress=_known(content, "progress", path),
    )


def _known(content: dict[str, Any], key: str, path: Path) -> dict[str, Any] | None:
    """What a file of ``nvidia_pickle.py`` knows besides the networks; None: nothing."""
    value = content["sg3flow"].get(key)
    return None if value is None else primitive_dict(value, f"{path}: sg3flow.{key}")


def _public_augment_pipe(entry: Mapping[str, Any] | None, path: Path) -> AugmentPipe | None:
    if entry is None:
        return None
    try:
        pipe = AugmentPipe(**entry["init_kwargs"])
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: augment_pipe refuses its arguments: {error}") from None
    pipe.p.fill_(entry["p"])
    return pipe


def _from_folder(folder: Path) -> Networks:
    """A registered model (``artifacts/generator.json``), or a folder with one snapshot."""
    package = folder / "artifacts"
    if (package / DESCRIPTION_NAME).is_file():
        G_ema, description = load_packaged(package / WEIGHTS_NAME, package / DESCRIPTION_NAME)
        directions = package / DIRECTIONS_NAME
        return Networks(
            G_ema=G_ema,
            training_set=description["training_set"],
            directions_file=directions if directions.is_file() else None,
        )
    snapshots = sorted(folder.glob("*.pkl"))
    if len(snapshots) != 1:
        found = ", ".join(path.name for path in snapshots[-5:]) or "none"
        if str(folder) in NETWORKS:
            raise CheckpointError(
                f"{folder} is a folder here, which goes before the network of that name, and holds "
                "no network; rename it, or work in another folder"
            )
        raise CheckpointError(
            f"{folder} has neither artifacts/{DESCRIPTION_NAME} nor exactly one *.pkl ({found}); "
            "name the file"
        )
    return load_networks(snapshots[0])


def _existing(path: Path) -> Path:
    try:
        if path.exists():
            return path
        names = _names_beside(path)
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise CheckpointError(
            f"cannot read {cut(str(path), _MAX_PATH)}: {error.strerror}"
        ) from None
    hint = nearest(path.name, names)
    if path.parent == Path() and (near := near_names(path.name)):
        raise CheckpointError(
            f"no file and no network is called {cut(path.name)}{hint}; networks with names like "
            f"it: {', '.join(near)} (`sg3flow networks` lists all)"
        )
    pickles = [name for name in names if name.endswith(".pkl")][-_MAX_NAMES:]
    if not hint and pickles:
        hint = f"; found: {', '.join(pickles)}"
    raise CheckpointError(f"no file {path}{hint}")


def _names_beside(path: Path) -> list[str]:
    """The names in the folder of a missing file."""
    folder = path.parent
    if not folder.is_dir():
        raise CheckpointError(f"no file {path}: the folder {folder} does not exist")
    return sorted(entry.name for entry in folder.iterdir())


def _downloaded(url: str, sha256: str | None = None) -> Path:
    return cached(url, cached_name(url), sha256)


def cached_name(url: str) -> str:
    """The file name in the cache folder of the file at ``url``."""
    # Different addresses can have the same file name, so the cached name includes a digest.
    return f"{address_mark(url)[:12]}-{url_file_name(url)}"


def _file_of(network: NamedNetwork) -> Path:
    if network.bundled is not None:
        return network.bundled
    is_new = not (cache_folder() / cached_name(network.address)).exists()
    path = _downloaded(network.address, network.sha256 or None)
    if is_new:
        note = "" if network.sha256 else ", recorded at this first download as none is published"
        digest = f"SHA-256 {sha256_file(path)}{note}"
        print(f"{network.name}: {network.license}, {network.terms}; {digest}", file=sys.stderr)
    return path


def _resolved(kind: str, uri: str) -> Path:
    if kind not in RESOLVERS:
        raise CheckpointError(
            f"{kind}:/ addresses need MLflow, which is not loaded: {shown_url(uri)}"
        )
    return RESOLVERS[kind](uri)


def _read_description(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(_unusable(path, error)) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} does not describe a generator (format {FORMAT})")
    if not isinstance(content.get("training_set"), dict):
        raise CheckpointError(f"{path} does not describe the training set of the generator")
    return content


def _unusable(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return f"{path.parent} has no usable generator: {path.name}: {reason}"
