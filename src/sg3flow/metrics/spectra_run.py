"""Average power spectra of networks and image sets beside that of the reals, and their files."""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sg3flow.addresses import shown_url
from sg3flow.checkpoints import load_networks
from sg3flow.checkpoints.loading import is_network
from sg3flow.config import SpectraConfig
from sg3flow.data.archive import PackedSet
from sg3flow.device import open_device
from sg3flow.errors import ConfigError, MetricError, cut
from sg3flow.files import write_bytes, write_json, write_text
from sg3flow.metrics.evaluation import ImageSet, find_snapshots
from sg3flow.metrics.evaluation_run import set_of_network
from sg3flow.metrics.generation import CHUNK, Latents, generate_images, num_chunks
from sg3flow.metrics.power_spectra import (
    Deviation,
    PixelStats,
    RunningSpectrum,
    Spectrum,
    deviation,
    pixel_stats,
)
from sg3flow.metrics.reference_set import Pictures, image_batches
from sg3flow.output_checks import check_replaceable, folder_marked
from sg3flow.precision import computing
from sg3flow.progress import progress
from sg3flow.runs.run_folder import list_snapshots

FORMAT = "sg3flow-spectra-1"
REPORT_NAME, TABLE_NAME = "spectra.json", "slices.csv"
HEAT_MAP_NAME, SLICES_NAME = "heatmap.png", "slices.png"
REALS = "reals"
_MOST_SIDE = 8192  # of a transform: 0.5 GiB per channel


@dataclass(frozen=True)
class Series:
    """One average spectrum.

    Attributes:
        name: of its files and columns; ``reals`` for the reals.
        source: where the images come from, for people.
        deviation: from the reals; None: these are the reals, or there are none.
    """

    name: str
    source: str
    spectrum: Spectrum
    deviation: Deviation | None = None


@dataclass(frozen=True)
class Spectra:
    """The reals, if they are known, and all sources.

    Attributes:
        stats: mean and deviation that normalize all images.
    """

    series: tuple[Series, ...]
    stats: PixelStats
    data: PackedSet | ImageSet

    @property
    def measured(self) -> list[Series]:
        """All but the reals."""
        return [each for each in self.series if each.name != REALS]


@dataclass(frozen=True)
class _Source:
    """What one ``--source`` names; ``images`` is None for a network."""

    name: str
    given: str
    place: str
    images: ImageSet | None


def check_folder(outdir: Path) -> None:
    """Check that a folder of spectra can be written there.

    Raises:
        DataError: it has other files.
    """
    check_replaceable(outdir, folder_marked(REPORT_NAME, FORMAT), "a folder of spectra", "--outdir")


def measure_spectra(config: SpectraConfig, given: Sequence[str], data: Path | None) -> Spectra:
    """The average power spectra of sources and reals.

    Args:
        given: networks (file, URL, ``models:/…``, ``runs:/…``, name), run folders (their newest
            snapshot), or folders, zip and tar files of images.
        data: the reals; None: those that the first network was trained on, or else none, and the
            images of the first source give mean and deviation.

    Raises:
        ConfigError: no source, or two of one name.
        MetricError, DataError, CheckpointError: a source cannot be read, or has another size.
    """
    sources = _sources(given)
    networks = [source for source in sources if source.images is None]
    reals = _reals(data, networks)
    base = reals or sources[0].images
    assert base is not None  # without networks, all sources are images
    device = open_device(config.device)
    side = _side(base, config.interp)
    with computing():
        indices = _sample(base.num_images, config.num)
        stats = pixel_stats(image_batches(base, config.batch, indices))

        def spectrum(batches: Iterator[torch.Tensor], name: str, count: int) -> Spectrum:
            running = RunningSpectrum(
                side, stats, beta=config.beta, interp=config.interp, device=device
            )
            with progress(f"spectrum of {name}", count) as advance:
                for images in batches:
                    try:
                        running.add(images)
                    except MetricError as error:
                        raise MetricError(f"{name}: {error}") from None
                    advance(len(images))
            return running.result()

        series = []
        real = None
        if reals is not None:
            real = spectrum(image_batches(reals, config.batch, indices), REALS, len(indices))
            series.append(Series(REALS, str(reals.path), real))
        for source in sources:
            batches, count = _batches(source, reals, config, device)
            found = spectrum(batches, source.name, count)
            apart = None if real is None else deviation(found, real)
            series.append(Series(source.name, source.place, found, apart))
    return Spectra(tuple(series), stats, base)


def write_spectra(outdir: Path, spectra: Spectra, config: SpectraConfig) -> list[Path]:
    """Write the spectra (npz), their slices (CSV) and the report (JSON); returns their paths."""
    paths = [outdir / f"{each.name}.npz" for each in spectra.series]
    for path, each in zip(paths, spectra.series, strict=True):
        write_bytes(path, _npz(each.spectrum, spectra.stats, config))
    table, report = outdir / TABLE_NAME, outdir / REPORT_NAME
    write_text(table, slices_table(spectra.series))
    write_json(report, _report(spectra, config))
    return [*paths, table, report]


