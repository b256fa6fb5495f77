"""URLs: shown without the secrets in them, split, turned into file names and local paths.

Short: a leaf that downloads, git and tracking share.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

from sg3flow.errors import DataError

# Scheme, for example ``models`` or ``runs`` -> copies what a URL names to a local path.
RESOLVERS: dict[str, Callable[[str], Path]] = {}

_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://\S+")


def shown_url(url: str) -> str:
    """``url`` without secrets, for messages and records.

    User name, password, query and fragment are removed: a signed URL has its key in the query. A
    local path is returned unchanged.
    """
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises where the port is no number
    except ValueError:
        return re.sub(r"(?<=://).*@", "", url, flags=re.DOTALL).partition("?")[0].partition("#")[0]
    if not parts.netloc:  # sqlite:///FILE: urlunsplit would remove two slashes
        return url.partition("?")[0].partition("#")[0]
    netloc = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=netloc, query="", fragment=""))


def without_secrets(text: str) -> str:
    """``text`` with ``shown_url`` applied to every URL in it."""
    return _ADDRESS.sub(lambda found: shown_url(found[0]), text)


REMOVED = "/..."  # ends an address whose path was removed


def shown_host(url: str) -> str:
    """Scheme, host and port of a URL whose path is a secret too, as that of a chat webhook."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a URL"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{parts.scheme}://{host}{port}{REMOVED}" if host else "a URL"


# The setting of a webhook in YAML or JSON, also on a line of its own or as a block; what closes a
# list or mapping behind it is no part of the URL.
_WEBHOOK = re.compile(
    r"""(\bnotify["']?\s*:\s*(?:[>|][-+]?\s+)?["']?)"""
    r"""([A-Za-z][\w+.-]*://[^\s'"]+?)(?=[,\]}]*(?:[\s'"]|$))"""
)


def without_webhooks(text: str) -> str:
    """A params file, lock file or diff with ``shown_host`` applied to every ``notify`` setting."""
    return _WEBHOOK.sub(lambda found: found[1] + shown_host(found[2]), text)


def address_mark(url: str) -> str:
    """A hexadecimal digest that identifies a URL without revealing its secrets."""
    return hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()


_SCHEMES = ("https", "http", "file")


def is_url(text: str) -> bool:
    """Whether ``text`` is a URL that ``download`` takes."""
    return text.lower().startswith(tuple(f"{scheme}://" for scheme in _SCHEMES))


def url_file_name(url: str) -> str:
    """The last part of the path of a URL, as a safe file name."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", split_url(url).path.rstrip("/").rpartition("/")[2])
    return name.lstrip(".") or "download"


def local_path(url: str) -> Path:
    """The path that a file:// URL names; it need not exist."""
    from urllib.request import url2pathname  # with its HTTP client, a third of the package's start

    parts = split_url(url)
    if parts.netloc not in ("", "localhost"):
        raise DataError(f"a file:// URL must not name another machine, as '{parts.netloc}'")
    return Path(url2pathname(parts.path))


def split_url(url: str) -> SplitResult:
    """The parts of an address that ``download`` takes.

    Raises:
        DataError: it is none.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises where the port is no number
    except ValueError:
        # Without the text of the error: it may quote a piece of the password as the port.
        raise DataError(f"'{shown_url(url)}' is not a URL") from None
    if parts.scheme not in _SCHEMES:
        raise DataError(f"'{shown_url(url)}' does not start with https://, http:// or file://")
    return parts
