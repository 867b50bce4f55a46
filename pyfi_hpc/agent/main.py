"""The program `python -m pyfi_hpc.agent.main`: one agent in the foreground, with or without its small parent."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from dataclasses import replace

from pyfi_hpc.agent import kernel
from pyfi_hpc.agent.respawn import Respawner
from pyfi_hpc.config import Settings
from pyfi_hpc.config.surroundings import environment
from pyfi_hpc.errors import PyfiError


def run(
    settings: Settings,
    *,
    host: str | None,
    cores: str | None,
    network: str,
    respawn: bool,
    unsafe: bool = False,
    job: str | None = None,
) -> int:
    """Serve this node until stopped; returns the exit status.

    `host` None: the node's own name. `cores` None: as set, else the affinity mask. `respawn`: a small parent starts
    the agent again when it dies. `unsafe`: also with a database that may lose what it has committed. `job`: the token
    of the job that this process runs in; its slots are served then.

    Raises:
        BadInput: E_NODE_LEASED another agent is here, E_SCHEMA, E_RANGE, E_DB_UNSAFE, E_BROKER_VERSION; of a job
            E_NOT_FOUND, E_SUPERSEDED.
        Unavailable: the database is not there.
    """
    settings = replace(settings, agent=replace(settings.agent, cores=settings.agent.cores if cores is None else cores))
    if respawn:
        return Respawner(_command(host, network, unsafe, job), environment(settings)).run()
    kernel.keep_private()
    gc.disable()  # all that is loaded now stays
    # not imported above: the small parent, which starts first and is there for as long, has no need of it
    from pyfi_hpc.agent import ahead

    begun = ahead.begin(settings)
    from pyfi_hpc.agent.serving import serve

    return serve(settings, begun, host=host, network=network, token=job, unsafe=unsafe)


def _command(host: str | None, network: str, unsafe: bool, token: str | None) -> list[str]:
    command = [sys.executable, "-P", "-m", "pyfi_hpc.agent.main", "--network", network]
    optional = [*(["--host", host] if host else []), *(["--job", token] if token else [])]
    return [*command, *optional, *(["--unsafe"] if unsafe else [])]


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: settings come from files and variables, errors go to stderr."""
    parser = argparse.ArgumentParser(prog="pyfi_hpc.agent.main")
    parser.add_argument("--network", help="the network to serve")
    parser.add_argument("--host", help="the node's name, in place of this machine's")
    parser.add_argument("--cores", help="such as 0-3,8")
    parser.add_argument("--respawn", action="store_true", help="start the agent again when it dies")
    parser.add_argument("--unsafe", action="store_true", help="serve a database that may lose committed rows")
    parser.add_argument("--job", metavar="TOKEN", help="the job that this process runs in")
    parser.add_argument("--parent", type=int, help="end with the process of this number")
    options = parser.parse_args(arguments)
    if options.parent is not None:
        kernel.tie_to(options.parent)
    try:
        settings = Settings.load()
        network = options.network or settings.agent.network
        return run(
            settings,
            host=options.host,
            cores=options.cores,
            network=network,
            respawn=options.respawn,
            unsafe=options.unsafe,
            job=options.job,
        )
    except PyfiError as error:
        print(f"pyfi: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
