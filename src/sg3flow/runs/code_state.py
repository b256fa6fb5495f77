"""What decides the numbers: the source files of each stage, digests over them, and the commit.

The one list of the project. The fingerprint of a training and the provenance record read it, and
the ``code`` stage of ``dvc.yaml`` writes a file per stage, on which that stage depends: a stage
runs again when code that decides its outputs changes, and not when a report, a message, a
transfer or the tracking does.

Comments, docstrings, formatting, and texts in ``raise``, in errors and in calls that print, log or
show progress do not count: a training of days must not start again because a sentence improved. A
message that is put together elsewhere does count.
"""

import ast
import dataclasses
import functools
import getpass
import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import sg3flow
from sg3flow.checkpoints.network_catalog import named_network
from sg3flow.errors import ConfigError
from sg3flow.files import sha256_file, write_text
from sg3flow.git import Changes, GitError, GitTree, git_tree
from sg3flow.params_file import SECTIONS, read_params

# Glob patterns below the package.
_OPS = ("cpu/*", "cuda/*", "kernels/build_plan.py", "kernels/cuda_compile.py", "ops/*.py")
_NETWORKS = (*_OPS, "networks/*.py", "device.py", "distributed.py", "precision.py")
_PACKED_SET = ("data/archive.py", "data/dataset.py")
_CONVERSION = ("data/image_decoding.py",)
_PIXELS = (*_CONVERSION, "data/image_transform.py", "data/perceptual_hash.py")

# The numerics of a training: what its fingerprint is made of.
TRAINING_NUMERICS = (
    *_NETWORKS,
    *_PACKED_SET,
    "training/adam.py",
    "training/assembly.py",
    "training/conv_choice.py",
    "training/cuda_graphs.py",
    "training/gradient_average.py",
    "training/losses.py",
    "training/relativistic_loss.py",
    "training/step.py",
)
# Used only by a training with `resume` set.
TRANSFER = ("training/transfer.py",)

STAGE_FILES: dict[str, tuple[str, ...]] = {
    "fetch": (
        "data/extraction.py",
        "data/fetching.py",
        "data/raw_images.py",
        "data/starter/*.py",
    ),
    "pack": (
        *_PIXELS,
        "data/manifest.py",
        "data/packed_form.py",
        "data/packing.py",
        "data/raw_images.py",
        "data/readers/*.py",
        "data/worker_pool.py",
    ),
    "validate": (
        *_PIXELS,
        "data/archive.py",
        "data/manifest.py",
        "data/validation/*.py",
        "data/worker_pool.py",
    ),
    "train": (*TRAINING_NUMERICS, *TRANSFER),
    "evaluate": (
        *_NETWORKS,
        *_CONVERSION,
        "data/archive.py",
        "metrics/*.py",
        "metrics/features/*.py",
        "runs/best_snapshot.py",
    ),
    "render": (*_NETWORKS, "rendering/*.py", "runs/best_snapshot.py"),
    "register": (
        *_NETWORKS,
        "metrics/error_terms.py",
        "metrics/estimates.py",
        "metrics/names.py",
        "registry/aliases.py",
        "registry/candidate.py",
        "registry/gate.py",
        "registry/registered_directions.py",
        "registry/registration.py",
        "registry/version_terms.py",
        "rendering/conditions.py",
        "rendering/edits.py",
        "rendering/grid.py",
        "rendering/images.py",
        "rendering/npz_file.py",
        "rendering/seeds.py",
        "runs/best_snapshot.py",
    ),
}

# What draws a page that a stage writes, by the name of the digests: it decides no other output.
PAGE_FILES: dict[str, tuple[str, ...]] = {
    "validation-page": (
        "reports/charts.py",
        "reports/pages.py",
        "reports/templates/base.html",
        "reports/templates/hover.js",
        "reports/templates/pages.css",
        "reports/templates/parts.html",
        "reports/templates/validation.html",
        "reports/validation_page.py",
    ),
}

# The same files as git pathspecs: a commit that changes none of them has the same code.
CODE_PATHS = (
    "dvc.yaml",
    "stages",
    "src/sg3flow/config.py",
    *sorted({f":(glob)src/sg3flow/{p}" for patterns in STAGE_FILES.values() for p in patterns}),
)

