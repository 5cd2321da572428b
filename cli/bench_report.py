"""What a benchmark found: as JSON, as tables in the terminal, and as the tables of `docs/performance.md`.

One report is one benchmark on one device. The JSON holds the figures in plain units (seconds, bytes, steps per second);
every table is made from it, whether it was measured just now or read from a file that another machine wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from ..train.about import device_name
from .names import choose

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


@dataclass(frozen=True)
class Report:
    """What one benchmark found on one device."""

    what: str
    """kernels, train, peers, envs or stream."""
    device: str
    """In words."""
    kind: str
    """cpu or cuda: with `what`, the place on the page."""
    date: str
    torch: str
    command: str
    limits: dict[str, float]
    """What the device reached in this run: bytes/s of a copy, operations/s of matrix products by type."""
    rows: list[Row]

    @property
    def place(self) -> str:
        """Return the name of the page's section that this belongs to."""
        return f"{self.what} {self.kind}"

    @property
    def about(self) -> str:
        """Return one line on what was measured where and when."""
        limits = "".join(
            f", copies {_number(value / 1e9)} GB/s"
            if name == "copy"
            else f", products {_number(value / 1e9)} GFLOP/s ({name})"
            for name, value in self.limits.items()
        )
        return f"{self.device}, torch {self.torch}, {self.date}{limits}"


def begin(what: str, device: torch.device, argv: list[str]) -> Report:
    """Return the report of a benchmark on a device, without figures yet."""
    words, rest = ["mnemic bench"], iter(argv)
    for word in rest:
        if word in ("--json", "--out"):  # where the figures went says nothing about them
            next(rest, None)
        elif not word.startswith(("--json=", "--out=")):
            words.append(word)
    command = " ".join(words)
    today, version = date.today().isoformat(), str(torch.__version__)
    return Report(what, describe(device), device.type, today, version, command, {}, [])


def describe(device: torch.device) -> str:
    """Return a device in words."""
    threads = torch.get_num_threads()
    beside = "" if device.type == "cuda" else f", {threads} thread{'s' * (threads > 1)}"
    return device_name(device) + beside


def save(report: Report, path: str) -> None:
    """Write a report as JSON."""
    Path(path).write_text(json.dumps(asdict(report), indent=1) + "\n")


def load(path: str) -> Report:
    """Read a report.

    Raises:
        ValueError: it is none.
    """
    try:
        report = Report(**json.loads(Path(path).read_text()))
        tables(report)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no report of `mnemic bench`: {error}") from None
    return report


