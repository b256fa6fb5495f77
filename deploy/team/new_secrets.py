"""Write the settings of a team server, with fresh random passwords, to a file only you can read.

    python deploy/team/new_secrets.py --host mlflow.example.org

Compose reads the file by itself, systemd reads it as EnvironmentFile. An existing file is never
overwritten, because the databases keep the passwords they were created with.
"""

import argparse
import os
import re
import secrets
import sys
from pathlib import Path

_FILE = Path(__file__).with_name(".env")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


def settings_text(host: str) -> str:
    """The lines of a settings file, with new random passwords.

    Args:
        host: the server's name as people type it into the browser, without port.
    """
    values = {
        "TEAM_HOST": host,
        "TEAM_PORT": "5000",
        "TEAM_DB_ADMIN_PASSWORD": secrets.token_hex(24),
        "TEAM_DB_PASSWORD": secrets.token_hex(24),
        "TEAM_ADMIN_PASSWORD": secrets.token_hex(24),
        "TEAM_SECRET_KEY": secrets.token_hex(32),
        "TEAM_S3_ACCESS_KEY": secrets.token_hex(10).upper(),
        "TEAM_S3_SECRET_KEY": secrets.token_hex(24),
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def write_settings(path: Path, host: str) -> None:
    """Write a new settings file with mode 0600.

    Raises:
        ValueError: the host is not a host name.
        OSError: the file exists, or its folder cannot be written.
    """
    if not _HOST.fullmatch(host):
        raise ValueError(f"--host must be a name or an IPv4 address without port, not '{host}'")
    # The file is created with its mode, so others can never read it, not even for a moment.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(settings_text(host))


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description="Write the settings file of a team server.")
    parser.add_argument("--host", default="localhost", help="host name of the server")
    parser.add_argument("--file", type=Path, default=_FILE, help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        write_settings(arguments.file, arguments.host)
    except FileExistsError:
        print(f"error: {arguments.file} exists and stays as it is", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.file} holds new passwords; keep it out of git and in your backups")
    return 0


if __name__ == "__main__":
    sys.exit(main())
