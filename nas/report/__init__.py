"""Results, shown on the terminal, as an HTML page, and as pictures (PNG)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.slim.result import SearchResult


def write_search(folder: Path, result: SearchResult) -> None:
    """Draw a picture of a search's frontier, and write its page, beside its results."""
    from nas.report.page import write_page
    from nas.report.pictures import draw_frontier

    paths = result.paths(folder)
    draw_frontier(paths["picture"], result)
    write_page(paths["page"], result)


def describe_search(folder: Path, result: SearchResult) -> dict[str, Any]:
    """The content of ``result.json``, and the ``paths`` of all files of a search."""
    paths = {name: str(path) for name, path in result.paths(folder).items()}
    return {**result.summary(), "paths": paths}
