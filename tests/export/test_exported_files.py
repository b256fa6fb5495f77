"""TorchScript and ONNX files: the same images without sg3flow, what they say, and their size."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sg3flow.checkpoints import load_networks
from sg3flow.errors import CheckpointError, ConfigError, DataError
from sg3flow.export import onnx_writer, self_check
from sg3flow.export.exporting import export_network, read_source
from sg3flow.export.plain_generator import PlainGenerator, random_inputs
from sg3flow.export.self_check import difference, network_images
from sg3flow.networks import StyleGAN3Generator

KINDS = ("t", "r", "stylegan2")
SMALL = {"img_resolution": 32, "channel_base": 1024, "channel_max": 32}
FACTS = {
    "format": "sg3flow-export-1",
    "source": "network-snapshot-000001.pkl",
    "resolution": "16",
    "channels": "3",
    "inputs": '["z", "label", "psi", "transform"]',
    "output": "image",
    "class_names": '["a cat", "a dog", "wild"]',
    "training_set": "animals",
    "training_set_license": "CC0",
}


def worst_difference(run, G, seeds: range) -> tuple[float, int]:
    """Of images drawn one by one and in pairs."""
    plain = PlainGenerator(G)
    worst, most = 0.0, 0
    for seed in seeds:
        inputs = random_inputs(plain, [seed, seed + 1][: 1 + seed % 2])
        found = run(inputs)
        assert found.shape[0] == 1 + seed % 2 and found.dtype == np.float32
        error, levels = difference(found, network_images(G, inputs))
        worst, most = max(worst, error), max(most, levels)
    return worst, most


def torchscript_run(path: Path):
    with pytest.warns(DeprecationWarning):  # PyTorch's own
        module = torch.jit.load(path)
    return lambda inputs: module(*map(torch.from_numpy, inputs.values())).numpy()


def onnx_run(path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return lambda inputs: session.run(["image"], inputs)[0]


def openvino_run(path: Path):
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: compiled(inputs)[0]


def with_onnx() -> None:
    """Skip without the packages of the extra `export`."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)


@pytest.mark.medium
@pytest.mark.parametrize("kind", KINDS)
def test_torchscript_gives_the_images_of_the_network(network_file, tmp_path, kind):
    source, dest = network_file(kind, c_dim=3), tmp_path / "a.pt"
    written = export_network(source, dest)
    assert written.form == "torchscript" and "checked with TorchScript" in written.checked
    G = load_networks(source).G_ema
    error, levels = worst_difference(torchscript_run(dest), G, range(10, 14))
    assert error < 1e-3 and levels <= 1


