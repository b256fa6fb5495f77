"""ONNX: a file that onnxruntime, OpenVINO and other programs run without PyTorch."""

import importlib.metadata
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

import sg3flow
from sg3flow.errors import CheckpointError, ConfigError, cut
from sg3flow.export.export_source import ExportSource
from sg3flow.export.facts import facts_of
from sg3flow.export.plain_generator import OUTPUT, PlainGenerator, random_inputs
from sg3flow.export.self_check import Images, Inputs, check_file

OPSET = 18
_PACKAGES = ("onnx", "onnxscript")
_PRODUCER = "sg3flow"
_HEAD_BYTES = 64  # the producer is the second field of a file
_MOST_BYTES = 2**31 - 2**24  # of weights: a file of protobuf has less than 2 GiB
# Larger constants are not computed ahead: they would be filters repeated for each channel.
_MOST_FOLDED = 1024


def write_onnx(source: ExportSource, stream: BinaryIO) -> str:
    """Write the generator of a source as ONNX, after a comparison where onnxruntime is installed.

    Inputs and output have the names, shapes and meaning of `PlainGenerator`; the batch is free. The
    facts are the metadata of the file.

    Raises:
        ConfigError: the packages that write ONNX are not installed.
        CheckpointError: the file does not compute what the network does, or would be too large.
    """
    require_packages(_PACKAGES, "onnx")
    plain = PlainGenerator(source.G)
    size = sum(tensor.nbytes for tensor in plain.buffers())
    if size > _MOST_BYTES:
        raise CheckpointError(f"ONNX files have less than 2 GiB, the weights {size:,} bytes")
    content = onnx_bytes(plain, facts_of(source, plain))
    stream.write(content)
    if importlib.util.find_spec("onnxruntime") is None:
        return "not compared with the network: onnxruntime is not installed"
    return check_file(_session(content), source.G, plain, "onnxruntime")


def require_packages(names: tuple[str, ...], form: str) -> None:
    """Raise ConfigError if packages that write a format are not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the format {form} needs the packages {' and '.join(names)} (missing: "
            f"{', '.join(missing)}): pip install 'sg3flow[export]'"
        )


def onnx_bytes(plain: PlainGenerator, facts: dict[str, str]) -> bytes:
    """The content of an ONNX file of a generator."""
    # Of two images: the exporter takes a batch of one for a constant.
    examples = tuple(map(torch.from_numpy, random_inputs(plain, [0, 1]).values()))
    batch = torch.export.Dim("batch")
    free = tuple({0: batch} if "batch" in s else {} for s in plain.shapes("batch").values())
    with _quiet():
        import onnxscript

        try:
            program = torch.onnx.export(
                plain,
                examples,
                dynamo=True,
                input_names=plain.inputs,
                output_names=[OUTPUT],
                dynamic_shapes=(free,),
                opset_version=OPSET,
                optimize=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise CheckpointError(_failure(error)) from error
        assert program is not None
        model: Any = program.model
        onnxscript.optimizer.optimize(model, output_size_limit=_MOST_FOLDED)
        _describe(model, facts)
        content: bytes = program.model_proto.SerializeToString()
    return content


def _failure(error: Exception) -> str:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", *_PACKAGES)]
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
    return (
        f"{', '.join(versions)} do not export this network ({cut(reason, 200)}); try "
        "pip install -U 'sg3flow[export]'"
    )


def is_onnx_export(path: Path) -> bool:
    """Whether a file is ONNX that `write_onnx` wrote: by its producer, the second field."""
    field = b"\x12" + bytes([len(_PRODUCER)]) + _PRODUCER.encode()
    with path.open("rb") as stream:
        return field in stream.read(_HEAD_BYTES)


def _describe(model: Any, facts: dict[str, str]) -> None:
    """Add the facts; remove what the exporter notes of the source code of each node."""
    model.producer_name, model.producer_version = _PRODUCER, sg3flow.__version__
    model.graph.name = "generator"
    model.metadata_props.clear()
    model.metadata_props.update(facts)
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None


def _session(content: bytes) -> Any:
    """A function from inputs by name to images, computed by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])

    def run(inputs: Inputs) -> Images:
        images: Images = session.run([OUTPUT], dict(inputs))[0]
        return images

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter logs and warns of; what it made is compared afterwards."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
