"""Which addresses of a sign-in may be used: https, or http to this very machine."""

from ipaddress import ip_address
from urllib.parse import urlsplit

MAX_URL = 2048


def why_unusable(url: str) -> str:
    """What is wrong with an address at a provider, as the end of a sentence; "" when nothing is."""
    if not url or len(url) > MAX_URL or not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        return "is not an address"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not an address"
    if not host or parts.username is not None or parts.fragment or "\\" in url:
        return "is not a plain address"
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        return "does not begin with https://"
    return ""


def is_inside(url: str) -> bool:
    """Whether an address that can be used leads to this machine, or to what answers on its link only."""
    host = urlsplit(url).hostname or ""
    try:
        return is_loopback(host) or ip_address(host).is_link_local or ip_address(host).is_unspecified
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """This machine, by name (RFC 6761 section 6.3) or number; no other name is looked up."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
