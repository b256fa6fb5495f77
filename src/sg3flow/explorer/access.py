"""Who may use the page: no other site, and no name that was rebound to this machine.

A site that is open in the same browser can send requests to 127.0.0.1, and with a DNS name of its
own that changes to 127.0.0.1 (DNS rebinding) it could even read the answers. Browsers name the host
and the origin of every request, so both are checked. Behind a proxy the two may differ; then
``Sec-Fetch-Site``, which no page can set, says whether a request comes from the page itself.
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sg3flow.errors import cut
from sg3flow.explorer.page_files import problem

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
# Nothing from elsewhere is loaded, and nothing is sent elsewhere.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def names_of(host: str, others: Collection[str] = ()) -> set[str] | None:
    """The host names of a page at an address; None: any, as other machines can reach it.

    Args:
        others: further names, behind a proxy.
    """
    is_local = host in LOCAL_NAMES or host.startswith("127.")
    return {*LOCAL_NAMES, host, *(name.lower() for name in others)} if is_local else None


class OwnPagesOnly:
    """ASGI middleware: refuses requests of other sites, and sets the headers of all answers.

    Args:
        names: host names of the page; None: any, for a server that other machines use.
        others: those of them that it has behind a proxy.
    """

    def __init__(
        self, app: ASGIApp, names: Collection[str] | None, others: Collection[str] = ()
    ) -> None:
        self.app, self.names = app, names
        self.others = {name.lower() for name in others}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        sentence = self._refusal(scope["method"], Headers(scope=scope))
        if sentence:
            await problem(403, sentence)(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> str:
        """Why a request is refused; empty: it is not."""
        name = _host_name(headers.get("host", ""))
        if self.names is not None and name not in self.names:
            return (
                f"the explorer is not called '{cut(name)}'; if that is its name behind a proxy, "
                f"start it with --allow-host {cut(name)}"
            )
        site = headers.get("sec-fetch-site")
        if site is not None:
            is_own = site in ("same-origin", "none")
        else:
            origin = headers.get("origin")
            is_own = origin is None or self._is_own(origin, headers.get("host", ""))
        # A link may open the page; a form of another site may not send anything.
        is_link = headers.get("sec-fetch-mode") == "navigate" and method in ("GET", "HEAD")
        if not is_own and not is_link:
            return (
                "the request comes from the page of another site; open the explorer itself, or "
                "start it with --allow-host NAME if it is behind a proxy"
            )
        return ""

    def _is_own(self, origin: str, host: str) -> bool:
        """Whether an origin is the page: of the same host, or a name that it has behind a proxy.

        Browsers leave ``Sec-Fetch-Site`` out on http:// pages of other machines, and proxies such
        as nginx name the host anew. Other servers of this machine are not the page.
        """
        place = origin.partition("://")[2]
        return bool(place) and (place == host or _host_name(place) in self.others)


class WithoutPrefix:
    """ASGI middleware: the application below a path, whether or not a proxy removes the path.

    Args:
        prefix: starts with a slash and does not end in one; empty: none.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app, self.prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        if self.prefix and path == self.prefix:
            await RedirectResponse(self.prefix + "/")(scope, receive, send)
            return
        if self.prefix and path.startswith(self.prefix + "/"):
            rest = path[len(self.prefix) :]
            scope = {**scope, "path": rest, "raw_path": rest.encode()}
        await self.app(scope, receive, send)


def _host_name(host: str) -> str:
    """The name of a Host header, without its port and without the brackets of IPv6."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
