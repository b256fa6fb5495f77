"""Shows that two checkouts of sg3flow give the same numbers, or where they do not.

    python benchmarks/same_numbers.py OLD NEW [--recipe starter|quick] [--json FILE] [--work DIR]

Each checkout runs `dvc repro`, small trainings of the other configurations and some renderings on
the CPU, with its own code, in its own project, state folder, cache and tracking store. Both use the
settings of OLD's params.yaml. Then the script compares all they wrote: raw images, packed set,
manifest, snapshots (every tensor, bit for bit), losses, metrics, rendered pixels. NEW must also
read what OLD wrote: its snapshots, a public pickle, its registered version. Both run in this Python
environment, which must hold the dependencies of both. The script calls command lines only: modules
may have moved. It exits with code 1 if anything differs.

With `starter`, the settings are used as they are, and each checkout builds its own kernels (unless
SG3FLOW_KERNELS names a folder for both). `quick` (or --quick) trains on 54 images of 16 px, with
two small trainings instead of four, crosses the pipeline's networks only, and uses kernels that
are built already.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from checkouts import Checkout, CommandFailed
from contents import (
    Row,
    compare_files,
    compare_folders,
    compare_json,
    compare_leaves,
    compare_manifests,
    compare_pictures,
    compare_snapshots,
    is_number,
    leaves_of,
)
from public_form import write_public_pickle

QUICK: dict[str, dict[str, Any]] = {
    "fetch": {"images": 60, "resolution": 32},
    "pack": {"resolution": "16x16"},
    "validate": {"min_images": 30, "min_class_images": 10},
    "train": {"batch": 40, "cbase": 128, "cmax": 4, "map_depth": 1, "kimg": 1, "grid": "4x3"}
    | {"resume": ""},
    "evaluate": {"metrics": ["fd_random50_full", "eqt8_int"], "best_by": "fd_random50_full"},
    "render": {"seeds": "0-5", "sweep_seeds": "0,1", "video_seeds": "0,1", "video_frames": 4},
}

# The pipeline trains stylegan3-t without augmentation; these are the rest.
SMALL = {
    "stylegan3-r": ("--cfg", "stylegan3-r", "--aug", "ada"),
    "stylegan2": ("--cfg", "stylegan2", "--aug", "ada"),
    "stylegan2-fixed": ("--cfg", "stylegan2", "--aug", "fixed", "--p", "0.5"),
    "stylegan3-t-torch": ("--cfg", "stylegan3-t", "--aug", "fixed", "--p", "0.5"),
}
QUICK_SMALL = ("stylegan3-r", "stylegan2")
_SMALL_SETTINGS = (
    "--gpus 1 --batch 40 --gamma 0.2 --cbase 256 --cmax 8 --map-depth 2 --cond --mirror --kimg 1 "
    "--tick 1 --snap 1 --workers 0 --grid 4x3 --seed 1 --device cpu --data data/small.zip"
).split()
_PREDICT = """
import base64, pathlib, sys, mlflow
folder = pathlib.Path(sys.argv[2])
folder.mkdir(parents=True)
rows = [{"seed": seed, "class": seed % 3, "psi": 0.7} for seed in range(3)]
answers = mlflow.pyfunc.load_model(sys.argv[1]).predict(rows)
for seed, answer in enumerate(answers):
    (folder / f"seed{seed:04d}.png").write_bytes(base64.b64decode(answer["png"]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, metavar="OLD", help="checkout with the right numbers")
    parser.add_argument("new", type=Path, metavar="NEW", help="checkout that must have them too")
    parser.add_argument("--recipe", choices=("starter", "quick"), default="starter")
    parser.add_argument("--quick", action="store_true", help="the same as --recipe quick")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--work", type=Path, help="empty folder to work in, which is kept")
    given = parser.parse_args()
    quick = given.quick or given.recipe == "quick"
    if quick:  # building them takes longer than everything else
        shared = Path.home() / ".cache" / "sg3flow" / "kernels"
        os.environ.setdefault("SG3FLOW_KERNELS", str(shared))
    try:
        if given.work:
            given.work.mkdir(parents=True, exist_ok=True)
            if any(given.work.iterdir()):
                raise SystemExit(f"error: {given.work} is not empty; name another --work")
            result = compare(given.old, given.new, quick, given.work.resolve())
        else:
            with tempfile.TemporaryDirectory(prefix="same-numbers-") as folder:
                result = compare(given.old, given.new, quick, Path(folder).resolve())
    except CommandFailed as error:
        raise SystemExit(f"error: {error}") from None
    show(result)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(not all(row["equal"] for row in result["rows"]))


def compare(old_source: Path, new_source: Path, quick: bool, work: Path) -> dict[str, Any]:
    """Run both checkouts, compare all, and let NEW read what OLD wrote."""
    old = Checkout.copied("OLD", old_source.resolve(), work / "old")
    new = Checkout.copied("NEW", new_source.resolve(), work / "new")
    small = QUICK_SMALL if quick else tuple(SMALL)
    params = settings(old, quick)
    codes = {"old": described(old), "new": described(new)}  # now: a checkout may change meanwhile
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda checkout: run_all(checkout, params, small), (old, new)))
        rows = [params_row(old, new), *file_rows(old, new, small)]
        public = {
            name: write_public_pickle(last_snapshot(old, name), work / f"public-{name}.pkl")
            for name in ("train", *(() if quick else small))
        }
        champion = f"models:/{params['register']['name']}@champion"
        rows += pool.map(attempted, cross_checks(old, new, public, champion))
    notes, row = notes_about_states(old, new, small[-1])
    return {
        "recipe": "quick" if quick else "starter",
        **codes,
        "rows": [dataclasses.asdict(row) for row in [*rows, row]],
        "notes_about_old_states": notes,
    }


