"""Pass on what engines and reward models have to say while they run, and record what the servers of a pool did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from ttc.core.protocols import HasEndpoints, HasParts, Warns

LISTEN_S = 1.0


@asynccontextmanager
async def listening(
    sources: Iterable[object], tell: Callable[[dict[str, Any]], None], warn: Callable[[str], None]
) -> AsyncIterator[None]:
    """Warn once of each thing that the sources warn of, and `tell` an event of each pool at the end."""
    known = [part for source in sources for part in (source.parts if isinstance(source, HasParts) else (source,))]
    said = dict.fromkeys(range(len(known)), 0)

    def pass_on() -> None:
        for i, source in enumerate(known):
            if isinstance(source, Warns):
                for text in source.warnings[said[i] :]:
                    warn(text)
                said[i] = len(source.warnings)

    async def listen() -> None:
        while True:
            pass_on()
            await asyncio.sleep(LISTEN_S)

    task = asyncio.create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        pass_on()
        for source in known:
            if isinstance(source, HasEndpoints) and (rows := source.endpoints()):
                tell({"kind": "endpoints", "model": getattr(source, "label", ""), "endpoints": rows})
