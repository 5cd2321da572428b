"""`mnemic list`: what there is."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import choices, flags
from .names import choose


def listing(argv: list[str]) -> int:
    """Print the environments, memories, caches, recipes and kernels, or one of these."""
    if any(word in flags.HELP for word in argv):
        print(f"usage: mnemic list [{'|'.join(choices.KINDS)}]\n\nWhat there is, each with one line on what it is.")
        return 0
    if len(argv) > 1:
        raise ValueError(f"list takes one word, {len(argv)} came; choose one of {', '.join(choices.KINDS)}")
    wanted = [choose("list", argv[0], choices.KINDS)] if argv else list(choices.KINDS)
    console = Console(highlight=False)
    for kind in wanted:
        table = Table(title=kind, title_justify="left", title_style="bold", show_header=False, box=None)
        table.add_column(no_wrap=True, style="bold")
        table.add_column()
        for name, summary in choices.KINDS[kind]().items():
            table.add_row(name, Text(summary))
        console.print(table)
    return 0