def settings(old: Checkout, quick: bool) -> dict[str, Any]:
    """The settings of both runs."""
    params = old.params()
    if quick:
        params = {section: values | QUICK.get(section, {}) for section, values in params.items()}
    params["train"]["device"] = "cpu"
    return params


def run_all(checkout: Checkout, params: dict[str, Any], small: tuple[str, ...]) -> None:
    """The pipeline, the small trainings, and pictures of all of them."""
    checkout.use(params)
    checkout.run(sys.executable, "-m", "dvc", "repro", "--no-run-cache")
    packing = ("--source", "data/raw", "--subset", "starter/train", "--labels", "folders")
    checkout.stage("pack", *packing, "--resolution", "16x16", "--dest", "data/small.zip")
    for name in small:
        train_small(checkout, name, f"runs/{name}")
    for name in ("train", *small):
        network = str(last_snapshot(checkout, name))
        render(checkout, network, f"pictures/{name}")
    grid = ("--network", network, "--outdir", "grid", "--device", "cpu")
    checkout.stage("render", "grid", *grid, "--seeds", "0-5")


def train_small(checkout: Checkout, name: str, run_dir: str, **variables: str) -> str:
    """A training of 1 kimg at 16 px; with plain PyTorch ops if its name says so."""
    if name.endswith("-torch"):
        variables["SG3FLOW_OPS"] = "torch"
    return checkout.stage(
        "train", *_SMALL_SETTINGS, *SMALL[name], "--run-dir", run_dir, **variables
    )


def render(checkout: Checkout, network: str, outdir: str, **variables: str) -> None:
    """Pictures of a few seeds, in a folder of the project."""
    options = f"--outdir {outdir} --seeds 0-2 --class 1 --trunc 0.7 --device cpu".split()
    checkout.stage("render", "images", "--network", network, *options, **variables)


def last_snapshot(checkout: Checkout, name: str) -> Path:
    return max((checkout.project / "runs" / name).glob("network-snapshot-*.pkl"))


def params_row(old: Checkout, new: Checkout) -> Row:
    """Whether params.yaml of NEW has the settings of OLD."""
    sides = [leaves_of(checkout.params()) for checkout in (old, new)]
    return compare_leaves("params.yaml", *sides, note=f"{len(sides[0])} settings")


def file_rows(old: Checkout, new: Checkout, small: tuple[str, ...]) -> Iterator[Row]:
    """What both pipelines and both sets of small trainings wrote."""

    def both(compare: Callable[..., Row], path: str, thing: str = "", **options: Any) -> Row:
        return compare(thing or path, old.project / path, new.project / path, **options)

    yield both(compare_folders, "data/raw")
    yield both(compare_files, "data/packed.zip")
    yield both(compare_manifests, "data/manifest.parquet")
    yield both(
        compare_json, "reports/validation.json", "reports/validation.json (numbers)",
        keep=is_number, names="common",
    )  # fmt: skip
    yield both(compare_files, "data/small.zip")
    for name in ("train", *small):
        run = f"runs/{name}"
        snapshots = [(c.project / run).glob("network-snapshot-*.pkl") for c in (old, new)]
        for file in sorted({path.name for side in snapshots for path in side}):
            yield both(compare_snapshots, f"{run}/{file}")
        yield both(compare_json, f"{run}/stats.jsonl", keep=is_loss)
        yield both(compare_pictures, run, f"{run}/*.png")
    yield both(compare_json, "reports/metrics.json", keep=is_measurement)
    yield both(compare_json, "reports/registered.json", keep=is_registered)
    yield both(compare_pictures, "renders", "renders/*.png")
    yield both(compare_files, "renders/interpolation.mp4")
    for name in ("train", *small):
        yield both(compare_pictures, f"pictures/{name}", f"pictures/{name}/*.png")
    yield both(compare_pictures, "grid", "grid/*.png")


