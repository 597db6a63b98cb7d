"""Addresses of images, which are fetched within limits of size and time, and of streams, which are told apart."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from time import monotonic
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from frcnn._version import __version__
from frcnn.errors import ImageError, one_line
from frcnn.runtime.images.decode import is_image

if TYPE_CHECKING:
    from http.client import HTTPResponse

WEB_SCHEMES: Final = frozenset({"http", "https"})
STREAM_SCHEMES: Final = frozenset({"rtsp", "rtsps"})
_PATIENCE_S: Final = 10.0
_LONGEST_S: Final = 120.0
_MOST_BYTES: Final = 256 * 2**20
_STREAMED: Final = re.compile(r"(?:video|audio|multipart)/|application/.*mpegurl")
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml", "application/json", "application/pdf"})


def scheme_of(text: str) -> str:
    """Return the scheme of an address; empty where a text is none, such as a path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://.", text)
    return match[1].lower() if match else ""


def file_name(address: str) -> str:
    """Return a file name for what comes from an address: its last part, or its host."""
    try:
        parts = urlsplit(address)
        name = PurePosixPath(unquote(parts.path)).name or parts.hostname or "stream"
    except ValueError as error:
        raise ImageError(f"{address}: not an address: {error}") from None
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".")[-100:] or "stream"


def fetch_image(address: str) -> bytes | None:
    """Return the bytes of an image at an http or https address; None where something else is there: a video, a stream.

    The type that the server gives decides, and where that is vague the first bytes do. Redirects lead to web addresses
    only; a password goes to its own host only.

    Raises:
        ImageError: nothing is there, a web page is, it is too large, or it takes too long.
    """
    from http.client import HTTPException

    until = monotonic() + _LONGEST_S
    try:
        with _answer(address) as answer:
            kind = answer.headers.get_content_type()
            if _STREAMED.match(kind):
                return None
            if kind in _PAGES:
                raise ImageError(f"{address}: expected an image or a video, got {kind}", hint="is it behind a login?")
            head = answer.read(16)
            if not (kind.startswith("image/") or is_image(head)):
                return None
            content = bytearray(head)
            while part := answer.read1(2**16):
                content += part
                if len(content) > _MOST_BYTES or monotonic() > until:
                    raise ImageError(
                        f"{address}: expected at most {_MOST_BYTES:,} bytes in {_LONGEST_S:g} s, there are more",
                        hint="download it first",
                    )
            return bytes(content)
    except (OSError, HTTPException, ValueError) as error:  # ValueError: no address
        raise ImageError(
            f"{address}: cannot be fetched: {_reason(error)}", hint="is it right, and reachable?"
        ) from None


def _answer(address: str) -> HTTPResponse:
    """Ask for what is at an address, with the user and password that it has."""
    from urllib import request

    class Close401(request.BaseHandler):
        """Closes the answer that asks for a password: those who give it leave it open."""

        handler_order = 0

        def http_error_401(self, _request: object, answer: HTTPResponse, *_: object) -> None:
            answer.close()

    parts = urlsplit(address)
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    passwords = request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        site = urlunsplit((place.scheme, place.netloc, "", "", ""))
        passwords.add_password(None, site, unquote(parts.username), unquote(parts.password or ""))
    opener = request.OpenerDirector()  # without those of files, FTP and data
    opener.addheaders = [("User-Agent", f"frcnn/{__version__}")]
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        request.HTTPRedirectHandler(),
        Close401(),
        request.HTTPBasicAuthHandler(passwords),
        request.HTTPDigestAuthHandler(passwords),
    ):
        opener.add_handler(handler)
    answer: HTTPResponse = opener.open(quote(urlunsplit(place), safe="%/:=&?~#+!$,;'@()*[]"), timeout=_PATIENCE_S)
    return answer


def _reason(error: Exception) -> str:
    from urllib.error import HTTPError

    if isinstance(error, HTTPError):
        error.close()
        return f"the server says {error.code} {error.reason}"
    cause = getattr(error, "reason", error)
    return one_line(cause) if isinstance(cause, Exception) else str(cause)
