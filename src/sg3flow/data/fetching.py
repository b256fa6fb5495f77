"""Fetch raw images: known data sets, files, folders and URLs, or the drawn starter set."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from sg3flow.addresses import address_mark, is_url, local_path, shown_url, url_file_name
from sg3flow.config import FetchConfig
from sg3flow.data.extraction import extract_tar, extract_zip
from sg3flow.data.raw_images import (
    FORMAT,
    SOURCE_NAME,
    count_images,
    folder_digest,
    inherited_terms,
    regular_files,
)
from sg3flow.data.readers.listing import is_single_file_source
from sg3flow.data.readers.tar_reader import is_tar
from sg3flow.data.starter.drawing import draw_starter
from sg3flow.downloads import cached_from, checked_digest, proving
from sg3flow.errors import ConfigError, DataError, nearest
from sg3flow.files import atomic_folder, check_room, sha256_file, write_json
from sg3flow.output_checks import check_replaceable, folder_marked
from sg3flow.progress import tracked
from sg3flow.transfers import RetryPolicy

_AFHQ_CITATION = (
    "Choi, Uh, Yoo, Ha: StarGAN v2: Diverse Image Synthesis for Multiple Domains, CVPR 2020"
)
_STARTER_LICENSE = "Apache-2.0"
_AFHQ_LICENSE = "CC BY-NC 4.0 (NAVER Corp.)"


@dataclass(frozen=True)
class KnownSet:
    """A zip file that can be fetched by name; ``counts`` is its number of images per folder."""

    name: str
    url: str
    file_name: str
    sha256: str | None  # None: not published; later downloads must match the first
    size: str
    license: str
    citation: str
    counts: dict[str, int] = field(hash=False)


KNOWN_SETS = {
    "afhq": KnownSet(
        name="afhq",
        url="https://www.dropbox.com/s/t9l9o3vsx2jai3z/afhq.zip?dl=1",
        file_name="afhq.zip",
        sha256="7f63dcc14ef58c0e849b59091287e1844da97016073aac20403ae6c6132b950f",
        size="729,484,677 bytes",
        license=_AFHQ_LICENSE,
        citation=_AFHQ_CITATION,
        counts={
            "afhq/train/cat": 5153,
            "afhq/train/dog": 4739,
            "afhq/train/wild": 4738,
            "afhq/val/cat": 500,
            "afhq/val/dog": 500,
            "afhq/val/wild": 500,
        },
    ),
    # Unlike version 1, it has no top folder, and its second split is "test", not "val".
    "afhqv2": KnownSet(
        name="afhqv2",
        url="https://www.dropbox.com/s/vkzjokiwof5h8w6/afhq_v2.zip?dl=1",
        file_name="afhq_v2.zip",
        sha256=None,
        size="about 7 GB",
        license=_AFHQ_LICENSE,
        citation=_AFHQ_CITATION,
        counts={
            "test/cat": 493,
            "test/dog": 491,
            "test/wild": 483,
            "train/cat": 5065,
            "train/dog": 4678,
            "train/wild": 4593,
        },
    ),
}


def known_by_digest(sha256: str) -> KnownSet | None:
    """The known set whose zip file has this SHA-256, wherever it came from."""
    return next((known for known in KNOWN_SETS.values() if known.sha256 == sha256), None)


def check_request(dest: Path, config: FetchConfig) -> None:
    """Check the settings before any work starts.

    Raises:
        ConfigError: the dataset is no known name, existing file or folder, or URL.
        DataError: ``dest`` exists and was not made by an earlier fetch.
    """
    is_ours = folder_marked(SOURCE_NAME, FORMAT)
    check_replaceable(dest.resolve(), is_ours, "a folder of fetched pictures", "--dest")
    if config.sha256:
        checked_digest(config.sha256)
    if config.dataset != "starter" and config.dataset not in KNOWN_SETS:
        source = _local_source(config.dataset)
        if source and (not config.dataset or not source.exists()):
            raise ConfigError(_unknown(config.dataset))


def fetch_images(
    dest: Path, config: FetchConfig, policy: RetryPolicy | None = None
) -> dict[str, Any]:
    """Fetch raw images into the folder ``dest``; returns the content of its ``SOURCE.json``.

    An earlier fetch at ``dest`` is replaced; any other content there is an error. Files keep their
    paths relative to the source.

    Raises:
        ConfigError: as ``check_request``.
        DataError: as ``check_request``; also if the source is unreachable, is not the expected one
            or is unsafe.
    """
    check_request(dest, config)
    dest = dest.resolve()  # keep a link, e.g. to a larger disk
    expected = checked_digest(config.sha256) if config.sha256 else None
    if config.dataset == "starter":
        return _fetch_starter(dest, config, expected)
    if config.dataset in KNOWN_SETS:
        return _fetch_known(dest, KNOWN_SETS[config.dataset], config.mirrors, expected, policy)
    if source := _local_source(config.dataset):
        return _fetch_local(dest, source, expected)
    return _fetch_url(dest, (config.dataset, *config.mirrors), expected, policy)


def _local_source(dataset: str) -> Path | None:
    """The file or folder that ``dataset`` names; None: it is a URL on the network."""
    if dataset.lower().startswith("file://"):
        return local_path(dataset)
    return None if is_url(dataset) else _expanded(dataset)


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # "~name" of an unknown user
        return Path(path)


def _fetch_starter(dest: Path, config: FetchConfig, expected: str | None) -> dict[str, Any]:
    with atomic_folder(dest) as work:
        draw_starter(work, images=config.images, resolution=config.resolution, seed=config.seed)
        origin = (
            f"drawn: images {config.images}, resolution {config.resolution}, seed {config.seed}"
        )
        files = regular_files(work)
        terms = {"licence": _STARTER_LICENSE, "citation": None}
        return _finish(work, "starter", origin, *folder_digest(work, files), terms, expected)


def _fetch_known(
    dest: Path,
    known: KnownSet,
    mirrors: tuple[str, ...],
    expected: str | None,
    policy: RetryPolicy | None,
) -> dict[str, Any]:
    urls = (known.url, *mirrors)
    try:
        path, url = cached_from(urls, known.file_name, expected or known.sha256, policy=policy)
    except DataError as error:
        digest_hint = f", SHA-256 {known.sha256}" if known.sha256 else ""
        raise DataError(
            f"{error}; or pass your own copy of {known.file_name} ({known.size}{digest_hint}): "
            "--dataset FILE.zip, a folder, or the URL of a mirror"
        ) from None
    with proving(path):
        return _unpack(dest, path, shown_url(url), known.file_name, expected, known)


def _fetch_url(
    dest: Path, urls: tuple[str, ...], expected: str | None, policy: RetryPolicy | None
) -> dict[str, Any]:
    mark = address_mark(urls[0])[:12]
    file_name = url_file_name(urls[0])
    path, url = cached_from(urls, f"{mark}-{file_name}", expected, policy=policy)
    with proving(path):
        return _unpack(dest, path, shown_url(url), file_name, expected, None)


def _fetch_local(dest: Path, source: Path, expected: str | None) -> dict[str, Any]:
    source = source.resolve()
    if source.is_dir():
        return _copy_folder(dest, source, expected)
    if not source.is_file():
        raise DataError(f"{source} is neither a file nor a folder; pass another --dataset")
    if dest in source.parents:
        raise DataError(f"{source} is inside {dest}, which would be replaced; move it out first")
    return _unpack(dest, source, source.name, source.name, expected, None)


def _unpack(
    dest: Path,
    path: Path,
    origin: str,
    file_name: str,
    expected: str | None,
    known: KnownSet | None,
) -> dict[str, Any]:
    """Unpack the file ``path``, whose name at its origin is ``file_name``, into ``dest``."""
    name = PurePosixPath(file_name).stem.removesuffix(".tar")
    digest = sha256_file(path)
    _check_digest(origin, digest, expected)
    known = known or known_by_digest(digest)
    with atomic_folder(dest) as work:
        _extract(path, file_name, work)
        terms = inherited_terms(work, origin)
        if known:
            name = known.name
            terms = {"licence": known.license, "citation": known.citation}
        source = _finish(work, name, origin, path.stat().st_size, digest, terms, expected)
        if known and source["counts"] != known.counts:
            raise DataError(
                f"{path} is not the whole set {known.name}: it holds {source['counts']} images, "
                f"not {known.counts}; remove it and fetch again"
            )
    return source


def _extract(path: Path, file_name: str, work: Path) -> None:
    """Unpack an archive; copy a file that is a source by itself (Parquet, CIFAR-10, MNIST)."""
    name = PurePosixPath(file_name)
    if is_single_file_source(name) or name.suffix.lower() == ".parquet":
        check_room(work, path.stat().st_size)
        shutil.copyfile(path, work / file_name)
    elif is_tar(name):
        extract_tar(path, work)
    else:
        extract_zip(path, work)


def _copy_folder(dest: Path, source: Path, expected: str | None) -> dict[str, Any]:
    if dest == source or dest in source.parents or source in dest.parents:
        raise DataError(f"{source} and {dest} must not contain each other; pass another --dest")
    files = regular_files(source)
    with atomic_folder(dest) as work:
        for name in tracked(files, f"copying {source.name}", len(files)):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, work / name, follow_symlinks=False)
        terms = inherited_terms(work, source.name)
        counted = folder_digest(work, [name for name in files if name != SOURCE_NAME])
        return _finish(work, source.name, source.name, *counted, terms, expected)


def _finish(
    work: Path,
    dataset: str,
    origin: str,
    num_bytes: int,
    digest: str,
    terms: Mapping[str, str | None],
    expected: str | None,
) -> dict[str, Any]:
    """Check and count the fetched images, and write their SOURCE.json."""
    _check_digest(origin, digest, expected)
    try:
        counts, ignored = count_images(work)
    except DataError as error:  # the message names the temporary folder
        raise DataError(str(error).replace(str(work), origin)) from None
    source = {
        "format": FORMAT,
        "dataset": dataset,
        "origin": origin,
        "bytes": num_bytes,
        "sha256": digest,
        **terms,
        "counts": counts,
    } | ({"ignored": ignored} if ignored else {})
    write_json(work / SOURCE_NAME, source)
    return source


def _check_digest(origin: str, digest: str, expected: str | None) -> None:
    if expected and digest != expected:
        raise DataError(
            f"the SHA-256 of {origin} is {digest}, not {expected} as expected; fetch it again"
        )


def _unknown(dataset: str) -> str:
    names = ("starter", *KNOWN_SETS)
    if "://" in dataset and not is_url(dataset):
        shown = shown_url(dataset)
        return f"cannot fetch from '{shown}'; give an https://, http:// or file:// URL"
    if "/" in dataset or PurePosixPath(dataset).suffix:
        return f"there is no file or folder {dataset}; pass an existing one as --dataset"
    return (
        f"'{dataset}' is neither a known data set{nearest(dataset, names)} nor a file or folder; "
        f"give one of {', '.join(names)}, a folder, a zip, tar or Parquet file, or its URL"
    )
