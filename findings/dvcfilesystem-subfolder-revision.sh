#!/usr/bin/env bash
# DVC 3.67.1: the Python API with a revision does not find a project that lies in a subfolder of its
# git repository (dvc init --subdir).
#
# DVCFileSystem(PROJECT) lists the project's files, and dvc.api.read("FILE", repo=PROJECT) reads
# them. With rev="HEAD", a commit that holds the same files, DVCFileSystem says that none exists and
# dvc.api.read raises PathMissingError, although the data are in the cache. The command line has no
# such gap: `dvc diff` and `dvc checkout` in the subfolder know the revision.
# Expected: the same tree for the same project, whatever the revision.
# What to do: open one dvc.repo.Repo of the project and switch it to the revision.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "dvc==3.67.1"
cd "$work"
git init --quiet repository
cd repository
mkdir project
cd project
"$work/venv/bin/dvc" init --quiet --subdir
printf 'a number\n' > numbers.txt
"$work/venv/bin/dvc" add --quiet numbers.txt
git add -A ..
git -c user.name=a -c user.email=a@example.org commit --quiet -m first
"$work/venv/bin/python" - <<'PY'
import sys

import dvc
import dvc.api

from dvc.exceptions import PathMissingError


def read(rev):
    try:
        return repr(dvc.api.read("numbers.txt", repo=".", rev=rev))
    except PathMissingError:
        return "PathMissingError"


found = {rev: dvc.api.DVCFileSystem(".", rev=rev).exists("numbers.txt") for rev in (None, "HEAD")}
print("dvc", dvc.__version__)
for rev in found:
    print(f"rev={rev}: exists {found[rev]}, read {read(rev)}")
if (found[None], found["HEAD"], read("HEAD")) != (True, False, "PathMissingError"):
    sys.exit("the behavior has changed")
PY
