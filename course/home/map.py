"""The path as a drawing: lessons in columns by how much they build on, with a line for each "builds on"."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from course.home.path import LessonRow

NODE_WIDTH, NODE_HEIGHT = 246, 84
GAP_X, GAP_Y = 64, 18
MARGIN = 4
TITLE_CHARACTERS = 30


@dataclass(frozen=True)
class Node:
    """A lesson's box; x and y are its upper left corner. title_lines: its title, wrapped to the box."""

    row: LessonRow
    x: float
    y: float
    title_lines: tuple[str, ...]


@dataclass(frozen=True)
class PathMap:
    """Boxes and lines; each line is the `d` of an SVG path. Lengths in CSS pixels."""

    nodes: tuple[Node, ...]
    lines: tuple[str, ...]
    width: int
    height: int


def path_map(rows: Sequence[LessonRow]) -> PathMap:
    """Lay out lessons: one column for each step away from a lesson that needs none, each column centred."""
    depth: dict[str, int] = {}
    for row in rows:
        depth[row.lesson.id] = 1 + max((depth.get(needed.id, -1) for needed in row.needs), default=-1)
    columns: dict[int, list[LessonRow]] = {}
    for row in rows:
        columns.setdefault(depth[row.lesson.id], []).append(row)
    tallest = max(map(len, columns.values()), default=0)
    nodes = {}
    for column, members in columns.items():
        top = (tallest - len(members)) * (NODE_HEIGHT + GAP_Y) / 2
        for place, row in enumerate(members):
            x = MARGIN + column * (NODE_WIDTH + GAP_X)
            y = MARGIN + top + place * (NODE_HEIGHT + GAP_Y)
            lines = tuple(textwrap.wrap(row.lesson.title, TITLE_CHARACTERS, max_lines=2, placeholder=" …"))
            nodes[row.lesson.id] = Node(row, x, y, lines)
    drawn = [
        _line(nodes[needed.id], nodes[row.lesson.id]) for row in rows for needed in row.needs if needed.id in nodes
    ]
    return PathMap(
        tuple(nodes.values()),
        tuple(drawn),
        2 * MARGIN + len(columns) * NODE_WIDTH + max(len(columns) - 1, 0) * GAP_X,
        2 * MARGIN + tallest * NODE_HEIGHT + max(tallest - 1, 0) * GAP_Y,
    )


def _line(start: Node, end: Node) -> str:
    x1, y1 = start.x + NODE_WIDTH, start.y + NODE_HEIGHT / 2
    x2, y2 = end.x, end.y + NODE_HEIGHT / 2
    bend = GAP_X / 2
    return f"M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"
