"""`import sg3flow` is light, and its names are there when they are used."""

import subprocess
import sys

import pytest

import sg3flow

HEAVY = ("torch", "mlflow", "numpy", "scipy", "PIL", "pandas", "dvc", "typer", "rich")


def in_a_new_process(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_import_loads_few_modules():
    program = (
        "import sys; before = set(sys.modules); import sg3flow\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = in_a_new_process(program).split()
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)
    # Below 0.1 s; the count does not depend on the machine. Half of them are of `typing` and `re`.
    assert len(loaded) < 80, loaded


def test_every_public_name_is_there():
    assert sg3flow.__all__ == sorted(sg3flow.__all__) == dir(sg3flow)
    for name in sg3flow.__all__:
        assert getattr(sg3flow, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        sg3flow.lod  # noqa: B018


def test_errors_load_nothing_more():
    program = "import sys, sg3flow; print(issubclass(sg3flow.DataError, sg3flow.Sg3flowError), "
    assert in_a_new_process(f"{program} 'torch' in sys.modules)") == "True False\n"


@pytest.mark.medium
def test_names_work_as_the_first_ones():
    program = "import sg3flow, sys; sg3flow.metrics.compute; sg3flow.load; {}\nprint(found)".format(
        "found = [name for name in ('mlflow', 'matplotlib', 'pandas') if name in sys.modules]"
    )
    assert in_a_new_process(program) == "[]\n"


def test_compute_is_the_function_whatever_was_imported():
    import sg3flow.metrics.computed
    import sg3flow.metrics.evaluation_run

    assert sg3flow.metrics.compute is sg3flow.metrics.computed.compute


@pytest.mark.medium
def test_loading_a_network_builds_no_kernels(tmp_path):
    program = (
        "import os, sg3flow\n"
        f"os.environ['SG3FLOW_KERNELS'] = {str(tmp_path)!r}\n"
        "G = sg3flow.load('starter', device='cpu')\n"
        "assert 'stylegan3-t' in repr(G) and G.num_parameters > 1000\n"
    )
    in_a_new_process(program)
    assert list(tmp_path.iterdir()) == []
