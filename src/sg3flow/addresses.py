"""Addresses of files on the network, without the secrets that they may hold."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit
from urllib.request import url2pathname

from sg3flow.errors import DataError

# Loads what a scheme names into a local file or folder: ``models`` and ``runs``, say.
RESOLVERS: dict[str, Callable[[str], Path]] = {}

_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://\S+")


def shown_url(url: str) -> str:
    """``url`` as messages and records may hold it.

    User name and password are left out, and so are query and fragment: an address that was signed
    for one download carries its key there. A path of this machine stays as it is.
    """
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises where the port is no number
    except ValueError:
        return re.sub(r"(?<=://).*@", "", url, flags=re.DOTALL).partition("?")[0].partition("#")[0]
    if not parts.netloc:  # sqlite:///FILE: urlunsplit would take two slashes away
        return url.partition("?")[0].partition("#")[0]
    netloc = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=netloc, query="", fragment=""))


def without_secrets(text: str) -> str:
    """``text`` with every address in it as ``shown_url`` gives it."""
    return _ADDRESS.sub(lambda found: shown_url(found[0]), text)


def address_mark(url: str) -> str:
    """A hexadecimal digest that tells addresses apart without telling their secrets."""
    return hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()


_SCHEMES = ("https", "http", "file")


def is_url(text: str) -> bool:
    """Whether ``text`` is an address that ``download`` takes."""
    return text.lower().startswith(tuple(f"{scheme}://" for scheme in _SCHEMES))


def url_file_name(url: str) -> str:
    """The last part of the address's path, made safe as a file name."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", _split(url).path.rstrip("/").rpartition("/")[2])
    return name.lstrip(".") or "download"


def local_path(url: str) -> Path:
    """The file or folder that a file:// address names; it need not exist."""
    parts = _split(url)
    if parts.netloc not in ("", "localhost"):
        raise DataError(f"a file:// address names no other machine; '{parts.netloc}' was found")
    return Path(url2pathname(parts.path))


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises where the port is no number
    except ValueError:
        # Not the error's text: it may quote a piece of the password as the port.
        raise DataError(f"'{shown_url(url)}' is not an address") from None
    if parts.scheme not in _SCHEMES:
        raise DataError(f"'{shown_url(url)}' does not start with https://, http:// or file://")
    return parts
