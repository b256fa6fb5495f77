"""Which packages are installed."""

import importlib.metadata
import re
from collections.abc import Mapping


def installed_packages() -> dict[str, str]:
    """Version by normalised name of every installed package; the first on the path counts."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.name
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return dict(sorted(found.items()))


def format_packages(versions: Mapping[str, str]) -> str:
    """A line a package, ``name==version``."""
    return "".join(f"{name}=={version}\n" for name, version in versions.items())


def parse_packages(text: str) -> dict[str, str]:
    """What ``format_packages`` wrote."""
    return dict(line.split("==", 1) for line in text.splitlines() if "==" in line)
