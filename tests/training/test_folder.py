"""Work folder and output folder of a training."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from sg3flow.config import TrainConfig
from sg3flow.errors import DataError
from sg3flow.runs.code_state import _cpp_meaning, _python_meaning, given_values
from sg3flow.runs.run_folder import describe_run
from sg3flow.training.job import deciding_settings, fingerprint
from sg3flow.training.work_folder import check_out, numbered_out, open_run_folder

BASE = TrainConfig(cfg="stylegan3-t", gpus=1, batch=8, gamma=0.5)


def test_numbers_count_up_and_the_same_run_keeps_its_folder(tmp_path):
    assert numbered_out(tmp_path, "run", "").name == "00000-run"
    uids = []
    for number in (0, 3):
        folder = tmp_path / f"{number:05d}-run"
        folder.mkdir(exist_ok=True)
        uids.append(describe_run(folder, {"fingerprint": "key", "name": "run"})["uid"])
    assert numbered_out(tmp_path, "run", uids[0]).name == "00000-run"
    assert numbered_out(tmp_path, "run", uids[1]).name == "00003-run"
    assert numbered_out(tmp_path, "run", "").name == "00004-run"


def test_a_name_is_one_folder_whatever_the_texts_in_it(tmp_path):
    outdir = tmp_path / "below" / "runs"
    names = ["a/../../../b", "/etc", "a\\b\nc", "..", "x" * 150 + "ä" * 150]
    for name in names:
        out = numbered_out(outdir, name, "")
        assert out.is_dir() and out.parent == outdir and out.resolve() == out
    assert [path.name for path in tmp_path.iterdir()] == ["below"]
    made = [path.name for path in sorted(outdir.iterdir())]
    assert made[:3] == ["00000-a_.._.._.._b", "00001-_etc", "00002-a_b_c"]
    assert made[3:] == ["00003-..", "00004-" + "x" * 150 + "ä" * 25]


def test_the_identity_of_a_run_stays(tmp_path):
    first = describe_run(tmp_path, {"fingerprint": "a", "name": "x"})
    assert describe_run(tmp_path, {"fingerprint": "a", "name": "y"})["uid"] == first["uid"]


def test_a_longer_training_is_never_passed_off_as_a_shorter_one(tmp_path):
    folder = open_run_folder(tmp_path, "key", 10_000)
    folder.states.save({"nimg": 10_000})
    (folder.work / "network-snapshot-000004.pkl").write_bytes(b"")
    folder.close()
    at_snapshot = open_run_folder(tmp_path, "key", 4_000)
    assert at_snapshot.work.parent.name == "key"
    at_snapshot.close()
    between = open_run_folder(tmp_path, "key", 5_000)
    assert between.work.parent.name == "key-5000"
    between.close()
    longer = open_run_folder(tmp_path, "key", 20_000)
    assert longer.work.parent.name == "key"
    longer.close()


def test_the_last_snapshot_is_the_newest_that_has_learnt(tmp_path):
    folder = open_run_folder(tmp_path, "key", 10_000)
    (folder.work / "network-snapshot-000000.pkl").write_bytes(b"")
    assert folder.last_snapshot() is None
    (folder.work / "network-snapshot-000004.pkl").write_bytes(b"")
    assert folder.last_snapshot() == folder.work / "network-snapshot-000004.pkl"
    folder.close()


def test_publishing_shows_files_up_to_the_end_of_the_run(tmp_path):
    folder = open_run_folder(tmp_path, "key", 4_000)
    folder.out = tmp_path / "out"
    describe_run(folder.work, {"fingerprint": "key", "name": "x"})
    for name in ("network-snapshot-000004.pkl", "network-snapshot-000008.pkl"):
        (folder.work / name).write_text(name)
    rows = "".join(json.dumps({"nimg": nimg}) + "\n" for nimg in (0, 4000, 8000))
    for name in ("stats.jsonl", "metric-fid50k_full.jsonl"):
        (folder.work / name).write_text(rows)
    folder.publish("network-snapshot-000008.pkl")
    folder.publish_all(4_000)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "losses.csv",
        "metric-fid50k_full.jsonl",
        "network-snapshot-000004.pkl",
        "run.json",
        "stats.jsonl",
    ]
    for name in ("stats.jsonl", "metric-fid50k_full.jsonl"):
        assert (tmp_path / "out" / name).read_text().count("\n") == 2
    assert (folder.work / "stats.jsonl").read_text() == rows
    folder.close()


def test_what_a_killed_start_left_is_cleared(tmp_path):
    folder = open_run_folder(tmp_path, "key", 4_000)
    folder.close()
    (folder.work / ".network-snapshot-000001.pkl.0a1b2c3d.tmp").write_text("half")
    open_run_folder(tmp_path, "key", 4_000).close()
    assert list(folder.work.iterdir()) == []


def test_one_process_trains_in_a_folder(tmp_path):
    folder = open_run_folder(tmp_path, "key", 4_000)
    with pytest.raises(DataError, match=r"another process is training in .*/key; wait for it"):
        open_run_folder(tmp_path, "key", 4_000)
    folder.close()
    open_run_folder(tmp_path, "key", 4_000).close()


def test_a_folder_that_cannot_be_locked_says_so(tmp_path):
    (tmp_path / "key" / ".lock").mkdir(parents=True)
    with pytest.raises(DataError, match=r"cannot be locked \(Is a directory\); set SG3FLOW_STATE"):
        open_run_folder(tmp_path, "key", 4_000)


@pytest.mark.medium
def test_the_readers_of_a_killed_training_do_not_keep_its_folder(tmp_path):
    program = (
        "import os, sys, time, torch; from pathlib import Path\n"
        "from sg3flow.training.work_folder import open_run_folder\n"
        "class Items(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 8\n"
        "    def __getitem__(self, index):\n"
        "        time.sleep(600 * (index > 0))\n"
        "        return os.getpid()\n"
        "folder = open_run_folder(Path(sys.argv[1]), 'key', 4_000)\n"
        "context = torch.multiprocessing.get_context('fork')\n"
        "reader = context.Process(target=time.sleep, args=(600,)); reader.start()\n"
        "loader = torch.utils.data.DataLoader(Items(), None, num_workers=1,\n"
        "    multiprocessing_context=context)\n"
        "print(reader.pid, int(next(iter(loader))), flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as training:
        readers = [int(pid) for pid in training.stdout.readline().split()]
        with pytest.raises(DataError, match="another process is training"):
            open_run_folder(tmp_path, "key", 4_000)
        training.kill()
        training.wait()
        try:
            os.kill(readers[0], 0)  # it is still there
            open_run_folder(tmp_path, "key", 4_000).close()
        finally:
            for pid in readers:
                with suppress(ProcessLookupError):  # DataLoader's own notices by itself
                    os.kill(pid, signal.SIGKILL)


def test_a_folder_that_shows_something_else_is_left_alone(tmp_path):
    check_out(tmp_path / "none", "key", "")
    run = describe_run(tmp_path, {"fingerprint": "other", "name": "x"})
    with pytest.raises(DataError, match=r"contains another training \(x; settings or data differ"):
        check_out(tmp_path, "key", "")
    with pytest.raises(DataError, match=r"another run of this training \(x; another length"):
        check_out(tmp_path, "other", "")
    check_out(tmp_path, "other", run["uid"])


def test_a_run_folder_never_takes_foreign_files(tmp_path):
    (tmp_path / ".hidden").touch()
    check_out(tmp_path, "key", "")
    (tmp_path / "thesis.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(DataError, match=r"not a training run made by sg3flow.* --run-dir"):
            check_out(path, "key", "")


@pytest.mark.parametrize(
    ("name", "value", "same"),
    [
        ("gamma", 0.6, False),
        ("batch", 16, False),
        ("seed", 1, False),
        ("kimg", 1, True),
        ("snap", 1, True),
        ("workers", 0, True),
        ("device", "cpu", True),
        ("metrics", ("fid50k_full",), True),
        ("max_nonfinite_updates", 0, True),
        ("keep_snapshots", "last 3", True),
        ("bf16", True, False),
        ("optimizer", "plain", False),
        ("batch_gpu", 4, False),
        ("gpus", 2, False),
        ("resume_partial", True, False),
    ],
)
def test_fingerprint_changes_with_what_changes_the_result(name, value, same):
    changed = dataclasses.replace(BASE, **{name: value})
    settings, others = (deciding_settings(given_values(c)) for c in (BASE, changed))
    assert (fingerprint(others, "data") == fingerprint(settings, "data")) is same
    assert fingerprint(settings, "data") != fingerprint(settings, "other data")


def test_comments_in_kernels_do_not_change_the_code_version():
    plain = 'int f(int x) {\n  return g("a // b", x) / 2;\n}\n'
    commented = (
        "/* of\n two */ int f(int x) {  // it's \\\n still a comment\n"
        '  return g("a // b", /* why */ x) / 2;\n}\n'
    )
    assert _cpp_meaning(commented) == _cpp_meaning(plain)
    for old, new in (("/ 2", "/ 3"), ("// b", "// c"), ("x) /", "x) //")):
        assert _cpp_meaning(plain.replace(old, new)) != _cpp_meaning(plain)


def test_comments_and_docstrings_do_not_change_the_code_version():
    plain = "def f(x):\n    return x + 1\n"
    commented = 'def f(x):\n    """Doc."""\n    # why\n    return x + 1\n'
    assert _python_meaning(commented) == _python_meaning(plain)
    assert _python_meaning(plain.replace("+ 1", "+ 2")) != _python_meaning(plain)
