"""Work folder and output folder of a training."""

import dataclasses

import pytest

from sg3flow.config import TrainConfig
from sg3flow.errors import DataError
from sg3flow.training.fingerprint import _meaning, fingerprint
from sg3flow.training.folder import describe_run, numbered_out, open_run_folder

BASE = TrainConfig(cfg="stylegan3-t", gpus=1, batch=8, gamma=0.5)


def test_numbers_count_up_and_the_same_training_keeps_its_folder(tmp_path):
    assert numbered_out(tmp_path, "run", "key").name == "00000-run"
    for number, key in ((0, "a"), (3, "b")):
        folder = tmp_path / f"{number:05d}-run"
        folder.mkdir()
        describe_run(folder, {"fingerprint": key, "name": "run"})
    assert numbered_out(tmp_path, "run", "c").name == "00004-run"
    assert numbered_out(tmp_path, "run", "a").name == "00000-run"


def test_the_identity_of_a_run_stays(tmp_path):
    first = describe_run(tmp_path, {"fingerprint": "a", "name": "x"})
    assert describe_run(tmp_path, {"fingerprint": "a", "name": "y"})["uid"] == first["uid"]


def test_a_longer_training_is_never_passed_off_as_a_shorter_one(tmp_path):
    folder = open_run_folder(tmp_path, "key", 10_000, tmp_path / "out")
    folder.states.save({"nimg": 10_000})
    (folder.work / "network-snapshot-000004.pkl").write_bytes(b"")
    folder.close()
    at_snapshot = open_run_folder(tmp_path, "key", 4_000, tmp_path / "out")
    assert at_snapshot.work.parent.name == "key"
    at_snapshot.close()
    between = open_run_folder(tmp_path, "key", 5_000, tmp_path / "out")
    assert between.work.parent.name == "key-5000"
    between.close()
    longer = open_run_folder(tmp_path, "key", 20_000, tmp_path / "out")
    assert longer.work.parent.name == "key"
    with pytest.raises(DataError, match="another process"):
        open_run_folder(tmp_path, "key", 20_000, tmp_path / "out")
    longer.close()


def test_publishing_shows_files_and_leaves_out_later_ones(tmp_path):
    folder = open_run_folder(tmp_path, "key", 4_000, tmp_path / "out")
    for name in ("network-snapshot-000004.pkl", "network-snapshot-000008.pkl", "stats.jsonl"):
        (folder.work / name).write_text(name)
    folder.publish_all(4)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["network-snapshot-000004.pkl", "stats.jsonl"]
    folder.close()


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
    ],
)
def test_fingerprint_changes_with_what_changes_the_result(name, value, same):
    changed = dataclasses.replace(BASE, **{name: value})
    assert (fingerprint(changed, "data") == fingerprint(BASE, "data")) is same
    assert fingerprint(BASE, "data") != fingerprint(BASE, "other data")


def test_comments_and_docstrings_do_not_change_the_code_version():
    plain = "def f(x):\n    pass\n    return x + 1\n"
    commented = 'def f(x):\n    """Doc."""\n    # why\n    return x + 1\n'
    assert _meaning(commented) == _meaning(plain)
    assert _meaning(plain.replace("+ 1", "+ 2")) != _meaning(plain)
