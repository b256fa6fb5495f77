#!/usr/bin/env bash
# torch 2.13.0 (CPU build): arithmetic on a tensor of the meta device imports torch._dynamo.
#
# The meta device computes shapes without memory; its purpose is to be cheap. Creating a tensor or a
# torch.nn.Linear there imports nothing. Multiplying a tensor of it by a number calls Python code
# that is decorated against torch._dynamo, and the decorator imports that package at its first
# call: some 830 modules, among them sympy. A process that only loads a network pays for it if a
# constructor scales its initial weights: here the import of torch took 1.1 s of CPU and 221 MiB,
# with one product 2.1 s and 295 MiB. Constructing any torch.optim optimizer does the same, and
# torch.broadcast_shapes of two tuples imports sympy. (A CPU build of torch suffices.)
# What to do: create on the meta device, do not compute there; our reader of snapshots answers the
# constructors' arithmetic with torch.empty of the right shape.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'torch==2.13.0' 'numpy==2.3.5'
cat > "$folder/probe.py" <<'PROBE'
import subprocess
import sys

import torch

BEGIN = "import sys, torch\nx = torch.ones(2, device='meta')\n"
END = "\nprint(*sorted({'sympy', 'torch._dynamo'} & set(sys.modules)), sep=',')"
EXPECTED = {
    "torch.nn.Linear(2, 2, device='meta')": "",
    "x * 2": "sympy,torch._dynamo",
    "x.square()": "sympy,torch._dynamo",
    "torch.optim.SGD([torch.zeros(1)], lr=1)": "sympy,torch._dynamo",
    "torch.broadcast_shapes((2,), (1,))": "sympy",
}
print("torch", torch.__version__)
for line, wanted in EXPECTED.items():
    found = subprocess.check_output([sys.executable, "-c", BEGIN + line + END], text=True).strip()
    print(f"{line}: imports {found or 'neither'}")
    if found != wanted:
        sys.exit(f"changed: expected {wanted or 'neither'}")
PROBE
"$folder/venv/bin/python" "$folder/probe.py"
