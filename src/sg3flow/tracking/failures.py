"""What an error of MLflow's client means, and the command that mends it.

``check_address`` refuses an address that cannot work before anything is contacted, because MLflow
takes most of them for a folder. ``explain`` turns an exception into a sentence. Only an error that
came without an answer gets the advice to look after the server.
"""

import importlib.util
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from sg3flow.addresses import shown_url, without_secrets
from sg3flow.errors import TrackingError

_VARIABLE = "MLFLOW_TRACKING_URI"
_MAX_TEXT = 300
_HOST = re.compile(r"(?:[^/\s]*@)?(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*)(?::\d+)?(?:/[^\s]*)?")


def check_address(uri: str) -> None:
    """Check that a tracking URI is written as MLflow needs it.

    Raises:
        TrackingError: it is not; the message has the corrected one where that is known.
    """
    problem = _problem_of(uri)
    if problem:
        shown = re.sub(r"^.*@", "", uri) if "://" not in uri else shown_url(uri)
        raise TrackingError(f"MLFLOW_TRACKING_URI is '{shown[:200]}', which {problem}")


def _problem_of(uri: str) -> str:
    """What is wrong with a tracking URI; empty: nothing that can be seen."""
    if uri != uri.strip(" \t\n\"'"):
        return "has spaces or quotes around the address: remove them"
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _problem_without_scheme(uri)
    if scheme in ("http", "https"):
        return _problem_of_server(scheme, rest)
    if scheme == "sqlite":
        return _problem_of_file(rest)
    if scheme.partition("+")[0] == "postgres":
        return "must begin with postgresql://, as SQLAlchemy writes it"
    return _FILE_STORE if scheme == "file" and not _allows_files() else ""


_FILE_STORE = (
    "is a folder, and this MLflow does not store runs in files: set it to a database, for example "
    "sqlite:///mlflow.db; `mlflow migrate-filestore --help` tells how to keep the old runs"
)


def _problem_without_scheme(uri: str) -> str:
    if uri == "databricks" or re.match(r"(uc|databricks-uc)\b", uri):
        return ""
    if uri.startswith("sqlite:") or uri.endswith((".db", ".sqlite")):
        path = uri.removeprefix("sqlite:")
        return (
            f"is no address of a database: `export {_VARIABLE}={shlex.quote(f'sqlite:///{path}')}`"
        )
    is_path = uri.startswith((".", "/", "~")) or Path(uri).exists()
    if is_path or not _HOST.fullmatch(uri):
        return "" if _allows_files() else _FILE_STORE
    host = re.sub(r"^.*@", "", uri)
    scheme = "http" if re.match(r"localhost|127\.|[^/.]*(:|$)|.*:\d", host) else "https"
    return f"has no scheme: `export {_VARIABLE}={shlex.quote(f'{scheme}://{host}')}`"


def _problem_of_server(scheme: str, rest: str) -> str:
    place, _, page = rest.partition("#")
    host, _, port = place.partition("/")[0].rpartition("@")[2].partition(":")
    if page or "#" in rest:
        address = f"{scheme}://{host}{':' + port if port else ''}"
        return f"is the address of a page: `export {_VARIABLE}={shlex.quote(address)}`"
    if not host:
        return f"names no host: write {scheme}://HOST:PORT"
    if port and not port.isdecimal() and not host.startswith("["):
        return "has a port that is no number"
    return ""


def _problem_of_file(rest: str) -> str:
    if not rest:
        return ""  # in memory
    if not rest.startswith("/"):
        right = shlex.quote(f"sqlite:///{rest}")
        return f"needs three slashes before a file: `export {_VARIABLE}={right}`"
    path = Path(rest[1:].partition("?")[0])
    if path.is_dir() and rest != "/":
        return "names a folder, not a database file"
    if not path.parent.is_dir():
        return f"is in a folder that does not exist: `mkdir -p {shlex.quote(str(path.parent))}`"
    return ""


def _allows_files() -> bool:
    return os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")


