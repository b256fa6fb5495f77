"""Start the team's MLflow server: PostgreSQL, an S3 store, a login for everyone.

The container, the systemd unit and the tests start the server with this file. It reads TEAM_*
settings (`new_secrets.py` writes them), creates missing buckets, and then replaces itself by
`mlflow server`. Passwords are in the settings file only, and never on a command line.
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

_AUTH_SETTINGS = Path(__file__).resolve().with_name("basic_auth.ini")
_SECRETS = (
    "TEAM_DB_PASSWORD",
    "TEAM_ADMIN_PASSWORD",
    "TEAM_SECRET_KEY",
    "TEAM_S3_ACCESS_KEY",
    "TEAM_S3_SECRET_KEY",
)
_DEFAULTS = {
    "TEAM_LISTEN": "127.0.0.1",
    "TEAM_PORT": "5000",
    "TEAM_WORKERS": "2",
    "TEAM_DB_HOST": "127.0.0.1",
    "TEAM_DB_PORT": "5432",
    "TEAM_S3_URL": "http://127.0.0.1:7070",
    "TEAM_S3_REGION": "us-east-1",
    "TEAM_S3_BUCKET": "mlflow",
    "TEAM_DVC_BUCKET": "dvc",
}
_SHORTEST_SECRET = 16
# libpq takes host and user from PG* variables. The driver is named because SQLAlchemy 2.1 would
# choose another one.
_DATABASE = "postgresql+psycopg2:///mlflow"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


class SettingsError(Exception):
    """A setting is missing or invalid; the message is one line that names it."""


def read_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The TEAM_* settings in force, with defaults.

    Raises:
        SettingsError: a secret is missing or short, or the host is not a host name.
    """
    settings = _DEFAULTS | {
        name: value for name, value in environment.items() if name.startswith("TEAM_") and value
    }
    for name in _SECRETS:
        if len(settings.get(name, "")) < _SHORTEST_SECRET:
            raise SettingsError(
                f"{name} must be set, to {_SHORTEST_SECRET} characters or more: "
                "deploy/team/new_secrets.py makes a settings file"
            )
    if not _HOST.fullmatch(settings.get("TEAM_HOST", "")):
        raise SettingsError("TEAM_HOST must be the name people reach this server by, without port")
    return settings


def server_command(settings: Mapping[str, str]) -> list[str]:
    """The command line of the MLflow server; it holds no secret."""
    host = settings["TEAM_HOST"]
    names = dict.fromkeys([host, "localhost", "127.0.0.1"])
    hosts = [pattern for name in names for pattern in (name, f"{name}:*")]
    origins = [f"{scheme}://{p}" for scheme in ("http", "https") for p in (host, f"{host}:*")]
    return [
        sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth",
        "--host", settings["TEAM_LISTEN"],
        "--port", settings["TEAM_PORT"],
        "--workers", settings["TEAM_WORKERS"],
        "--backend-store-uri", _DATABASE,
        "--serve-artifacts",
        "--artifacts-destination", f"s3://{settings['TEAM_S3_BUCKET']}",
        "--allowed-hosts", ",".join(hosts),
        "--cors-allowed-origins", ",".join(origins),
    ]  # fmt: skip


def server_environment(
    settings: Mapping[str, str], environment: Mapping[str, str]
) -> dict[str, str]:
    """The environment of the MLflow server: the secrets, as its libraries read them."""
    # A session token or profile of the person who starts the server must not mix with its own keys.
    kept = {
        name: value
        for name, value in environment.items()
        if name == "AWS_CA_BUNDLE" or not name.startswith(("TEAM_", "AWS_", "PG"))
    }
    return kept | {
        "PGHOST": settings["TEAM_DB_HOST"],
        "PGPORT": settings["TEAM_DB_PORT"],
        "PGUSER": "mlflow",
        "PGPASSWORD": settings["TEAM_DB_PASSWORD"],
        "AWS_ACCESS_KEY_ID": settings["TEAM_S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": settings["TEAM_S3_SECRET_KEY"],
        "AWS_DEFAULT_REGION": settings["TEAM_S3_REGION"],
        "MLFLOW_S3_ENDPOINT_URL": settings["TEAM_S3_URL"],
        "MLFLOW_AUTH_CONFIG_PATH": str(_AUTH_SETTINGS),
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": settings["TEAM_ADMIN_PASSWORD"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": settings["TEAM_SECRET_KEY"],
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # It would start eight more processes, for evaluations of language models.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def ensure_buckets(settings: Mapping[str, str]) -> None:
    """Create the buckets for MLflow's artifacts and for DVC if they are missing.

    Raises:
        SettingsError: the store cannot be reached or refuses the keys.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    region = settings["TEAM_S3_REGION"]
    print(f"waiting for the S3 store at {settings['TEAM_S3_URL']}", flush=True)
    client = boto3.client(
        "s3",
        endpoint_url=settings["TEAM_S3_URL"],
        region_name=region,
        aws_access_key_id=settings["TEAM_S3_ACCESS_KEY"],
        aws_secret_access_key=settings["TEAM_S3_SECRET_KEY"],
    )
    place = {} if region == "us-east-1" else {"LocationConstraint": region}
    try:
        there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
        for name in sorted({settings["TEAM_S3_BUCKET"], settings["TEAM_DVC_BUCKET"]} - there):
            more = {"CreateBucketConfiguration": place} if place else {}
            client.create_bucket(Bucket=name, **more)
    except (BotoCoreError, ClientError) as error:
        raise SettingsError(
            f"the S3 store at {settings['TEAM_S3_URL']} failed: {error}; check TEAM_S3_URL, "
            "TEAM_S3_ACCESS_KEY and TEAM_S3_SECRET_KEY"
        ) from error


def main() -> int:
    """Replace this process by the server or the upgrade; returns an exit status only on failure."""
    parser = argparse.ArgumentParser(description="Start the team's MLflow server.")
    parser.add_argument(
        "--upgrade-database",
        action="store_true",
        help="upgrade its tables to this MLflow version and exit",
    )
    arguments = parser.parse_args()
    try:
        settings = read_settings(os.environ)
        if not arguments.upgrade_database:
            ensure_buckets(settings)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    upgrade = [sys.executable, "-m", "mlflow", "db", "upgrade", _DATABASE]
    command = upgrade if arguments.upgrade_database else server_command(settings)
    os.execve(command[0], command, server_environment(settings, os.environ))


if __name__ == "__main__":
    sys.exit(main())
