"""The outputs of cells, put together from events.

Storey 6 (client). Knows outputs and the changes that events carry; knows nothing of connections. Source: the header's
`rtd_output_change`; nbformat (neighbouring stream outputs of one name are one output).

Our daemon writes stream text in pieces and merges them later. Each piece is reported once; a merge brings at most the
text that was not reported as a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runtimed_ffi._binding.events import OutputChange
from runtimed_ffi.output import Output


class OutputList:
    """The outputs of one cell as the document has them, repeated from events."""

    def __init__(self) -> None:
        self._by_index: dict[int, Output] = {}

    def __len__(self) -> int:
        return len(self._by_index)

    def current(self) -> list[Output]:
        """The outputs in order; a fresh list."""
        known = dict(self._by_index)
        return [known[index] for index in sorted(known)]

    def clear(self) -> None:
        """All outputs are gone."""
        self._by_index.clear()

    def apply(self, change: int, index: int, output: Output) -> Output | None:
        """Repeat one event with an `rtd_output_change`; returns what is new by it, `None` if nothing is."""
        if change == OutputChange.JOINED:
            pieces = self._take(index)
            text = "".join(piece.text or "" for piece in pieces) + (output.text or "")
            self._by_index[index] = Output("stream", name=output.name, text=text)
            return output if output.text else None
        news: Output | None = output
        if change == OutputChange.REPLACED_ALL:
            news = _news(output, self._take(index))
        self._by_index[index] = output
        return news

    def catch_up(self, outputs: Sequence[Output]) -> Iterator[Output]:
        """Events were dropped: become what the document has, and yield what is new."""
        known, base = self._by_index, min(self._by_index, default=0)
        self._by_index = dict(enumerate(outputs[base:], base))
        for index, output in self._by_index.items():
            if known.get(index) != output:
                pieces: list[Output] = []
                while index in known:
                    pieces.append(known[index])
                    index += 1
                news = _news(output, pieces)
                if news is not None:
                    yield news

    def _take(self, index: int) -> list[Output]:
        """Remove the outputs from an index on."""
        return [self._by_index.pop(place) for place in sorted(self._by_index) if place >= index]


class StreamPositions:
    """Where the pieces of a stream will be when they are merged, for subscribers that follow all cells."""

    def __init__(self) -> None:
        self._runs: dict[str, tuple[int, int, str | None]] = {}

    def place(self, cell_id: str, change: int, index: int, output: Output) -> tuple[int, bool]:
        """The position of an output, and whether it goes on the stream output that is there."""
        start, behind, name = self._runs.get(cell_id, (0, 0, None))
        if change == OutputChange.REPLACED:
            return index, False
        goes_on = change == OutputChange.JOINED
        if change == OutputChange.APPENDED and index == behind and name is not None and output.name == name:
            goes_on, index = True, start
            behind += 1
        else:
            behind = index + 1
        self._runs[cell_id] = (index, behind, output.name)
        return index, goes_on


def _news(output: Output, pieces: Sequence[Output]) -> Output | None:
    """What an output has more than the pieces reported before, as far as it begins with them."""
    text, known = output.text or "", 0
    for piece in pieces:
        if output.name is None or piece.name != output.name or not text.startswith(piece.text or "", known):
            break
        known += len(piece.text or "")
    if known == 0:
        return output
    return Output("stream", name=output.name, text=text[known:]) if known < len(text) else None