def explain(error: Exception, uri: str, *, command: str = "mlflow") -> str:
    """The problem and the next step, in a line without secrets, to follow the name of the store.

    Args:
        command: how to start MLflow's own command for this store.
    """
    text, uri = without_secrets(" ".join(str(error).split())), shown_url(uri)
    for pattern, reason in (*_KNOWN, *(_LOCAL if uri.startswith("sqlite:") else ()), *_CONNECTION):
        if found := re.search(pattern, text):
            sentence = reason(found) if callable(reason) else reason
            return sentence.replace("{mlflow}", command).replace("{uri}", shlex.quote(uri))
    if isinstance(error, ValueError | KeyError | TypeError) and not isinstance(error, OSError):
        reason = f"{type(error).__name__}: {text[:_MAX_TEXT]}"  # a problem of the client
        return f"cannot be used: {reason}; check the MLFLOW_* variables, or report it to sg3flow"
    if _has_answered(error):
        return f"refuses: {text[:_MAX_TEXT]}"
    if uri.startswith(("http:", "https:")):
        return f"failed: {text[:_MAX_TEXT]}; check {_VARIABLE} and that the server is up"
    return f"failed: {text[:_MAX_TEXT]}; `sg3flow doctor` shows which store is in use"


_ANSWERS = (
    *("RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE"),
    *("INVALID_STATE", "BAD_REQUEST", "NOT_FOUND", "NOT_IMPLEMENTED", "FEATURE_DISABLED"),
)


def _has_answered(error: Exception) -> bool:
    """Whether the store works, and refused what was asked."""
    return getattr(error, "error_code", "") in _ANSWERS


def _schema(found: re.Match[str]) -> str:
    """An older schema can be upgraded; one that this MLflow does not know is newer."""
    package = importlib.util.find_spec("mlflow.store.db_migrations")
    places = (package.submodule_search_locations or ()) if package else ()
    is_older = any([*Path(place).glob(f"versions/{found[1]}_*.py")] for place in places)
    if is_older:
        return (
            "was made by an older MLflow: make a backup of the database, then run "
            "`mlflow db upgrade {uri}`"
        )
    return (
        f"was made by a newer MLflow (its schema {found[1]} is not known here): `pip install "
        f"--upgrade mlflow`, restore a backup, or set {_VARIABLE} to another store"
    )


_PACKAGES = {
    "psycopg": "psycopg2-binary` and write postgresql+psycopg2://…, or `pip install psycopg",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "google": "google-cloud-storage",
    "azure": "azure-storage-blob azure-identity",
}


def _package(found: re.Match[str]) -> str:
    name = found[1].partition(".")[0]
    return f"needs a package that is not installed: `pip install {_PACKAGES.get(name, name)}`"


NO_FILES = "knows it, but its files are missing: copy them back, or register it again"


def _artifact(found: re.Match[str]) -> str:
    if found[1]:
        listing = "`{mlflow} artifacts list --run-id RUN_ID`"
        return f"has no file '{found[1][:80]}' there; {listing} lists those of a run"
    return NO_FILES


