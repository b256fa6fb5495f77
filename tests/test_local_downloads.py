"""Downloads without a server: addresses of files on this machine, and what is no address."""

import hashlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sg3flow.downloads import download
from sg3flow.errors import DataError

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 12_000  # 3 MB: several chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "http://[::1", "http://a:port/", "nothing", "http://"]
)
def test_what_is_no_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError):
        download(url, tmp_path / "x")
    assert only(tmp_path) == []


def test_file_addresses(tmp_path: Path) -> None:
    source = tmp_path / "with space.zip"
    source.write_bytes(CONTENT)
    assert download(source.as_uri(), tmp_path / "out" / "x.zip") == DIGEST
    with pytest.raises(DataError, match="the file does not exist"):
        download((tmp_path / "missing").as_uri(), tmp_path / "y.zip")
    with pytest.raises(DataError, match="no other machine"):
        download("file://elsewhere/x", tmp_path / "y.zip")
    assert only(tmp_path / "out") == ["x.zip"]


def test_a_full_disk_is_an_error_and_leaves_no_target(tmp_path: Path) -> None:
    (tmp_path / "big.zip").write_bytes(CONTENT)
    program = (
        "import sys; from pathlib import Path; from sg3flow.downloads import download\n"
        "download(sys.argv[1], Path(sys.argv[2]))"
    )
    (tmp_path / "out").mkdir()
    arguments = [(tmp_path / "big.zip").as_uri(), str(tmp_path / "out" / "x.zip")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    assert done.returncode == 1 and "OSError" in done.stderr
    assert only(tmp_path / "out") == []
