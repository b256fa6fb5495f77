"""Compares files that two runs wrote: by their values, and says whether the bytes agree too.

A file's content becomes *leaves*: the path of each value in it, and the value as text (for a tensor
its dtype, its shape and the SHA-256 of its bytes). Two contents are equal when their leaves are.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

Leaves = dict[str, str]
Names = Literal["same", "old", "common"]

_SHOWN = 3  # names in a note


@dataclass(frozen=True)
class Row:
    """One line of the result: what was compared, a digest of each side, and the verdict."""

    thing: str
    old: str
    new: str
    equal: bool
    note: str = ""


def leaves_of(content: Any, where: str = "") -> Leaves:
    """Every value of nested dicts and lists by its path."""
    if isinstance(content, torch.Tensor):
        return {where: _tensor_text(content)}
    if not isinstance(content, Mapping | list | tuple) or not content:
        return {where: repr(content)}
    pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
    leaves: Leaves = {}
    for key, value in pairs:
        leaves |= leaves_of(value, f"{where}.{key}" if where else str(key))
    return leaves


def _tensor_text(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous()
    shape = list(data.shape)
    # As bytes: -0.0 is not 0.0 here, and a NaN is equal to itself.
    content = data.reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{data.dtype} {shape} {hashlib.sha256(content).hexdigest()}"


def compare_leaves(
    thing: str, old: Leaves, new: Leaves, *, note: str = "", names: Names = "same"
) -> Row:
    """Compare two contents; two empty contents count as different.

    Args:
        note: shown if they are equal.
        names: which names must be on both sides. same: all; old: those of ``old``, further ones of
            ``new`` go into the note; common: none, those of one side go into the note.
    """
    if names != "same":
        note = _joined(note, _listed("only in NEW", [name for name in new if name not in old]))
        new = {name: value for name, value in new.items() if name in old}
    if names == "common":
        note = _joined(note, _listed("only in OLD", [name for name in old if name not in new]))
        old = {name: value for name, value in old.items() if name in new}
    changed = [name for name, value in old.items() if name in new and new[name] != value]
    problems = [
        _listed("changed", [f"{name} ({_change(old[name], new[name])})" for name in changed]),
        _listed("missing in NEW", [name for name in old if name not in new]),
        _listed("only in NEW", [name for name in new if name not in old]),
        "" if old else "there is nothing to compare",
    ]
    difference = _joined(*problems)
    return Row(thing, digest_of(old), digest_of(new), not difference, difference or note)


def digest_of(leaves: Leaves) -> str:
    """SHA-256 over the names and values, in the order of the names."""
    lines = "".join(f"{name}={leaves[name]}\n" for name in sorted(leaves))
    return hashlib.sha256(lines.encode()).hexdigest()


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _listed(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{kind}: {', '.join(names[:_SHOWN])}{more}"


def _change(old: str, new: str) -> str:
    return f"{old} -> {new}" if len(old) + len(new) < 60 else "value"


def compare_files(thing: str, old: Path, new: Path) -> Row:
    """Compare bytes."""
    return _compare(thing, old, new, _bytes_row)


def _bytes_row(thing: str, old: Path, new: Path) -> Row:
    digests = _file_digest(old), _file_digest(new)
    sizes = f"{old.stat().st_size} and {new.stat().st_size} bytes"
    equal = digests[0] == digests[1]
    return Row(thing, *digests, equal, "" if equal else sizes)


def compare_snapshots(thing: str, old: Path, new: Path) -> Row:
    """Compare every tensor and every plain value of two snapshots, bit for bit."""
    return _compare(thing, old, new, _snapshots_row)


def _snapshots_row(thing: str, old: Path, new: Path) -> Row:
    contents = [torch.load(p, map_location="cpu", weights_only=True) for p in (old, new)]
    tensors = [dict(_tensors(content)) for content in contents]
    bytes_agree = _file_digest(old) == _file_digest(new)
    note = f"{len(tensors[0])} tensors, {'equal' if bytes_agree else 'other'} bytes"
    row = compare_leaves(thing, *map(leaves_of, contents), note=note)
    if row.equal:
        return row
    largest = _largest_difference(*tensors)
    return Row(row.thing, row.old, row.new, False, f"{row.note}; largest difference {largest:.3g}")


def _tensors(content: Any, where: str = "") -> Iterable[tuple[str, torch.Tensor]]:
    if isinstance(content, torch.Tensor):
        yield where, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{where}.{key}")


def _largest_difference(old: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor]) -> float:
    pairs = [(old[name], new[name]) for name in old if name in new]
    same_shape = [(a.double(), b.double()) for a, b in pairs if a.shape == b.shape and a.numel()]
    return max((float((a - b).abs().max()) for a, b in same_shape), default=0.0)


def compare_manifests(thing: str, old: Path, new: Path) -> Row:
    """Compare all rows in the columns that both manifests have; others are named in the note."""
    return _compare(thing, old, new, _manifests_row)


def _manifests_row(thing: str, old: Path, new: Path) -> Row:
    import pyarrow.parquet as pq

    columns = [pq.read_table(path).to_pydict() for path in (old, new)]
    common = [name for name in columns[0] if name in columns[1]]
    note = _joined(
        f"{len(common)} columns",
        _listed("column only in OLD", [name for name in columns[0] if name not in common]),
        _listed("column only in NEW", [name for name in columns[1] if name not in common]),
    )
    leaves = [leaves_of({name: table[name] for name in common}) for table in columns]
    return compare_leaves(thing, *leaves, note=note)


def compare_json(
    thing: str,
    old: Path,
    new: Path,
    *,
    keep: Callable[[str, str], bool] = lambda name, value: True,
    names: Names = "old",
) -> Row:
    """Compare two JSON files, or files of JSON lines.

    Args:
        keep: says for a path and a value (as text) whether to compare it.
        names: as for ``compare_leaves``.
    """

    def row(thing: str, old: Path, new: Path) -> Row:
        sides = [leaves_of(_read_json(path)) for path in (old, new)]
        kept = [{name: v for name, v in side.items() if keep(name, v)} for side in sides]
        return compare_leaves(thing, *kept, note=f"{len(kept[0])} values", names=names)

    return _compare(thing, old, new, row)


def _read_json(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def is_number(name: str, value: str) -> bool:
    """A ``keep`` for ``compare_json``: numbers only, no texts."""
    return value.lstrip("-")[:1].isdigit() or value in ("nan", "inf", "-inf")


def compare_pictures(thing: str, old: Path, new: Path) -> Row:
    """Compare two folders of PNGs: bytes, and where these differ, pixels."""
    return _compare(thing, old, new, _pictures_row)


def _pictures_row(thing: str, old: Path, new: Path) -> Row:
    names = [{p.name: p for p in sorted(folder.glob("*.png"))} for folder in (old, new)]
    files = [{name: _file_digest(path) for name, path in side.items()} for side in names]
    note = f"PNG files: {len(files[0])}"
    row = compare_leaves(thing, *files, note=f"{note}, equal bytes")
    if row.equal or not names[0]:
        return row
    pixels = [{name: _pixels_text(path) for name, path in side.items()} for side in names]
    return compare_leaves(thing, *pixels, note=f"{note}, equal pixels, other bytes")


def _pixels_text(path: Path) -> str:
    with Image.open(path) as image:
        pixels = np.asarray(image)
        return f"{image.mode} {pixels.shape} {hashlib.sha256(pixels.tobytes()).hexdigest()}"


def compare_folders(thing: str, old: Path, new: Path) -> Row:
    """Compare the bytes of all files below two folders, by relative path, SOURCE.json apart."""
    return _compare(thing, old, new, _folders_row)


def _folders_row(thing: str, old: Path, new: Path) -> Row:
    sides = []
    for folder in (old, new):
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "SOURCE.json")
        sides.append({p.relative_to(folder).as_posix(): _file_digest(p) for p in files})
    return compare_leaves(thing, *sides, note=f"{len(sides[0])} files")


def _compare(thing: str, old: Path, new: Path, row: Callable[[str, Path, Path], Row]) -> Row:
    """The row of two paths that exist; one that is missing is a difference."""
    missing = [side for side, path in (("OLD", old), ("NEW", new)) if not path.exists()]
    if missing:
        return Row(thing, "", "", False, f"{' and '.join(missing)} wrote no {old.name}")
    return row(thing, old, new)


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
