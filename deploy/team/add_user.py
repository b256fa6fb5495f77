"""Add someone to the team's MLflow server, or give them a new password.

    docker compose -f deploy/team/compose.yaml exec mlflow python add_user.py ana

prints the lines for ana's ~/.mlflow/credentials. `--reset` sets a new password for an existing
user, also for `admin`. The admin's password comes from MLFLOW_TRACKING_PASSWORD or
TEAM_ADMIN_PASSWORD. The script needs only Python.
"""

import argparse
import base64
import json
import os
import secrets
import sys
import threading
import urllib.error
import urllib.request


def set_password(url: str, admin_password: str, name: str, password: str, *, reset: bool) -> None:
    """Create a user, or change a user's password.

    Raises:
        OSError: the server cannot be reached, or refuses; the message says why.
    """
    path, method = ("update-password", "PATCH") if reset else ("create", "POST")
    credentials = base64.b64encode(f"admin:{admin_password}".encode()).decode()
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/users/{path}",
        json.dumps({"username": name, "password": password}).encode(),
        {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
        method=method,
    )
    notice = threading.Timer(2, print, [f"waiting for {url}"], {"file": sys.stderr, "flush": True})
    notice.daemon = True
    notice.start()
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")
        if error.code in (401, 403):
            said = "the password of admin is another; set MLFLOW_TRACKING_PASSWORD to it"
        raise OSError(f"{url} answers {error.code}: {' '.join(said.split())[:300]}") from error
    finally:
        notice.cancel()


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description="Add a user to the team's MLflow server.")
    parser.add_argument("name")
    parser.add_argument(
        "--reset", action="store_true", help="set a new password for an existing user"
    )
    port = os.environ.get("TEAM_PORT") or "5000"
    parser.add_argument("--url", default=f"http://127.0.0.1:{port}", help="default: %(default)s")
    arguments = parser.parse_args()
    environment = os.environ
    admin = environment.get("MLFLOW_TRACKING_PASSWORD") or environment.get("TEAM_ADMIN_PASSWORD")
    if not admin:
        print("error: set TEAM_ADMIN_PASSWORD, or MLFLOW_TRACKING_PASSWORD", file=sys.stderr)
        return 1
    password = secrets.token_urlsafe(18)
    try:
        set_password(arguments.url, admin, arguments.name, password, reset=arguments.reset)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"[mlflow]\nmlflow_tracking_username = {arguments.name}")
    print(f"mlflow_tracking_password = {password}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
