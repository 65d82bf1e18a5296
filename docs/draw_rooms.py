"""Draw the rooms of the toolchain and the imports between them.

`python docs/draw_rooms.py` writes docs/rooms.svg. Rooms stand on the floors of their order, the lowest below.
An arrow says that files of the upper room import files of the lower one. Two sorts are left out: those that
follow from others, because a way leads over a third room, and those to the single files of the lowest floors.
The picture depends on nothing but the sources; `tests/test_rooms.py` compares it with them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from html import escape
from itertools import takewhile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from rooms import ORDER, arrows, modules, room_of

OUT = Path(__file__).with_name("rooms.svg")
WIDTH, MARGIN = 860, 16
BOX_WIDTH, BOX_HEIGHT, FLOOR = 128, 26, 62
STYLE = """
  text { font: 13px system-ui, sans-serif; text-anchor: middle; fill: #1c2330 }
  rect { rx: 5; fill: #eef3fb; stroke: #7b93b8 }
  .deploy rect { fill: #fdf1e3; stroke: #c69a5c }
  .front rect { fill: #e8f5ec; stroke: #6fa783 }
  path { fill: none; stroke: #8a97ab; stroke-width: 1.1; marker-end: url(#tip) }
"""


def direct(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that no way over a third room replaces: the transitive reduction."""
    below: dict[str, set[str]] = {}
    for source, target in pairs:
        below.setdefault(source, set()).add(target)

    def reached(room: str) -> set[str]:
        return {far for near in below.get(room, ()) for far in {near, *reached(near)}}

    return {
        (source, target)
        for source, target in pairs
        if not any(target in reached(near) for near in below[source] if near != target)
    }


def ground(files: Mapping[str, Path]) -> list[str]:
    """The rooms of the lowest floors, which are single files that any room may use."""
    floors = takewhile(lambda floor: all(files[f"tfmpq.{room}"].stem == room for room in floor), ORDER)
    return [room for floor in floors for room in floor]


def places(floors: Sequence[Sequence[str]]) -> dict[str, tuple[float, float]]:
    """Middle of every room's box."""
    found = {}
    for number, floor in enumerate(reversed(floors)):
        gap = WIDTH / len(floor)
        for position, room in enumerate(floor):
            found[room] = (gap * (position + 0.5), MARGIN + BOX_HEIGHT / 2 + FLOOR * number)
    return found


def drawn() -> str:
    """The picture as SVG."""
    files = modules()
    between = {(room_of(arrow.source), room_of(arrow.target)) for arrow in arrows(files)}
    low = ground(files)
    pairs = {(a, b) for a, b in between if a and b and a != b and b not in low}
    floors = [floor for floor in ORDER if floor[0] not in low]
    middle = places(floors)
    bottom = MARGIN + FLOOR * len(floors)
    height = bottom + BOX_HEIGHT + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>The rooms of tfmpq and what they import, the lowest floor below</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8z" style="fill:#8a97ab;stroke:none;marker-end:none"/>'
        "</marker></defs>",
        f'<rect width="{WIDTH}" height="{height}" style="fill:#fff;stroke:none"/>',
    ]
    for source, target in sorted(direct(pairs)):
        lines.append(_arrow(middle[source], middle[target]))
    for room, (x, y) in middle.items():
        kind = "deploy" if room.startswith("deploy") else "front" if room in ("api", "cli") else "room"
        lines.append(
            f'<g class="{kind}"><rect x="{x - BOX_WIDTH / 2:.0f}" y="{y - BOX_HEIGHT / 2:.0f}" '
            f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}"/>'
            f'<text x="{x:.0f}" y="{y + 4:.0f}">{escape(room)}</text></g>'
        )
    lines.append(
        f'<g><rect x="{MARGIN}" y="{bottom}" width="{WIDTH - 2 * MARGIN}" height="{BOX_HEIGHT}"/>'
        f'<text x="{WIDTH / 2:.0f}" y="{bottom + BOX_HEIGHT / 2 + 4:.0f}">single files for every room: '
        f"{', '.join(low)}</text></g>"
    )
    return "\n".join([*lines, "</svg>", ""])


def _arrow(source: tuple[float, float], target: tuple[float, float]) -> str:
    """A curve from the lower edge of one box to the upper edge of another."""
    (x, y), (to_x, to_y) = source, target
    y, to_y = y + BOX_HEIGHT / 2, to_y - BOX_HEIGHT / 2
    bend = min(40.0, (to_y - y) / 2)
    curve = f"C{x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y:.0f}"
    return f'<path d="M{x:.0f} {y:.0f}{curve}"/>'


if __name__ == "__main__":
    OUT.write_text(drawn())
    print(OUT)
