"""The record of the code: commit and changes, without secrets."""

import subprocess
from pathlib import Path

import pytest

from sg3flow.git import GitError, git_environment, git_tree


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", *author, *arguments],
        cwd=folder,
        env=git_environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "a repository"
    (folder / "project" / "src").mkdir(parents=True)
    (folder / "project" / "src" / "code.py").write_text("x = 1\n")
    (folder / "project" / "picture.bin").write_bytes(bytes(range(256)))
    (folder / "project" / "mirror.py").write_text("URL = ''\n")
    (folder / "project" / "params.yaml").write_text("train: {kimg: 1}\n")
    (folder / ".env").write_text("KEY=old\n")
    git(folder, "init", "-q", "-b", "work")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_clean_tree_is_its_commit(repository):
    tree = git_tree(repository / "project")
    assert tree is not None
    assert tree.top == repository and tree.prefix == "project"
    assert tree.commit == git(repository, "rev-parse", "HEAD")
    assert tree.branch() == "work" and tree.remote() == ""
    assert tree.changed(["src"]) == []
    assert tree.changes().diff == b"" and tree.changes().sha256 == ""


def test_changes_apply_elsewhere_without_secrets(repository, tmp_path):
    (repository / "project" / "src" / "code.py").write_text("x = 2\n")
    (repository / "project" / "picture.bin").write_bytes(bytes(range(255, -1, -1)))
    (repository / "project" / "src" / "staged.py").write_text("y = 1\n")
    git(repository, "add", "project/src/staged.py")
    (repository / ".env").write_text("KEY=hunter2\n")
    (repository / "project" / "mirror.py").write_text("URL = 'https://me:hunter2@host/x'\n")
    (repository / "project" / "params.yaml").write_text("train: {kimg: 2}\n")
    (repository / "project" / "src" / "new.py").write_text("z = 1\n")
    git(repository, "config", "diff.noprefix", "true")
    git(repository, "config", "color.diff", "always")
    tree = git_tree(repository / "project")
    assert tree is not None
    diff = tree.changes().diff
    assert b"hunter2" not in diff and b"kimg" not in diff
    assert tree.changes().withheld == [".env", "project/mirror.py"]
    assert tree.untracked("src") == ["src/new.py"]
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(repository), str(other))
    (tmp_path / "diff").write_bytes(diff)
    git(other, "apply", str(tmp_path / "diff"))
    for name in ("src/code.py", "src/staged.py", "picture.bin"):
        assert (other / "project" / name).read_bytes() == (
            repository / "project" / name
        ).read_bytes()
    assert not (other / "project" / "src" / "new.py").exists()
    assert (other / ".env").read_text() == "KEY=old\n"


@pytest.mark.parametrize(
    ("line", "withheld"),
    [
        ("PIP = 'git+https://ghp_hunter2@github.com/a/b'", True),
        ("URL = 'https://host/a.zip?x=1&X-Amz-Signature=hunter2'", True),
        ("URL = 'https://host/a.zip?token=hunter2'", True),
        ("URL = 'https://host/a.zip?id=2#top', 'a@b.org'", False),
        ("URL = 'ssh://git@github.com/a/b'", False),
        ("@decorated  # see https://host/page", False),
    ],
)
def test_a_file_with_a_secret_address_is_withheld(repository, line, withheld):
    (repository / "project" / "mirror.py").write_text(line + "\n")
    (repository / "project" / "src" / "code.py").write_text("x = 2\n")
    tree = git_tree(repository / "project")
    assert tree is not None
    changes = tree.changes()
    assert changes.withheld == ["project/mirror.py"] * withheld
    assert (line.encode() in changes.diff) is not withheld and b"x = 2" in changes.diff


def test_settings_and_notes_are_not_code(repository):
    project = repository / "project"
    (project / "params.yaml").write_text("train: {kimg: 2}\n")
    (project / "mirror.py").write_text("URL = '/a'\n")
    tree = git_tree(project)
    assert tree is not None and tree.changed(["src"]) == []
    (project / "src" / "code.py").write_text("x = 2\n")
    assert tree.changed(["src"]) == ["project/src/code.py"]


def test_a_failing_git_is_an_error(repository):
    (repository / ".git" / "config").write_text("[broken\n")
    with pytest.raises(GitError, match="bad config line"):
        git_tree(repository)


def test_a_remote_is_recorded_without_its_password(repository):
    git(repository, "remote", "add", "origin", "https://me:hunter2@host.example/a.git?token=x")
    tree = git_tree(repository)
    assert tree is not None and tree.remote() == "https://host.example/a.git"


def test_no_repository_no_commit_or_not_tracked_is_none(repository, tmp_path):
    assert git_tree(tmp_path / "none") is None
    assert git_tree(tmp_path) is None
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    assert git_tree(empty) is None
    inside = repository / "installed.py"
    inside.write_text("")
    assert git_tree(repository, tracked=inside) is None
    assert git_tree(repository, tracked=repository / ".env") is not None


def test_another_repository_in_the_environment_does_not_count(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert git_tree(repository) is not None
