"""Ctrl-C: the first is answered, whatever the process does; the second ends it."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

STAGES = Path(__file__).parents[1] / "stages"
ANSWER = "interrupted: stopping; press Ctrl-C again to end at once"
INTERRUPTED = "error: interrupted; run the same command again to continue"
AT_ONCE = "error: ended at once; run the same command again to continue"
IMPORTS = """
import hashlib, os, signal, subprocess, sys, time
from sg3flow.interrupts import handled_interrupts, held_interrupts
with handled_interrupts():
"""


@pytest.fixture
def start(start_in_terminal):
    def start(*command, interrupt=signal.SIG_DFL, **environment) -> subprocess.Popen:
        return start_in_terminal(command, os.environ | environment, interrupt)

    return start


def program(lines: str) -> tuple[str, str]:
    return "-c", IMPORTS + "".join(f"    {line}\n" for line in lines.splitlines())


def press(process) -> None:
    os.killpg(process.pid, signal.SIGINT)


def rest(process) -> list[str]:
    return process.communicate(timeout=100)[0].splitlines()


def test_the_first_raises_and_ends_in_one_line(start):
    process = start(*program("print('ready', flush=True)\ntime.sleep(600)"))
    assert process.stdout.readline() == "ready\n"
    press(process)
    lines = rest(process)
    assert process.returncode == 130
    assert lines in ([ANSWER, INTERRUPTED], [INTERRUPTED])


COMPUTES = """
child = subprocess.Popen(["sleep", "600"], stdout=-3, stderr=-3, start_new_session=True)
print(child.pid, flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


def test_a_long_operation_delays_neither_the_answer_nor_the_end(start):
    process = start(*program(COMPUTES))  # an hour in C, without a bytecode of Python
    child = psutil.Process(int(process.stdout.readline()))
    used = psutil.Process(process.pid).cpu_times
    start_sec = used().user
    wait_until(lambda: used().user > start_sec + 0.1, process)  # it has begun
    press(process)
    assert process.stdout.readline().strip() == ANSWER
    assert process.poll() is None
    press(process)
    assert rest(process) == [AT_ONCE]
    assert process.returncode == 130
    wait_gone = psutil.wait_procs([child], timeout=60)[1]
    assert not wait_gone or child.status() == psutil.STATUS_ZOMBIE


HIDES = """
from sg3flow.cli.stage_options import one_line_errors
import typer
try:
    with one_line_errors(debug=False):
        try:
            print("ready", flush=True)
            time.sleep(600)
        except KeyboardInterrupt:
            raise ImportError("cannot load module more than once per process") from None
except typer.Exit as error:
    sys.exit(error.exit_code)
"""


def test_an_import_that_hides_it_is_no_bug(start):
    process = start(*program(HIDES))
    assert process.stdout.readline() == "ready\n"
    press(process)
    lines = rest(process)
    assert process.returncode == 130 and lines[-1] == INTERRUPTED and len(lines) <= 2


FORKS = """
child = os.fork()
if not child:
    print("ready", flush=True)
    time.sleep(600)
os.waitpid(child, 0)
print("parent goes on", flush=True)
"""


def test_a_signal_to_a_forked_process_is_not_one_to_this(start):
    process = start(*program(FORKS))
    assert process.stdout.readline() == "ready\n"
    [child] = psutil.Process(process.pid).children()
    child.send_signal(signal.SIGINT)
    lines = rest(process)
    assert process.returncode == 0 and lines[-1] == "parent goes on" and ANSWER not in lines


HOLDS = """
command = [sys.executable, "-c", "import signal; print(signal.pthread_sigmask(0, []))"]
with held_interrupts():
    subprocess.run(command, check=True)
subprocess.run(command, check=True)
"""


def test_processes_that_start_while_it_is_held_do_not_get_it(start):
    lines = rest(start(*program(HOLDS)))
    assert ["SIGINT" in line for line in lines] == [True, False]


def test_what_nohup_ignores_stays_ignored(start):
    lines = "print('ready', flush=True)\nsys.stdin.read()\nprint('end')"
    process = start(*program(lines), interrupt=signal.SIG_IGN)
    assert process.stdout.readline() == "ready\n"
    press(process)
    assert rest(process) == ["end"] and process.returncode == 0


def is_ended_in_a_line(process) -> bool:
    output, _ = process.communicate(timeout=100)
    assert "Traceback" not in output
    return process.returncode == 130 and output.splitlines()[-1] == INTERRUPTED


def wait_until(condition, process) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


@pytest.mark.medium
def test_the_start_is_interrupted(start):
    process = start(STAGES / "evaluate.py", "network", "--network=none.pkl", "--data=none.zip")
    maps = Path(f"/proc/{process.pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc")
    wait_until(lambda: "libtorch" in maps.read_text(), process)  # in the middle of its import
    press(process)
    assert is_ended_in_a_line(process)


def workers_of(packing: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in packing.children():
        with suppress(psutil.Error):  # it has ended
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.medium
def test_packing_is_interrupted_while_its_processes_start(start, tmp_path):
    raw, dest = tmp_path / "raw", tmp_path / "set.zip"
    raw.mkdir()
    for i in range(300):
        pixels = np.random.RandomState(i).randint(0, 255, (256, 256, 3), np.uint8)
        Image.fromarray(pixels).save(raw / f"{i}.png", compress_level=0)
    command = ("--source", raw, "--dest", dest, "--workers=2")
    process = start(STAGES / "pack.py", *command, SG3FLOW_TRACKING="off")
    packing = psutil.Process(process.pid)
    wait_until(lambda: workers_of(packing), process)
    workers = workers_of(packing)
    press(process)
    assert is_ended_in_a_line(process)
    assert not psutil.wait_procs(workers, timeout=60)[1]
    assert not dest.exists()


@pytest.mark.medium
def test_rendering_is_interrupted(start, tmp_path):
    from sg3flow.checkpoints import save_snapshot
    from sg3flow.networks import Discriminator, StyleGAN3Generator

    sizes = {"img_resolution": 16, "img_channels": 3, "channel_base": 64, "channel_max": 4}
    G, D = StyleGAN3Generator(8, 0, 8, **sizes), Discriminator(0, **sizes)
    rest = {"augment_p": 0.0, "training_set": {}, "progress": {"nimg": 0}}
    save_snapshot(tmp_path / "a.pkl", G=G, D=D, G_ema=G, **rest)
    command = ("images", "--network", tmp_path / "a.pkl", "--seeds=0-9999", "--device=cpu")
    process = start(STAGES / "render.py", *command, "--outdir", tmp_path / "out")
    wait_until(lambda: any(tmp_path.glob("out/*.png")), process)
    press(process)
    assert is_ended_in_a_line(process)