# Pattern in the message -> the sentence, or what makes it; the first that matches counts.
_Reasons = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
_KNOWN: _Reasons = (
    # What was asked for is not there.
    (
        r"[Ee]xperiment (\S+) must be in the 'active' state",
        lambda found: (
            f"has deleted the experiment {found[1]}: `{{mlflow}} experiments restore "
            f"--experiment-id {found[1]}` brings it back, or set MLFLOW_EXPERIMENT_NAME to another"
        ),
    ),
    (
        r"No Experiment with id=(\S+) exists|Invalid experiment ID '([^']*)'",
        lambda found: (
            f"has no experiment {(found[1] or found[2])[:40]}: correct or unset "
            "MLFLOW_EXPERIMENT_ID; `{mlflow} experiments search` lists them"
        ),
    ),
    (
        r"Run with id=(\S+) not found|Run '([^']*)' not found",
        lambda found: (
            f"has no run {(found[1] or found[2])[:40]}; `{{mlflow}} runs list --experiment-id ID` "
            "lists those of an experiment"
        ),
    ),
    (
        r"Run with id=(\S+) .*must be in the 'active' state|The run (\S+) must be in the 'active'",
        lambda found: (
            f"has deleted the run {found[1] or found[2]}: `{{mlflow}} runs restore --run-id "
            f"{found[1] or found[2]}` brings it back"
        ),
    ),
    (
        r"Logged model with ID '([^']*)' not found",
        lambda found: (
            f"has no logged model '{found[1][:60]}'; a registered one is written "
            "models:/NAME@ALIAS or models:/NAME/NUMBER"
        ),
    ),
    (
        r"No versions of model with name '([^']*)' and stage '([^']*)' found",
        lambda found: (
            f"has no version of {found[1][:60]} in the stage {found[2][:40]}; write "
            "models:/NAME@ALIAS or models:/NAME/NUMBER"
        ),
    ),
    (r"Not a proper runs:/ URI", "needs runs:/RUN_ID/PATH, with the path of a file in the run"),
    (r"Not a proper models:/ URI", "needs models:/NAME@ALIAS or models:/NAME/NUMBER"),
    (r"No such artifact: '([^']*)'", _artifact),
    (r"Failed to download artifacts from path '([^']*)'", _artifact),
    # The database.
    (r"out-of-date database schema \(found version (\w+)", _schema),
    (r"Can't locate revision identified by '(\w+)'", _schema),
    (r"No module named '([^']+)'", _package),
    (
        r"database is locked",
        "is locked by another program; end that one (`fuser -v FILE` names it) and try again",
    ),
    (
        r"file is not a database",
        "is no SQLite database: move that file away, or set MLFLOW_TRACKING_URI to another",
    ),
    (
        r"database disk image is malformed",
        "is damaged: restore a backup, or recover it with `sqlite3 FILE .recover`",
    ),
    (
        r"readonly database|unable to open database file",
        "cannot be opened for writing: check the owner and rights of the file and its folder",
    ),
    (
        r"unsupported URI '([A-Za-z0-9+.-]*)",
        "has an unknown scheme: the address begins with http://, https://, sqlite:///, "
        "postgresql://, mysql:// or mssql://",
    ),
)
# Of a store on this machine.
_LOCAL: _Reasons = (
    (
        r"No space left on device|disk is full|Disk quota exceeded",
        "has no room: free space on its disk, or move the project to another",
    ),
    (
        r"Permission denied: '([^']*)'",
        lambda found: f"cannot write {found[1][:200]}: check its owner and rights",
    ),
)
# Of a server, or of the store that holds the artifacts.
_CONNECTION: _Reasons = (
    (
        r"404 Client Error.*/mlflow-artifacts/",
        "knows it, but has no such file: it was removed, or never uploaded",
    ),
    (
        r"Permission denied: '(/[^']*)'",
        lambda found: (
            f"gives artifacts an address that cannot be written here, {found[1][:80]}: start the "
            "server with --serve-artifacts and --artifacts-destination, and use a new experiment"
        ),
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "has a certificate that is not trusted: set MLFLOW_TRACKING_SERVER_CERT_PATH to the "
        "file of its authority",
    ),
    (
        r"WRONG_VERSION_NUMBER|SSL: .*record layer|UNEXPECTED_EOF_WHILE_READING",
        "does not use TLS at this port: write http:// instead of https://",
    ),
    (
        r"Unable to connect to proxy|Tunnel connection failed",
        "is behind a proxy that refuses: check http_proxy, https_proxy and no_proxy",
    ),
    (
        r"Connection refused|Name or service not known|name resolution|No route to host|"
        r"Network is unreachable|nodename nor servname|No address associated",
        "cannot be reached; check MLFLOW_TRACKING_URI and that the server is up",
    ),
    (
        r"timed out|timeout exception",
        "does not answer; check the address, and that the server is not stuck",
    ),
    (
        r"Invalid Host header",
        "refuses the host name of this address: start the server with --allowed-hosts "
        "HOST:PORT, or use a name that it allows",
    ),
    (
        r"error code 40[13]|40[13] Client Error|PERMISSION_DENIED",
        "refuses us; check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and the "
        "permissions of that user",
    ),
    (
        r"No space left on device|too many 50[07] error|disk is full",
        "failed inside the server; check its log and that its disk is not full",
    ),
    (
        r"error code 413|413 Client Error",
        "is behind a proxy that refuses files of this size: raise its limit "
        "(client_max_body_size of nginx)",
    ),
    (
        r"error code 50[234]|50[234] Server Error|too many 50[234] error",
        "is behind a proxy that does not reach it: check that the server is up",
    ),
    (
        r"error code 404|404 Client Error|Expecting value: line|not in a valid JSON",
        "does not answer as an MLflow server: check host, port and path in MLFLOW_TRACKING_URI, "
        "and that its version is not older than 3",
    ),
)
