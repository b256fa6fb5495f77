"""The formats of ``sg3flow export``, in one table.

Imports no heavy library, as the help of the command lists them. To add a format: a function that
writes a stream, one that recognizes its files, and a row.
"""

from pathlib import Path
from typing import BinaryIO

from sg3flow.errors import ConfigError, cut, nearest
from sg3flow.export.export_source import ExportFormat, ExportSource


def _torchscript(source: ExportSource, stream: BinaryIO) -> str:
    from sg3flow.export.torchscript_writer import write_torchscript

    return write_torchscript(source, stream)


def _is_torchscript(path: Path) -> bool:
    from sg3flow.export.torchscript_writer import is_torchscript_export

    return path.is_file() and is_torchscript_export(path)


def _onnx(source: ExportSource, stream: BinaryIO) -> str:
    from sg3flow.export.onnx_writer import write_onnx

    return write_onnx(source, stream)


def _is_onnx(path: Path) -> bool:
    from sg3flow.export.onnx_writer import is_onnx_export

    return path.is_file() and is_onnx_export(path)


def _nvidia_pickle(source: ExportSource, stream: BinaryIO) -> str:
    from sg3flow.checkpoints.nvidia_pickle import write_nvidia_pickle

    networks = source.networks
    write_nvidia_pickle(
        stream,
        G_ema=source.G,
        G=networks.G,
        D=networks.D,
        training_set=networks.training_set,
        progress=networks.progress,
    )
    if networks.D is None:
        return f"{source.address} has no discriminator: the file has an untrained one in its place"
    return ""


def _is_nvidia_pickle(path: Path) -> bool:
    from sg3flow.checkpoints.nvidia_pickle import is_nvidia_pickle

    return is_nvidia_pickle(path)


def _safetensors(source: ExportSource, stream: BinaryIO) -> str:
    from sg3flow.checkpoints.bundled_network import bundled_bytes

    networks = source.networks
    stream.write(
        bundled_bytes(
            G_ema=source.G,
            D=networks.D,
            training_set=networks.training_set,
            progress=networks.progress,
        )
    )
    return ""


def _is_safetensors(path: Path) -> bool:
    from sg3flow.checkpoints.bundled_network import is_bundled

    return is_bundled(path)


FORMATS = {
    each.name: each
    for each in (
        ExportFormat(
            "nvidia-pkl", ".pkl", "for the official scripts", _is_nvidia_pickle, _nvidia_pickle
        ),
        ExportFormat("torchscript", ".pt", "for PyTorch alone", _is_torchscript, _torchscript),
        ExportFormat("onnx", ".onnx", "for onnxruntime and others", _is_onnx, _onnx),
        ExportFormat(
            "safetensors", ".safetensors", "for any program", _is_safetensors, _safetensors
        ),
    )
}


def find_format(name: str, dest: Path) -> ExportFormat:
    """The format of a name or, without one, of the suffix of a file.

    Raises:
        ConfigError: there is none, or the file ends like one of another format.
    """
    if not name:
        return _of_suffix(dest)
    found = FORMATS.get(name)
    if found is None:
        known = ", ".join(FORMATS)
        raise ConfigError(f"no format '{cut(name)}'{nearest(name, FORMATS)}; there are: {known}")
    if dest.suffix.lower() != found.suffix:
        raise ConfigError(
            f"a file of the format {found.name} ends in {found.suffix}, not '{cut(dest.name)}'"
        )
    return found


def _of_suffix(dest: Path) -> ExportFormat:
    for each in FORMATS.values():
        if dest.suffix.lower() == each.suffix:
            return each
    known = ", ".join(f"{each.name} ({each.suffix})" for each in FORMATS.values())
    raise ConfigError(f"'{cut(dest.name)}' does not tell the format; give --format: {known}")