# Settings of the duration, device and display of a training: they do not change its numbers.
FREE_SETTINGS = frozenset(
    {"kimg", "tick", "snap", "desc", "workers", "grid", "device", "metrics"}
    | {"held_out", "keep_snapshots", "notify", "phema", "tensorboard"}
    | {"max_nonfinite_updates", "max_repairs"}  # the second is its name in runs of version 0.1
)

# Defaults of settings that a later version added: they count as not set, so that the trainings of
# earlier versions keep their fingerprints.
NEUTRAL_DEFAULTS = {"conv_form": "auto", "loss": "logistic"}

# Calls whose texts are messages.
_MESSAGES = frozenset(
    {"check_replaceable", "print", "progress", "progress_of", "tracked", "warn"}
    | {"debug", "info", "warning", "error", "exception"}
)
_TEMPLATES = (".css", ".html", ".js")
# Literals are matched so that comment signs inside them do not count.
_LITERAL_OR_COMMENT = re.compile(
    r"""R"([^ ()\\]*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'"""
    r"""|//(?:\\\n|[^\n])*|/\*.*?\*/""",
    re.DOTALL,
)


def package_folder() -> Path:
    """The folder of the running package."""
    return Path(sg3flow.__file__).parent


def files_of(patterns: tuple[str, ...]) -> list[Path]:
    """The source files that patterns of this module name, sorted.

    Raises:
        ConfigError: a pattern matches no file, so the list is out of date.
    """
    package = package_folder()
    found: set[Path] = set()
    for pattern in patterns:
        matched = {path for path in package.glob(pattern) if path.is_file()}
        if not matched:
            raise ConfigError(f"code_state.py lists {pattern}, which {package} does not have")
        found |= matched
    return sorted(found)


@functools.cache
def code_digest(patterns: tuple[str, ...]) -> str:
    """SHA-256 over the meaning of the source files that ``patterns`` match."""
    digest = hashlib.sha256()
    for line in _lines(patterns):
        digest.update(line.encode())
    return digest.hexdigest()


def given_values(settings: Any) -> dict[str, Any]:
    """The settings of a dataclass instance that are set.

    0, false and the empty text mean "not set" everywhere (see ``config.py``). They are left out, so
    that an option added by a later version does not change the fingerprint of earlier trainings.
    """
    return {name: value for name, value in dataclasses.asdict(settings).items() if value}


def write_digests(folder: Path, project: Path) -> None:
    """Write ``<stage>.txt`` for every stage, and a file per page: a digest and a name per line.

    A training that starts from a network of this package depends on that file as on its code.

    Args:
        folder: where to write.
        project: the folder with ``stages/`` and ``params.yaml``; its scripts are included.

    Raises:
        ConfigError: ``params.yaml`` is no params file.
    """
    for stage, patterns in STAGE_FILES.items():
        lines = [*_lines(patterns), *_script(project / "stages" / f"{stage}.py"), _defaults(stage)]
        if stage == "train":
            lines += _bundled_network(project / "params.yaml")
        write_text(folder / f"{stage}.txt", "".join(lines))
    for page, patterns in PAGE_FILES.items():
        write_text(folder / f"{page}.txt", "".join(_lines(patterns)))


def _lines(patterns: tuple[str, ...]) -> Iterator[str]:
    package = package_folder()
    for path in files_of(patterns):
        yield f"{meaning_digest(path)}  {path.relative_to(package).as_posix()}\n"


def _script(path: Path) -> Iterator[str]:
    if path.is_file():
        yield f"{meaning_digest(path)}  stages/{path.name}\n"


def _bundled_network(params: Path) -> Iterator[str]:
    """A line over the network of this package that ``train.resume`` names."""
    training = read_params(params).get("train") if params.is_file() else None
    resume = training.get("resume") if isinstance(training, dict) else None
    named = named_network(resume) if isinstance(resume, str) else None
    if named is not None and named.bundled is not None:
        name = named.bundled.relative_to(package_folder()).as_posix()
        yield f"{sha256_file(named.bundled)}  {name}\n"


