"""A node's GPUs as rows: what there is, written when its agent registers, and how they are used, every few seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from psycopg2.extras import Json

from pyfi_hpc.db.record import Cursor
from pyfi_hpc.gpu.inventory import Device
from pyfi_hpc.gpu.nvml import session
from pyfi_hpc.gpu.sampling import Sample, sample

SAMPLE_SECONDS = 3.0


def store(cursor: Cursor, node: str, devices: Sequence[Device], *, complete: bool) -> None:
    """Make the rows of node `node` (an id) say what there is; `complete`: what is not among them is gone.

    An agent by hand sees the whole node. One in a job sees what the job was granted, which says nothing of the rest,
    and adds nothing to what an agent by hand has said: that one gives out all that stands here.
    """
    if complete:
        uuids = [device.uuid for device in devices]
        cursor.execute("DELETE FROM pyfi.device WHERE node_id = %s::uuid AND uuid <> ALL (%s)", (node, uuids))
    for device in devices:
        cores = None if device.cores is None else list(device.cores)
        cursor.execute(
            """INSERT INTO pyfi.device (node_id, uuid, parent, model, mem_mib, cores)
               SELECT %(node)s::uuid, %(uuid)s, %(parent)s, %(model)s, %(mem_mib)s, %(cores)s
               WHERE %(complete)s OR NOT EXISTS (SELECT FROM pyfi.agent
                                                 WHERE node_id = %(node)s::uuid AND job_id IS NULL AND ended IS NULL)
               ON CONFLICT (node_id, uuid) DO UPDATE SET parent = excluded.parent, model = excluded.model,
                   mem_mib = excluded.mem_mib, cores = excluded.cores""",
            {
                "node": node, "uuid": device.uuid, "parent": device.parent, "model": device.model,
                "mem_mib": device.mem_mib, "cores": cores, "complete": complete,
            },
        )  # fmt: skip


def note(cursor: Cursor, agent: bytes, samples: Sequence[Sample]) -> None:
    """Write the newest samples of this agent's node, in one statement."""
    if samples:
        cursor.execute(
            """UPDATE pyfi.device d SET utilization = s.utilization, mem_used_mib = s.mem_used_mib,
                   temperature_celsius = s.temperature_celsius, power_watts = s.power_watts, sampled = now()
               FROM jsonb_to_recordset(%s) AS s (uuid text, utilization float8, mem_used_mib integer,
                   temperature_celsius integer, power_watts float8), pyfi.agent a
               WHERE a.id = %s::uuid AND d.node_id = a.node_id AND d.uuid = s.uuid""",
            (Json([_plain(each) for each in samples]), agent.hex()),
        )


def _plain(each: Sample) -> dict[str, object]:
    return {
        "uuid": each.uuid,
        "utilization": each.utilization,
        "mem_used_mib": each.mem_used_mib,
        "temperature_celsius": each.temperature_celsius,
        "power_watts": each.power_watts,
    }


class Sampler(threading.Thread):
    """Looks at the devices again and again, on a thread of its own: a driver may take its time, or never answer."""

    def __init__(self, uuids: Sequence[str], take: Callable[[tuple[Sample, ...]], None]) -> None:
        """`take` gets the samples, on this thread."""
        super().__init__(name="pyfi-gpu", daemon=True)
        self._uuids, self._take = tuple(uuids), take
        self._ended = threading.Event()

    def run(self) -> None:
        with session():
            while not self._ended.wait(SAMPLE_SECONDS):
                self._take(sample(self._uuids))

    def close(self) -> None:
        """Look no more."""
        self._ended.set()
