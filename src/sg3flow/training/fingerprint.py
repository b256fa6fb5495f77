"""What a training's result depends on, as one short name."""

import ast
import dataclasses
import functools
import hashlib
import json
import re
from pathlib import Path

import sg3flow
from sg3flow.config import TrainConfig
from sg3flow.files import sha256_file

# These settings decide how long the training runs, where, and what it shows; not where it goes.
FREE_SETTINGS = frozenset(
    {"kimg", "tick", "snap", "desc", "workers", "grid", "device", "max_repairs", "metrics"}
)

_NUMERICS = (
    "cpu/*",
    "cuda/*",
    "kernels/library.py",
    "kernels/recipes.py",  # the compiler's options
    "ops/*.py",
    "networks/[!s]*.py",
    "networks/s[!u]*.py",  # not summary.py, which only prints
    "training/augment*.py",
    "training/build.py",
    "training/ema.py",
    "training/losses.py",
    "training/step.py",
    "data/archive.py",
    "data/dataset.py",
    "data/sampler.py",
    "devices.py",
    "processes.py",
)


# Literals are matched so that what looks like a comment inside them is none.
_LITERAL_OR_COMMENT = re.compile(
    r"""R"([^ ()\\]*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'"""
    r"""|//(?:\\\n|[^\n])*|/\*.*?\*/""",
    re.DOTALL,
)


def fingerprint(config: TrainConfig, data_digest: str) -> str:
    """Twelve hexadecimal digits over resolved settings, data and the code of the numerics.

    A training with the same fingerprint goes on from saved state; a change of ``kimg`` or ``snap``
    keeps it, a change of ``gamma`` starts a new one.
    """
    settings = {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in FREE_SETTINGS
    }
    if config.resume and Path(config.resume).is_file():
        settings["resume"] = sha256_file(Path(config.resume))  # the network, not where it lies
    key = {"settings": settings, "data": data_digest, "code": numerics_digest()}
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def numerics_digest() -> str:
    """SHA-256 over the syntax of the modules, kernels included, that decide the numbers.

    Comments, docstrings and layout do not count: tidying the code must not orphan a training.
    """
    package = Path(sg3flow.__file__).parent
    digest = hashlib.sha256()
    for pattern in _NUMERICS:
        for path in sorted(p for p in package.glob(pattern) if p.is_file()):
            digest.update(f"{path.relative_to(package).as_posix()}\n".encode())
            source = path.read_text(encoding="utf-8")
            meaning = _meaning if path.suffix == ".py" else _meaning_of_cpp
            digest.update(meaning(source).encode())
    return digest.hexdigest()


def _meaning_of_cpp(source: str) -> str:
    plain = _LITERAL_OR_COMMENT.sub(lambda m: " " if m[0].startswith("/") else m[0], source)
    return " ".join(plain.split())


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[0] = ast.Pass()
    return repr(_shape(tree))


def _shape(value: object) -> object:
    """A syntax tree as nested tuples; `ast.dump` writes the same tree differently by version."""
    if isinstance(value, list):
        return [_shape(item) for item in value]
    if not isinstance(value, ast.AST):
        return value
    fields = [(name, _shape(v)) for name, v in ast.iter_fields(value) if v is not None and v != []]
    return (type(value).__name__, *fields)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