def slices_table(series: Sequence[Series]) -> str:
    """Horizontal and diagonal slices in dB by frequency, as CSV for ``dvc plots``."""
    frequencies = series[0].spectrum.slices()[0]
    columns = {"frequency": frequencies}
    for each in series:
        _, horizontal, diagonal = each.spectrum.slices()
        columns |= {f"{each.name}_0": horizontal, f"{each.name}_45": diagonal}
    rows = [",".join(columns)]
    rows += [",".join(f"{v:.6g}" for v in row) for row in zip(*columns.values(), strict=True)]
    return "\n".join(rows) + "\n"


def deviation_words(each: Series) -> str:
    """A line about a source, for people."""
    count = f"{each.spectrum.num_images:,} images"
    if each.deviation is None:
        return f"{each.name}  {count}"
    found = each.deviation
    noise = f" (noise {found.noise:.2f} dB)" if math.isfinite(found.noise) else ""
    return f"{each.name}  {found.decibels:.2f} dB from the reals{noise}, {count}"


def _sources(given: Sequence[str]) -> list[_Source]:
    if not given:
        raise ConfigError("give what to measure, as --source NETWORK or --source FOLDER")
    found = [_source(each) for each in given]
    names = [source.name for source in found]
    for source in found:
        if source.name == REALS or names.count(source.name) > 1:
            others = [f"{other.name}-{number}" for number, other in enumerate(found, 1)]
            return [
                _Source(name, each.given, each.place, each.images)
                for name, each in zip(others, found, strict=True)
            ]
    return found


def _source(given: str) -> _Source:
    path = Path(given)
    if path.is_dir() and list_snapshots(path):
        newest = find_snapshots(path)[-1]
        return _Source(_named(newest.stem), str(newest), str(newest), None)
    if is_network(given) or not path.exists():
        return _Source(_named(Path(shown_url(given)).stem), given, shown_url(given), None)
    return _Source(_named(path.stem), given, str(path), ImageSet(path))


def _named(text: str) -> str:
    """A name for files and columns."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:60] or "source"


def _reals(data: Path | None, networks: Sequence[_Source]) -> PackedSet | ImageSet | None:
    if networks:
        return PackedSet(data) if data is not None else set_of_network(networks[0].given)
    return None if data is None else ImageSet(data)


def _side(images: Pictures, interp: int) -> int:
    height, width = images.image(0).shape[:2]
    if height != width:
        raise MetricError(
            f"the first image of {images.path} has {width}x{height} pixels; spectra are of squares"
        )
    if height * interp > _MOST_SIDE:
        raise MetricError(
            f"{height} pixels with --interp {interp} make transforms of {height * interp:,} points "
            f"a side, more than {_MOST_SIDE:,}; give a smaller --interp"
        )
    return int(height)


def _sample(count: int, most: int) -> Sequence[int]:
    """At most ``most`` of ``count`` images, the same for every call."""
    if count <= most:
        return range(count)
    drawn = np.random.RandomState(0).permutation(count)[:most]
    return sorted(drawn.tolist())


def _batches(
    source: _Source,
    reals: PackedSet | ImageSet | None,
    config: SpectraConfig,
    device: torch.device,
) -> tuple[Iterator[torch.Tensor], int]:
    if source.images is not None:
        indices = _sample(source.images.num_images, config.num)
        return image_batches(source.images, config.batch, indices), len(indices)
    assert isinstance(reals, PackedSet)
    return _generated(source, reals, config, device), config.num


def _generated(
    source: _Source, reals: PackedSet, config: SpectraConfig, device: torch.device
) -> Iterator[torch.Tensor]:
    """Images of G_ema, the first ones of the seed as for other metrics."""
    G: Any = load_networks(source.given).G_ema
    if G is None:
        raise MetricError(f"{source.place} has no G_ema, the network to measure")
    G = G.to(device).eval()
    latents = Latents(G, reals, config.seed)
    for index in range(num_chunks(config.num)):
        z, c = latents.chunk(index, min(config.num - index * CHUNK, CHUNK))
        for part in zip(torch.split(z, config.batch), torch.split(c, config.batch), strict=True):
            yield generate_images(G, *part)


def _npz(spectrum: Spectrum, stats: PixelStats, config: SpectraConfig) -> bytes:
    stream = io.BytesIO()
    size = len(spectrum.power)
    np.savez_compressed(
        stream,
        power_db=spectrum.full_decibels().astype(np.float32),
        frequency=np.fft.fftshift(np.fft.fftfreq(size)),
        num_images=spectrum.num_images,
        image_size=spectrum.side,
        mean=stats.mean,
        std=stats.std,
        beta=config.beta,
        interp=config.interp,
    )
    return stream.getvalue()


def _report(spectra: Spectra, config: SpectraConfig) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "data": {"path": str(spectra.data.path), "sha256": spectra.data.digest},
        "mean": spectra.stats.mean,
        "std": spectra.stats.std,
        "beta": config.beta,
        "interp": config.interp,
        "seed": config.seed,
        "spectra": [_row(each) for each in spectra.series],
    }


def _row(each: Series) -> Mapping[str, Any]:
    found = each.deviation
    noise = found.noise if found is not None and math.isfinite(found.noise) else None
    return {
        "name": each.name,
        "source": cut(each.source),
        "num_images": each.spectrum.num_images,
        "deviation_db": None if found is None else found.decibels,
        "noise_db": noise,
    }