@pytest.mark.medium
def test_torchscript_runs_without_sg3flow_and_names_no_folder(network_file, tmp_path):
    source, dest = network_file("t", c_dim=3), tmp_path / "a.pt"
    export_network(source, dest)
    with zipfile.ZipFile(dest) as archive:
        content = b"".join(map(archive.read, archive.namelist()))
        [name] = [each for each in archive.namelist() if each.endswith("extra/sg3flow.json")]
        facts = json.loads(archive.read(name))
    assert facts.items() >= FACTS.items() and len(facts["weights_sha256"]) == 64
    for folder in (Path(onnx_writer.__file__).parent, Path(torch.__file__).parent, tmp_path):
        assert str(folder).encode() not in content
    program = (
        "import sys, torch; module = torch.jit.load(sys.argv[1]); torch.manual_seed(0); "
        "z, label = torch.randn(3, 16), torch.eye(3); "
        "image = module(z, label, torch.tensor(0.7), torch.eye(3)); "
        "print(list(image.shape), 'sg3flow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", program, str(dest)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[3, 3, 16, 16] False\n"


@pytest.mark.medium
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_gives_the_images_of_the_network(network_file, tmp_path, kind):
    with_onnx()
    import onnx

    source, dest = network_file(kind, c_dim=3), tmp_path / "a.onnx"
    written = export_network(source, dest)
    assert "checked with onnxruntime (images: 3)" in written.checked
    G = load_networks(source).G_ema
    error, levels = worst_difference(onnx_run(dest), G, range(10, 14))
    assert error < 1e-3 and levels <= 1
    model = onnx.load(dest)
    onnx.checker.check_model(model, full_check=True)
    facts = {each.key: each.value for each in model.metadata_props}
    inputs = ["z", "label", "psi", *(["transform"] if kind != "stylegan2" else [])]
    assert facts.items() >= (FACTS | {"inputs": json.dumps(inputs)}).items()
    assert facts["weights_sha256"] == written.weights_sha256
    assert [each.name for each in model.graph.input] == inputs
    assert [each.name for each in model.graph.output] == ["image"]
    assert {each.domain for each in model.opset_import} == {""}
    for folder in (Path(onnx_writer.__file__).parent, Path(torch.__file__).parent, tmp_path):
        assert str(folder).encode() not in dest.read_bytes()


def test_a_file_that_differs_is_no_file(network_file, tmp_path, monkeypatch):
    monkeypatch.setattr(self_check, "TOLERANCE", 0.0)
    with pytest.raises(CheckpointError, match="with TorchScript the exported file differs"):
        export_network(network_file("stylegan2"), tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_without_the_packages_onnx_names_the_command(network_file, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_writer, "_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(ConfigError, match=r"no_such_package.*pip install 'sg3flow\[export\]'"):
        export_network(network_file("t"), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_beyond_protobuf_are_refused(network_file, monkeypatch):
    monkeypatch.setattr(onnx_writer, "_PACKAGES", ())
    monkeypatch.setattr(onnx_writer, "_MOST_BYTES", 1000)
    with pytest.raises(CheckpointError, match="less than 2 GiB"):
        onnx_writer.write_onnx(read_source(network_file("t")), io.BytesIO())


def test_only_files_of_sg3flow_are_replaced(network_file, tmp_path):
    source = network_file("t")
    for name in ("a.pt", "a.onnx"):
        foreign = tmp_path / name
        for content in (b"", b"mine", b"PK\x03\x04", b"\x08\x07\x12\x07pytorch"):
            foreign.write_bytes(content)
            with pytest.raises(DataError, match=r"not a file of the format .* not replaced"):
                export_network(source, foreign)
            assert foreign.read_bytes() == content
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(DataError, match=r"the folder .*folder\.pt is not"):
        export_network(source, tmp_path / "folder.pt")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_seeds_in_each_program(network_file, tmp_path, kind):
    with_onnx()
    options = SMALL if kind == "stylegan2" else SMALL | {"num_layers": 14}
    source = network_file(kind, c_dim=3, **options)
    G = load_networks(source).G_ema
    export_network(source, tmp_path / "a.onnx")
    export_network(source, tmp_path / "a.pt")
    runs = [torchscript_run(tmp_path / "a.pt"), onnx_run(tmp_path / "a.onnx")]
    try:
        runs.append(openvino_run(tmp_path / "a.onnx"))
    except pytest.skip.Exception:
        print("openvino is not installed")
    for run in runs:
        error, levels = worst_difference(run, G, range(100))
        print(kind, error, levels)
        assert error < 1e-3 and levels <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "channel_base": 65536,
            "channel_max": 1024,
            "conv_kernel": 1,
            "use_radial_filters": True,
        },
    ],
)
def test_at_default_capacity_a_file_is_little_more_than_the_weights(options):
    with_onnx()
    G = StyleGAN3Generator(512, 0, 512, 256, 3, **options).eval().requires_grad_(False)
    content = onnx_writer.onnx_bytes(PlainGenerator(G), {})
    weights = sum(tensor.nbytes for tensor in G.state_dict().values())
    print(len(content), weights, len(content) / weights)
    assert len(content) <= 1.05 * weights
