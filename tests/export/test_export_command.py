"""``sg3flow export`` on the command line: formats, names, and what a wrong argument says."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sg3flow.cli.commands import app
from sg3flow.errors import ConfigError
from sg3flow.export.formats import FORMATS, find_format


def invoke(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def refused(*arguments) -> str:
    result = invoke(*arguments)
    assert result.exit_code in (1, 2) and result.stderr.count("\n") == 1, result.output
    assert result.stderr.startswith("error: ") and len(result.stderr) < 1100
    return result.stderr


@pytest.mark.medium
@pytest.mark.parametrize(("kind", "c_dim"), [("t", 0), ("stylegan2", 2)])
def test_the_suffix_decides_the_format(network_file, tmp_path, kind, c_dim):
    dest = tmp_path / "new folder" / "a.PT"
    result = invoke(network_file(kind, c_dim), dest)
    assert result.exit_code == 0, result.output
    size = dest.stat().st_size
    first, second = result.stdout.splitlines()
    assert first == f"{dest}: torchscript, {size:,} bytes" and second.startswith("checked with")
    assert [path.name for path in dest.parent.iterdir()] == ["a.PT"]
    again = invoke(network_file(kind, c_dim), dest, "--format", "torchscript")
    assert again.exit_code == 0  # its own file is replaced


def test_wrong_arguments_are_one_line_each(network_file, tmp_path):
    source = network_file("t")
    assert "no format 'onyx' (did you mean 'onnx'?)" in refused(
        source, tmp_path / "a.onnx", "--format", "onyx"
    )
    assert "ends in .pt, not 'a.onnx'" in refused(
        source, tmp_path / "a.onnx", "--format", "torchscript"
    )
    assert "'a' does not tell the format" in refused(source, tmp_path / "a")
    assert "does not tell the format" in refused(source, "")
    assert "no format" in refused(source, tmp_path / "a.pt", "--format", "x" * 5000)
    assert "no file" in refused(tmp_path / "no.pkl", tmp_path / "a.pt")
    assert "File name too long" in refused(source, tmp_path / ("x" * 300 + ".pt"))
    (tmp_path / "file").write_text("mine")
    assert "cannot write" in refused(source, tmp_path / "file" / "a.pt")
    (tmp_path / "not.pkl").write_bytes(b"\x80\x04junk")
    assert "not.pkl" in refused(tmp_path / "not.pkl", tmp_path / "a.pt")
    assert refused("ftp://host/a.pkl", tmp_path / "a.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "not.pkl"]


def test_each_format_has_a_suffix_of_its_own(tmp_path):
    suffixes = [each.suffix for each in FORMATS.values()]
    assert len({*suffixes}) == len(suffixes)
    for name, each in FORMATS.items():
        path = tmp_path / f"a{each.suffix}"
        assert find_format("", path) is find_format(name, path) is each
        assert not each.is_ours(tmp_path)  # a folder
    with pytest.raises(ConfigError, match="give --format: "):
        find_format("", tmp_path)


def test_the_help_loads_no_heavy_library():
    program = (
        "import sys; from sg3flow.cli import main\n"
        "try: main(['export', '--help'])\n"
        "except SystemExit: pass\n"
        "print('loaded', sorted({'torch', 'onnx', 'mlflow', 'numpy'} & set(sys.modules)))"
    ).replace("main(['export', '--help'])", "sys.argv[1:] = ['export', '--help']; main()")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "--format" in done.stdout and "loaded []" in done.stdout, done.stderr
