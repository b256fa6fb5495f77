"""Where the packed set of a training is found again, and that only its own content is taken."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sg3flow.data.archive import PackedSet
from sg3flow.errors import DataError
from sg3flow.runs.provenance import find_training_set
from sg3flow.runs.run_folder import PROVENANCE, PROVENANCE_FORMAT


def pack(folder: Path, value: int = 0) -> PackedSet:
    folder.mkdir(parents=True)
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(folder / "img00000000.png")
    return PackedSet(folder)


def record(run: Path, path: str) -> Path:
    run.mkdir(parents=True)
    content = {"format": PROVENANCE_FORMAT, "folder": ".", "data": {"path": path}}
    (run / PROVENANCE).write_text(json.dumps(content))
    return run


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(folder)
    return folder


def described(packed: PackedSet) -> dict[str, object]:
    return {"name": packed.name, "digest": packed.digest}


def test_it_is_where_the_record_says(project):
    packed = pack(project / "sets" / "cats")
    run = record(project / "runs" / "train", "sets/cats")
    assert find_training_set(run, described(packed), "run").path.samefile(packed.path)
    # An absolute path stays what it is.
    other = record(project / "runs" / "other", str(packed.path))
    assert find_training_set(other, described(packed), "run").path.samefile(packed.path)


def test_it_is_found_from_a_folder_below_and_in_a_moved_project(project, tmp_path, monkeypatch):
    before = described(pack(project / "sets" / "cats"))
    run = record(project / "runs" / "train", "sets/cats")
    (project / "deep").mkdir()
    monkeypatch.chdir(project / "deep")
    found = find_training_set(run, before, "run")
    assert found.path.samefile(project / "sets" / "cats")
    monkeypatch.chdir(tmp_path)
    moved = project.rename(tmp_path / "moved")
    found = find_training_set(Path("moved/runs/train"), before, "run")
    assert found.path.samefile(moved / "sets" / "cats")


def test_without_a_record_it_is_the_set_of_the_pipeline_if_that_is_it(project, tmp_path):
    packed = pack(project / "data" / "packed.zip")
    assert find_training_set(tmp_path, described(packed), "net.pkl").digest == packed.digest
    wanted = {"name": "cats", "digest": "0" * 64}
    with pytest.raises(DataError, match=r"net\.pkl was trained on \(cats \(digest 000000000000…\)"):
        find_training_set(tmp_path, wanted, "net.pkl")
    with pytest.raises(
        DataError, match=r"packed\.zip is another or a damaged one; give --data PATH"
    ):
        find_training_set(tmp_path, wanted, "net.pkl")


def test_a_set_that_changed_since_is_refused(project):
    packed = pack(project / "sets" / "cats")
    run, before = record(project / "runs" / "train", "sets/cats"), described(packed)
    (packed.path / "img00000000.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"sets/cats is another or a damaged one; give --data PATH"):
        find_training_set(run, before, "run")
    shutil.rmtree(packed.path)
    with pytest.raises(DataError, match=r"there is no sets/cats; give --data PATH"):
        find_training_set(run, before, "run")
    pack(packed.path, value=9)
    with pytest.raises(DataError, match=r"sets/cats is another or a damaged one; give --data PATH"):
        find_training_set(run, before, "run")


def test_a_public_pickle_names_a_path_only(project, tmp_path):
    packed = pack(tmp_path / "ffhq")
    public = {"path": str(packed.path), "xflip": True}
    assert find_training_set(tmp_path, public, "ffhq.pkl").path == packed.path
    # Not the set of the pipeline, which nothing connects with the network.
    pack(project / "data" / "packed.zip")
    with pytest.raises(DataError, match=r"trained on \(/no/ffhq\).* there is no /no/ffhq; give"):
        find_training_set(tmp_path, {"path": "/no/ffhq"}, "ffhq.pkl")
    with pytest.raises(DataError, match=r"its path is not recorded; give --data PATH"):
        find_training_set(tmp_path, {}, "ffhq.pkl")
