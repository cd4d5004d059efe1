"""Names of backends and the form of addresses, for settings."""

from __future__ import annotations

from typing import Final

from foldblend.errors import UserError

__all__ = ["AUTO", "CLIENT", "FLAG", "LOCAL", "RAY", "check_address"]

LOCAL: Final = "local"
RAY: Final = "ray"
AUTO = "auto"
CLIENT = "ray://"
FLAG = "--ray-address"


def check_address(address: str, source: str = FLAG) -> None:
    """Raise UserError for what is no address of a Ray cluster; `source` says who names it.

    Examples
    --------
    >>> check_address("auto"), check_address("ray://head:10001")
    (None, None)
    """
    if address == AUTO:
        return
    host, colon, port = address.removeprefix(CLIENT).rpartition(":")
    if not (host and "/" not in host and colon and port.isdecimal() and int(port) < 2**16):
        raise UserError(
            f"{source} {address}: is no address; write {AUTO}, host:port or {CLIENT}host:port"
        )
