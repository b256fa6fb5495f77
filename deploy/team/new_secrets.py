"""Write the settings of a team server, with fresh random passwords, to a file only you can read.

    python deploy/team/new_secrets.py --host mlflow.example.org

Compose reads the file by itself, systemd as EnvironmentFile; neither has a password of its own. An
existing file is never overwritten: the databases keep the passwords they were made with.
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
    """The lines of a settings file; every password is drawn anew.

    Args:
        host: the name that people type into their browser, without port.
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
        ValueError: the host is no host name.
        OSError: the file exists, or its folder cannot be written.
    """
    if not _HOST.fullmatch(host):
        raise ValueError(f"--host must be a name or an IPv4 address without port, not '{host}'")
    # The mode is set as the file comes into being: there is no moment when others could read it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(settings_text(host))


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description="Make the settings file of a team server.")
    parser.add_argument("--host", default="localhost", help="name that people reach it by")
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
    print(f"{arguments.file} holds new passwords; keep it out of git and among your backups")
    return 0


if __name__ == "__main__":
    sys.exit(main())