def _defaults(stage: str) -> str:
    """A line over the defaults of a stage's settings, which ``params.yaml`` may leave out."""
    fields = dataclasses.fields(SECTIONS[stage])
    free = FREE_SETTINGS if stage == "train" else frozenset()
    given = {
        f.name: f.default
        for f in fields
        if f.default is not dataclasses.MISSING
        and f.default
        and f.name not in free
        and f.default != NEUTRAL_DEFAULTS.get(f.name)
    }
    return f"{hashlib.sha256(repr(sorted(given.items())).encode()).hexdigest()}  defaults\n"


@functools.cache
def meaning_digest(path: Path) -> str:
    """SHA-256 over what a source file does; comments and formatting of code do not count."""
    source = path.read_text(encoding="utf-8")
    if path.suffix in _TEMPLATES:  # their apostrophes and slashes are text
        meaning = source
    else:
        meaning = _python_meaning(source) if path.suffix == ".py" else _cpp_meaning(source)
    return hashlib.sha256(meaning.encode()).hexdigest()


def _cpp_meaning(source: str) -> str:
    bare = _LITERAL_OR_COMMENT.sub(lambda m: " " if m[0].startswith("/") else m[0], source)
    return " ".join(bare.split())


def _python_meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[:1] = [] if len(body) > 1 else [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) or _is_message(node):
            _WithoutTexts().generic_visit(node)
    return repr(_shape(tree))


def _is_message(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in _MESSAGES or name.endswith("Error")


class _WithoutTexts(ast.NodeTransformer):
    """Empties the texts of a message, formatted ones as a whole."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Constant:
        return ast.Constant("")


def _shape(value: object) -> object:
    """A syntax tree as nested tuples; the output of `ast.dump` depends on the Python version."""
    if isinstance(value, list):
        return [_shape(item) for item in value]
    if not isinstance(value, ast.AST):
        return value
    if isinstance(value, ast.JoinedStr):  # some versions of Python add empty texts to its parts
        parts = [part for part in value.values if getattr(part, "value", None) != ""]
        return ("JoinedStr", ("values", _shape(parts)))
    fields = [(name, _shape(v)) for name, v in ast.iter_fields(value) if v is not None and v != []]
    return (type(value).__name__, *fields)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


MOST_DIFF_BYTES = 5_000_000
_MOST_NAMES = 50


def code_folder() -> Path:
    """The project's folder that the running code comes from.

    It is the folder of the package if git tracks that, as with an editable installation. For an
    installed package it is the folder of the script, or else the current one.
    """
    package = Path(sg3flow.__file__).resolve()
    script = Path(sys.argv[0]).resolve()
    with suppress(GitError):  # `code_info` reports it
        if git_tree(package.parent, tracked=package) is not None:
            return package.parents[2]
    return script.parents[1] if script.parent.name == "stages" else Path.cwd()


def user_name() -> str:
    """The name of the user; ``unknown`` if the system has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, in a container
        return "unknown"


def code_info() -> tuple[dict[str, Any], bytes]:
    """Version, commit and state of the running code, and its uncommitted changes.

    If git fails, ``git_error`` has the reason and the commit is empty.
    """
    folder = code_folder()
    package = Path(sg3flow.__file__).resolve()
    facts: dict[str, Any] = {
        "version": sg3flow.__version__,
        "package_in_tree": folder / "src" / "sg3flow" == package.parent,
    }
    unknown = facts | {"commit": "", "dirty": False}
    try:
        tree = git_tree(folder)
        if tree is None:
            return unknown, b""
        changes = tree.changes()
        return facts | _tree_info(tree) | {"diff": _diff_info(changes)}, changes.diff
    except GitError as error:
        return unknown | {"git_error": str(error)}, b""


def _tree_info(tree: GitTree) -> dict[str, Any]:
    changed = tree.changed(["src", "stages", "dvc.yaml"])
    untracked = tree.untracked("src", "stages")
    return {
        "commit": tree.commit,
        "branch": tree.branch(),
        "remote": tree.remote(),
        "prefix": tree.prefix,
        "dirty": bool(changed),
        "changed": changed[:_MOST_NAMES],
        "untracked": untracked[:_MOST_NAMES],
    }


def _diff_info(changes: Changes) -> dict[str, Any]:
    return {
        "bytes": len(changes.diff),
        "sha256": changes.sha256,
        "complete": len(changes.diff) <= MOST_DIFF_BYTES,
        "withheld": changes.withheld[:_MOST_NAMES],
    }
