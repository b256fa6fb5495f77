"""The program of docs/latent.md that draws an image with onnxruntime alone."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from .conftest import ROOT

_BLOCK = re.compile(r"^```python\n(import numpy.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.medium
def test_the_program_draws_the_image_of_the_network(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import sg3flow
    from sg3flow.export.exporting import export_network

    export_network("starter", tmp_path / "cat.onnx")
    [program] = _BLOCK.findall((ROOT / "docs" / "latent.md").read_text(encoding="utf-8"))
    program += "import sys; print({'torch', 'sg3flow'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "set()\n"
    expected = sg3flow.load("starter", device="cpu").image(2, class_="cat", psi=0.7)
    with Image.open(tmp_path / "cat.png") as drawn:
        found = np.asarray(drawn).astype(int)
    assert np.abs(found - np.asarray(expected).astype(int)).max() <= 1
