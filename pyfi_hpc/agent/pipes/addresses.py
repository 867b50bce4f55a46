"""By which IP address other nodes of a job reach this one."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

from pyfi_hpc.model.request import ResourceRequest

#: Any: nothing is sent to it. Source: RFC 863, discard.
_PORT = 9


def several_nodes(request: ResourceRequest) -> bool:
    """Whether this process's job has more nodes than this one. Source: sbatch(1), SLURM_JOB_NUM_NODES."""
    count = os.environ.get("SLURM_JOB_NUM_NODES", "")
    return (int(count) if count.isdecimal() else request.nodes) > 1


def own_address(host: str, database_uri: str, network: str) -> str | None:
    """This node's address in `network`; where that is empty, what its name `host` stands for, else by which it reaches
    the database, and none that only this machine knows. None where there is none."""
    if network:
        inside = ipaddress.ip_network(network, strict=False)
        found = _towards(str(inside.network_address))
        return found if found is not None and ipaddress.ip_address(found) in inside else None
    return next((each for each in _candidates(host, database_uri) if _is_ours(each)), None)


def _candidates(host: str, database_uri: str) -> Iterator[str]:
    with suppress(OSError):
        yield from (str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    if (server := urlsplit(database_uri).hostname) and (found := _towards(server)) is not None:
        yield found


def _towards(server: str) -> str | None:
    """Our address on the way there; nothing is sent."""
    with suppress(OSError):
        for family, kind, protocol, _, there in socket.getaddrinfo(server, _PORT, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind, protocol) as line:
                line.connect(there)
                return str(line.getsockname()[0])
    return None


def _is_ours(address: str) -> bool:
    known = ipaddress.ip_address(address.partition("%")[0])
    if known.is_loopback or known.is_link_local:
        return False
    try:
        with socket.socket(socket.AF_INET6 if known.version == 6 else socket.AF_INET, socket.SOCK_STREAM) as line:
            line.bind((address, 0))
    except OSError:
        return False
    return True