def is_loss(name: str, value: str) -> bool:
    """Values that the training computed, without times and memory."""
    return ".Loss/" in name or ".Progress/" in name


def is_measurement(name: str, value: str) -> bool:
    """All values but the description of the error estimate, and what 0.2 did not record."""
    return not name.endswith((".error_rule", ".reference_flips", ".reference_limit"))


def is_registered(name: str, value: str) -> bool:
    """The registered values, without descriptions."""
    return name in ("metric", "value", "snapshot", "snapshot_sha256", "weights_sha256")


# A title, and what makes two folders of pictures that must be equal.
Check = tuple[str, Callable[[], tuple[Path, Path]]]


def cross_checks(
    old: Checkout, new: Checkout, public: dict[str, Path], champion: str
) -> Iterator[Check]:
    """What NEW must read of OLD: snapshots, public pickles, a registered version."""

    def own_and_new(name: str) -> tuple[Path, Path]:
        render(new, str(last_snapshot(old, name)), f"crossed/{name}")
        return old.project / "pictures" / name, new.project / "crossed" / name

    def both(action: Callable[[Checkout, str], object], outdir: str) -> tuple[Path, Path]:
        for checkout in (old, new):
            action(checkout, outdir)
        return old.project / outdir, new.project / outdir

    def draw(network: str) -> Callable[[Checkout, str], object]:
        return lambda checkout, outdir: render(
            checkout, network, outdir, MLFLOW_TRACKING_URI=old.store
        )

    def predict(checkout: Checkout, outdir: str) -> None:
        code = (sys.executable, "-c", _PREDICT, champion, outdir)
        checkout.run(*code, MLFLOW_TRACKING_URI=old.store)

    for name, path in public.items():
        yield f"OLD's snapshot of {name}, rendered", partial(own_and_new, name)
        yield (
            f"public pickle of {name}, rendered",
            partial(both, draw(str(path)), f"public/{name}"),
        )
    yield "version that OLD registered, rendered", partial(both, draw(champion), "registered")
    yield "version that OLD registered, as pyfunc", partial(both, predict, "predicted")


def attempted(check: Check) -> Row:
    """The row of a check; a command that fails is a difference."""
    thing, make = check
    try:
        return compare_pictures(thing, *make())
    except CommandFailed as error:
        return Row(thing, "", "", False, str(error))


def notes_about_states(old: Checkout, new: Checkout, name: str) -> tuple[list[str], Row]:
    """The notes of NEW at the start of a training that has a state of OLD, and its snapshot."""
    states = new.project / "states-of-old"
    shutil.copytree(old.project / "state", states)
    run, thing = "runs/beside-states", f"{name}, trained by NEW beside OLD's states"
    try:
        output = train_small(new, name, run, SG3FLOW_STATE_DIR=str(states))
    except CommandFailed as error:
        return [], Row(thing, "", "", False, str(error))
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    notes = list(takewhile(lambda line: not line.startswith("layer "), lines))
    snapshot = last_snapshot(old, name)
    return notes, compare_snapshots(thing, snapshot, new.project / run / snapshot.name)


def described(checkout: Checkout) -> dict[str, str]:
    """Version and commit of a checkout."""
    code = "import sg3flow; print(sg3flow.__version__)"
    version = checkout.run(sys.executable, "-c", code).splitlines()[-1]
    git = ("git", "-C", str(checkout.source))
    commit = checkout.run(*git, "rev-parse", "--short=12", "HEAD").strip()
    changed = checkout.run(*git, "status", "--porcelain").strip()
    return {"version": version, "commit": f"{commit}, with changes" if changed else commit}


def show(result: dict[str, Any]) -> None:
    """Print the table, the notes of NEW about OLD's states, and the result."""
    rows = result["rows"]
    width = max(len(row["thing"]) for row in rows)
    print(f"\n{'thing':{width}}  {'OLD':12}  {'NEW':12}  equal?")
    for row in rows:
        verdict = "equal" if row["equal"] else "DIFFERENT"
        digests = f"{row['old'][:12]:12}  {row['new'][:12]:12}"
        note = f" ({row['note']})" if row["note"] else ""
        print(f"{row['thing']:{width}}  {digests}  {verdict}{note}")
    print("\nNotes of NEW about OLD's states, before it trains:")
    for line in result["notes_about_old_states"] or ["(nothing)"]:
        print(f"  {line}")
    for name in ("old", "new"):
        print(f"{name.upper()}: sg3flow {result[name]['version']}, {result[name]['commit']}")
    differing = [row["thing"] for row in rows if not row["equal"]]
    if differing:
        print(f"{len(differing)} of {len(rows)} differ; the first: {differing[0]}")
    else:
        print(f"all {len(rows)} are equal")


if __name__ == "__main__":
    main()
