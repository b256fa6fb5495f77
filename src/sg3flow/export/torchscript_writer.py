"""TorchScript: a traced module that PyTorch runs without sg3flow, in Python and C++."""

import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch

from sg3flow.export.export_source import ExportSource
from sg3flow.export.facts import FACTS_NAME, facts_of
from sg3flow.export.plain_generator import PlainGenerator, random_inputs
from sg3flow.export.self_check import Images, Inputs, check_file


def write_torchscript(source: ExportSource, stream: BinaryIO) -> str:
    """Write the generator of a source as TorchScript, after a comparison with the network.

    The inputs of the module are positional, in the order that ``inputs`` of the facts names; the
    facts are the extra file ``sg3flow.json`` of the archive.

    Raises:
        CheckpointError: the traced module does not compute what the network does.
    """
    plain = PlainGenerator(source.G)
    examples = random_inputs(plain, [0, 1])
    facts = json.dumps(facts_of(source, plain), indent=2, ensure_ascii=False)
    with _deprecated(), torch.no_grad():
        # The trace itself is compared below, with other inputs and another batch.
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            plain, _tensors(examples), check_trace=False
        )
        archive = io.BytesIO()
        torch.jit.save(traced, archive, _extra_files={FACTS_NAME: facts})
        content = _without_paths(archive)
        loaded = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
    stream.write(content)

    def run(inputs: Inputs) -> Images:
        with torch.no_grad():
            images: Images = loaded(*_tensors(inputs)).numpy()
        return images

    return check_file(run, source.G, plain, "TorchScript")


def is_torchscript_export(path: Path) -> bool:
    """Whether a file is TorchScript that `write_torchscript` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(f"/extra/{FACTS_NAME}") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _without_paths(archive: io.BytesIO) -> bytes:
    """The archive without its debug information, which names source files of this machine."""
    kept = io.BytesIO()
    with zipfile.ZipFile(archive) as reader, zipfile.ZipFile(kept, "w") as writer:
        for name in reader.namelist():
            if not name.endswith(".debug_pkl"):
                writer.writestr(zipfile.ZipInfo(name), reader.read(name))  # of a fixed date
    return kept.getvalue()


def _tensors(inputs: Inputs) -> tuple[torch.Tensor, ...]:
    return tuple(map(torch.from_numpy, inputs.values()))


@contextmanager
def _deprecated() -> Iterator[None]:
    """PyTorch calls TorchScript deprecated with each use; the format was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".torch\.jit\.\w+. is deprecated", DeprecationWarning)
        yield