def _number(value: float) -> str:
    """Return a number with three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "" if not value else f"{100 * value:.0f} %"


def _ratio(value: float | None) -> str:
    return "" if not value else f"{value:.2f}x" if value < 10 else f"{value:.1f}x"


def _mebibytes(value: float | None) -> str:
    return "" if not value else _number(value / 2**20)


KERNELS: list[Column] = [
    ("size", lambda row: row["size"]),
    ("", lambda row: row["name"]),
    ("ms", lambda row: "failed" if "failure" in row else f"{1e3 * row['seconds']:.4g}"),
    ("of copy", lambda row: _share(row.get("of_copy"))),
    ("of products", lambda row: _share(row.get("of_products"))),
    ("MiB", lambda row: _mebibytes(row.get("peak_bytes"))),
    ("ours is faster", lambda row: _ratio(row.get("ours_over_it"))),
]
TRAIN: list[Column] = [
    ("memory", lambda row: f"{row['memory']}-{row['width']}"),
    ("parameters", lambda row: f"{row['parameters']:,}"),
    ("rows", lambda row: f"{row['environments']:,}"),
    ("steps/s", lambda row: "failed" if "failure" in row else f"{row['steps_per_second']:,.0f}"),
    ("acting alone", lambda row: "" if "failure" in row else f"{row['acting']:,.0f}"),
    ("learning alone", lambda row: "" if "failure" in row else f"{row['learning']:,.0f}"),
    ("MiB", lambda row: _mebibytes(row.get("peak_bytes"))),
    ("kernels", lambda row: row.get("kernels", "")),
]
PEERS: list[Column] = [
    ("", lambda row: row["name"]),
    ("steps/s", lambda row: f"{row['steps_per_second']:,.0f}"),
    ("ours is faster", lambda row: _ratio(row["ours_over_it"])),
]
ENVS: list[Column] = [
    ("environment", lambda row: row["env"]),
    ("rows", lambda row: f"{row['environments']:,}"),
    ("steps/s", lambda row: "failed" if "failure" in row else f"{row['steps_per_second']:,.0f}"),
    ("bytes/step", lambda row: f"{row['bytes']:,.0f}" if "bytes" in row else ""),
    ("of copy", lambda row: _share(row.get("of_copy"))),
    ("how", lambda row: row.get("how", "")),
]
STREAM: list[Column] = [
    ("", lambda row: row["name"]),
    ("rows", lambda row: f"{row['environments']:,}"),
    ("entries", lambda row: "failed" if "failure" in row else f"{row['entries']:,}"),
    ("MB per row", lambda row: _scaled(row.get("bytes"), 1e6)),
    ("of full", lambda row: _part(row.get("bytes_of_full"))),
    ("MFLOP", lambda row: _scaled(row.get("flops"), 1e6)),
    ("counted", lambda row: f"{row['flops_counted'] / row['flops'] - 1:+.1%}" if "flops" in row else ""),
    ("+ settling", lambda row: _scaled(row.get("settling"), 1e6)),
    ("trial's average", lambda row: _scaled(row.get("flops_average"), 1e6)),
    ("of full", lambda row: _part(row.get("flops_average_of_full"))),
    ("ms", lambda row: _scaled(row.get("median"), 1e-3)),
    ("p99", lambda row: _scaled(row.get("p99"), 1e-3)),
    ("mean", lambda row: _scaled(row.get("mean"), 1e-3)),
    ("of full", lambda row: _part(row.get("median_of_full"))),
    ("asked", lambda row: _asked(row)),
]


def _scaled(value: float | None, unit: float) -> str:
    return "" if not value else _number(value / unit)


def _part(value: float | None) -> str:
    """Return a part as one over a number, which is how often it fits."""
    if not value or value == 1:
        return ""
    return f"1/{_number(1 / value)}" if value < 1 else f"{_number(value)}x"


def _asked(row: Row) -> str:
    """Return what is asked of a memory at most, and whether it is met."""
    words = {"bytes": "bytes", "median": "ms"}
    return ", ".join(
        f"{words[key]} {_part(most)}: {'met' if row['met'][key] else 'not met'}"
        for key, most in row.get("asked", {}).items()
    )


@dataclass(frozen=True)
class Table:
    """A table, ready to be shown, and a line on each row that failed."""

    title: str
    header: list[str]
    lines: list[list[str]]
    failures: list[str]


def tables(report: Report) -> list[Table]:
    """Return the tables of a report: one for each kernel, or one. Columns in which nothing stands are left out.

    Raises:
        ValueError: a report of something else.
    """
    columns = {"kernels": KERNELS, "train": TRAIN, "peers": PEERS, "envs": ENVS, "stream": STREAM}
    found = columns[choose("report", report.what, columns)]
    groups: dict[str, list[Row]] = {}
    for row in report.rows:
        title = row["op"] if report.what == "kernels" else row.get("setting", "")
        groups.setdefault(title, []).append(row)
    made = []
    for title, rows in groups.items():
        lines = [[cell(row) for _, cell in found] for row in rows]
        kept = [place for place in range(len(found)) if any(line[place] for line in lines)]
        made.append(
            Table(
                title,
                [found[place][0] for place in kept],
                [[line[place] for place in kept] for line in lines],
                [_failure(row) for row in rows if "failure" in row],
            )
        )
    return made


def _failure(row: Row) -> str:
    told = [str(row[key]) for key in ("size", "name", "memory", "width", "env", "environments") if row.get(key)]
    return f"failed: {', '.join(told)}: {row['failure']}"


def show(report: Report) -> None:
    """Print a report. What many rows have in common, the size of a kernel, stands once above them."""
    console = Console(highlight=False)
    console.print(Text(f"{report.what}: {report.about}", style="bold"))
    for table in tables(report):
        if table.title:
            console.print(Text(f"\n{table.title}", style="bold"))
        above = report.what == "kernels"
        header, lines = table.header[above:], [line[above:] for line in table.lines]
        widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
        console.print(Text(_aligned(header, widths), style="dim"), soft_wrap=True)
        last = ""
        for line, cells in zip(table.lines, lines, strict=True):
            if above and line[0] != last:
                console.print(Text(line[0]), soft_wrap=True)
            last = line[0]
            console.print(Text(_aligned(cells, widths)), soft_wrap=True)
        for failure in table.failures:
            console.print(Text(failure, style="red"), soft_wrap=True)


def _aligned(cells: list[str], widths: list[int]) -> str:
    first, *others = (
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  " + "  ".join([first, *others]).rstrip()


def markdown(report: Report) -> str:
    """Return a report as Markdown."""
    parts = [f"{report.about}: `{report.command}`"]
    for table in tables(report):
        rule = [" --- " if place == 0 or not name else " ---: " for place, name in enumerate(table.header)]
        lines = [_line(table.header), f"|{'|'.join(rule)}|", *map(_line, table.lines)]
        parts += [f"**{table.title}**"] * bool(table.title) + ["\n".join(lines)]
        if table.failures:
            parts.append("\n".join(f"- {failure}" for failure in table.failures))
    return "\n\n".join(parts)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write_page(page: Path, reports: list[Report]) -> None:
    """Replace the sections of a page that reports belong to, between `<!-- bench PLACE -->` and `<!-- end -->`.

    Reports of one place stand there one after the other.

    Raises:
        ValueError: the page has no such section; then nothing is written.
    """
    text = page.read_text()
    found: dict[str, list[str]] = {}
    for report in reports:
        found.setdefault(report.place, []).append(markdown(report))
    for place, sections in found.items():
        begin, end = f"<!-- bench {place} -->", "<!-- end -->"
        head, mark, tail = text.partition(begin)
        if not mark or end not in tail:
            places = re.findall(r"<!-- bench (.+?) -->", text)
            raise ValueError(f"{page} has no section {place!r}; it has {', '.join(places) or 'none'}")
        joined = "\n\n".join(sections)
        text = f"{head}{begin}\n\n{joined}\n\n{end}{tail.partition(end)[2]}"
    page.write_text(text)
