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


FORMATS = {
    each.name: each
    for each in (
        ExportFormat("torchscript", ".pt", "for PyTorch alone", _is_torchscript, _torchscript),
        ExportFormat("onnx", ".onnx", "for onnxruntime and others", _is_onnx, _onnx),
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
