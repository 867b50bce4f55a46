"""What came of a soak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyfi_hpc.verify import Report


@dataclass(frozen=True)
class Soak:
    """`counts` is the last line of `load`; `record` what the checker says once all is quiet, or will not be.

    `outcomes` by status; `held` are accepted calls without an outcome that have a hold row, `queued` messages that no
    agent has taken; `repeats` executions beyond one of a call; `slow` what became of the slowest calls.
    """

    seed: int
    minutes: float
    counts: Mapping[str, Any]
    record: Report
    outcomes: Mapping[str, int]
    held: int
    queued: int
    repeats: int
    kills: Mapping[str, int]
    memory: Sequence[str]
    slow: Sequence[str] = ()

    @property
    def stuck(self) -> int:
        """Calls without an outcome that are somewhere, or may be: messages are not opened."""
        lost = self.record.lost if self.queued else min(self.held, self.record.lost)
        return lost + self.record.waiting

    @property
    def lost(self) -> int:
        """Calls without an outcome that are nowhere."""
        return self.record.lost + self.record.waiting - self.stuck

    @property
    def faults(self) -> list[str]:
        """What must not be."""
        counts, found = self.counts, []
        found += [f"lost {self.lost}"] if self.lost else []
        found += [f"stuck {self.stuck}"] if self.stuck else []
        found += [f"recorded twice {self.record.twice}"] if self.record.twice else []
        found += [f"{counts['waiting']} results never came to the client"] if counts["waiting"] else []
        found += (
            [f"{len(counts['wrong'])} results are wrong, the first: {counts['wrong'][0]}"] if counts["wrong"] else []
        )
        found += [f"submits failed: {counts['errors']}"] if counts["errors"] else []
        return found + list(self.record.problems)

    def lines(self) -> list[str]:
        """For a person, and for the docs."""
        listed = ", ".join(f"{status} {count:,}" for status, count in sorted(self.outcomes.items()))
        kills = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kills.items())) or "none"
        return [
            f"seed {self.seed}, {self.minutes:g} minutes",
            f"kills: {kills}",
            f"accepted {self.record.sent:,}, outcomes with those of their children: {listed}",
            f"lost {self.lost}, stuck {self.stuck}, recorded twice {self.record.twice}, repeats {self.repeats:,}",
            f"results at the client: {self.counts['right']:,} right, {len(self.counts['wrong'])} wrong;"
            f" failed submits {sum(self.counts['errors'].values())}",
            *self.slow,
            *self.memory,
            *(f"FAULT: {fault}" for fault in self.faults),
        ]
