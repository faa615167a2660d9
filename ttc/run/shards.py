"""Several processes share one run folder, each with its own part of the cells and its own journal.

Where an allocator's grants are known before anything is drawn, a cell's problems are dealt out one by one. Where they
depend on what other problems drew (`sequential`, `streaming`, pilots, whole calls paid from the total), a cell stays
whole and goes to one shard. Either way every problem runs under the grant that it has in an unshared run, with the same
seeds, so the tables are the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ttc.core.errors import ConfigError
from ttc.run.forecasting import known_before
from ttc.run.plan import Cell

_WORD = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` processes that share a run; `number` counts from 1.

    Raises:
        ConfigError: there is no such shard.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"--shard {self}: there is no such shard", "1/4 is the first of four, 4/4 the last")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def name(self) -> str:
        """Return what its files are called."""
        return f"shard-{self.number}-of-{self.count}"

    def parts(self, cells: Sequence[Cell]) -> dict[str, tuple[str, ...]]:
        """Return the problems of each cell that this shard runs, in the cells' order; cells without any are left out.

        Problems go round by their place in the cell. Whole cells go to the shard with the least tokens so far, the
        largest first.
        """
        whole = self._whole([cell for cell in cells if not known_before(cell)])
        found: dict[str, tuple[str, ...]] = {}
        for cell in cells:
            ids = cell.subject.problem_ids
            mine = ids[self.number - 1 :: self.count] if known_before(cell) else ids if cell.id in whole else ()
            if mine:
                found[cell.id] = mine
        return found

    def _whole(self, cells: Sequence[Cell]) -> set[str]:
        loads = [0] * self.count
        mine = set()
        for cell in sorted(cells, key=lambda cell: -cell.total_tokens):
            place = loads.index(min(loads))
            loads[place] += cell.total_tokens
            if place == self.number - 1:
                mine.add(cell.id)
        return mine


def parse_shard(text: str) -> Shard:
    """Return the shard that `2/4` names.

    Raises:
        ConfigError: it names none.
    """
    match = _WORD.fullmatch(text)
    if match is None:
        raise ConfigError(f"--shard {text}: expected a number and how many there are", "1/4 is the first of four")
    return Shard(int(match[1]), int(match[2]))
