"""Addresses of files on the network, without the secrets that they may hold."""

import hashlib
import re
from urllib.parse import urlsplit, urlunsplit

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
