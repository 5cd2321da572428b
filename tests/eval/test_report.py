"""`mnemic report` on real runs: the page, the rows, the terminal, and what is refused."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mnemic import __version__
from mnemic.cli.main import main
from mnemic.eval.report import picture, rows, tables
from mnemic.eval.report.runs import find, read
from mnemic.eval.statistics import Interval

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TINY = [
    *("--threads", "1", "--ppo.rows", "16", "--ppo.window", "16", "--ppo.minibatches", "2", "--ppo.epochs", "1"),
    *("--memory.width", "8", "--evaluation.every", "1", "--evaluation.episodes", "8"),
    *("--evaluation.confirm-episodes", "16", "--evaluation.stop-at", "0"),
]


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two memories with two seeds each on one task, and one run on a task whose trials hold many episodes."""
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    for memory in ("gru", "none"):
        for seed in ("0", "1"):
            where = ["--run", str(folder / f"{memory}-{seed}"), "--seed", seed, "--steps", "1024"]
            assert main(["train", "--env", "endless-tmaze", "--memory", memory, *where, *TINY]) == 0
    where = ["--run", str(folder / "dark"), "--steps", "1024", "--env.episode-steps", "8", "--env.episodes", "3"]
    assert main(["train", "--env", "darkroom", "--memory", "gru", *where, *TINY]) == 0
    assert main(["eval", str(folder / "gru-0"), "--env.corridors", "2", "--episodes", "16"]) == 0
    return folder


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="session")
def made(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("page") / "report.html"
    argv = ["report", str(sweep), "--out", str(page), "--threshold", "0.5", "--title", "Cores & <tasks>"]
    assert main([*argv, "--published", "none=0.125 (theory)"]) == 0
    return page


def test_the_page_stands_alone(made: Path) -> None:
    text = made.read_text()
    page = Page(text)
    assert page.open == []
    assert len(text) < 200_000
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "link", "iframe"}
    assert "url(" not in text
    assert "http" not in text
    ids = {found["id"] for _, found in page.tags if "id" in found}
    links = {found["href"] for tag, found in page.tags if tag == "a"}
    assert links == {f"#{name}" for name in ids} == {"#task-1", "#task-2"}


def test_the_page_has_figures_curves_and_how_they_came_about(made: Path, sweep: Path) -> None:
    text = made.read_text()
    for words in (
        "<h1>Cores &amp; &lt;tasks&gt;</h1>",
        f"mnemic {__version__}",
        "Final figures",
        "2 (fewer than 5)",
        "0.125 (theory)",
        "held success ≥ 0.5",
        "P(higher success)",
        "success against steps: evaluations, greedy",
        "success against seconds",
        "return by episode in the trial",
        "Evaluated elsewhere",
        "corridors 2",
        "mnemic train --env endless-tmaze --memory gru --steps 1024",
        "--seed S        # S = 0, 1",
        str(sweep / "none-1"),
    ):
        assert words in text, words
    lines = [found for tag, found in Page(text).tags if tag == "polyline"]
    assert all(re.fullmatch(r"[\d., -]+", found["points"]) for found in lines)
    # Two entries on success (steps, seconds) and return; one on trial_return (steps, seconds), success and return; by
    # episode once for return and once for success. `gain` where the task shows it.
    assert len(lines) >= 2 * 3 + 4 + 2


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: nothing to look at the page with")
@pytest.mark.timeout(120)
def test_a_browser_shows_the_page(made: Path, tmp_path: Path) -> None:
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", f"--user-data-dir={tmp_path}")
    found = subprocess.run([CHROMIUM, *flags, "--dump-dom", made.as_uri()], capture_output=True, text=True, timeout=100)
    shown = Page(found.stdout)
    written = Page(made.read_text())
    for tag in ("table", "polyline", "polygon", "details", "h2"):
        assert [t for t, _ in shown.tags].count(tag) == [t for t, _ in written.tags].count(tag) > 0


def test_the_terminal_shows_figures_and_cost(sweep: Path, capsys) -> None:
    assert main(["report", str(sweep / "gru-0"), str(sweep / "gru-1")]) == 0
    said = capsys.readouterr().out
    assert "endless-tmaze" in said
    assert "2 (fewer than 5)" in said
    assert "steps/s" in said
    assert "written" not in said


def test_the_scripted_player_stands_beside_the_runs(sweep: Path, tmp_path: Path, capsys) -> None:
    env = json.loads((sweep / "gru-0" / "config.json").read_text())["env"]
    figures = {"return": {"value": 3.0, "low": 2.0, "high": 4.0}, "success": {"value": 1.0, "low": 0.75, "high": 1.0}}
    found = {"player": "oracle", "env": env, "options": {}, "episodes": 9, "figures": figures, "by_episode": []}
    (tmp_path / "oracle.json").write_text(json.dumps(found))
    argv = ["report", str(sweep), "--reference", str(tmp_path / "oracle.json"), "--out", str(tmp_path / "page.html")]
    assert main(argv) == 0
    assert re.search(r"^oracle +1.000 \(0.750 to 1.000\)", capsys.readouterr().out, re.MULTILINE)
    # A level beside the curves against steps and seconds, and of the return; its legend once in each.
    assert (tmp_path / "page.html").read_text().count("</svg>oracle</span>") == 3
    (tmp_path / "oracle.json").write_text(json.dumps(found | {"env": env | {"corridors": 7}}))
    assert main(argv) == 2
    assert "no run is judged by its task, endless-tmaze, as it is" in capsys.readouterr().err


def test_rows_replace_their_section_and_nothing_else(sweep: Path, tmp_path: Path) -> None:
    page, before = tmp_path / "RESULTS.md", "# By hand\n\nWords.\n"
    page.write_text(before)
    argv = ["report", str(sweep), "--rows", str(page), "--section", "Cores"]
    assert main(argv) == 0
    once = page.read_text()
    assert once.startswith(f"{before}\n<!-- report Cores -->\n\n## Cores\n")
    assert once.endswith("<!-- end -->\n")
    assert "\n| entry | seeds | success | mean |" in once
    assert re.search(r"^\| gru \| 2 \(fewer than 5\) \| \d", once, re.MULTILINE)
    assert "    mnemic train --env endless-tmaze --memory gru --steps 1024" in once
    page.write_text(f"{once}\nMore words.\n")
    assert main(argv) == 0
    assert page.read_text() == f"{once}\nMore words.\n"
    assert main(["report", str(sweep / "dark"), "--rows", str(page)]) == 0
    text = page.read_text()
    assert text.startswith(f"{once}\nMore words.\n\n<!-- report darkroom -->")
    assert list(tmp_path.iterdir()) == [page]


def test_a_section_without_an_end_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- report a -->\n\nlost its end\n\n<!-- report b -->\n\nhas one\n\n<!-- end -->\n")
    with pytest.raises(ValueError, match="<!-- report a --> has no <!-- end -->"):
        rows.placed(page, "a", "new")
    assert rows.placed(page, "b", "new").endswith("<!-- report b -->\n\nnew\n\n<!-- end -->\n")
    assert rows.placed(tmp_path / "none.md", "a", "new") == "<!-- report a -->\n\nnew\n\n<!-- end -->\n"


def test_where_a_run_was_made_is_recorded_for_each_session(sweep: Path, tmp_path: Path) -> None:
    about = json.loads((sweep / "gru-0" / "about.json").read_text())
    assert about["command"].startswith(f"mnemic train --env endless-tmaze --memory gru --run {sweep / 'gru-0'}")
    assert about["parameters"] > 0
    (session,) = about["sessions"]
    assert session["version"] == __version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", session["date"])
    assert session["device"]
    shutil.copytree(sweep / "gru-0", tmp_path / "run", symlinks=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"steps": 1280}))
    assert main(["resume", str(tmp_path / "run")]) == 0
    again = json.loads((tmp_path / "run" / "about.json").read_text())
    assert again == about | {"sessions": [session, session]}


def test_folders_are_found_once(sweep: Path) -> None:
    everything = sorted(path.name for path in find([sweep]))
    assert everything == ["dark", "gru-0", "gru-1", "none-0", "none-1"]
    assert sorted(path.name for path in find([sweep.parent])) == everything
    assert find([sweep / "gru-1", sweep])[0] == sweep / "gru-1"
    assert len(find([sweep / "gru-1", sweep])) == 5


def test_a_line_that_a_kill_cut_short_is_left_out(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep / "gru-0", tmp_path / "run", symlinks=True)
    whole = read(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"steps": 12')
    assert read(tmp_path / "run").lines == whole.lines
    assert whole.steps == 1024


def spoiled(sweep: Path, folder: Path, name: str, text: str) -> Path:
    shutil.copytree(sweep / "gru-0", folder / "run", symlinks=True)
    (folder / "run" / name).write_text(text)
    return folder / "run"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config.json", "{", "config.json is damaged: not JSON"),
        ("config.json", '{"kind": "policy"}', "is not a run folder: its config.json lacks env, memory, ppo"),
        ("metrics.jsonl", '{"steps": 16}\nnonsense\n{"steps": 32}\n', "metrics.jsonl is damaged: line 2"),
        ("metrics.jsonl", '{"loss": 16}\n', "metrics.jsonl is damaged: line 1"),
        ("about.json", "[]", "about.json was not written by `mnemic train`"),
        ("eval-1024-x.json", "[]", "eval-1024-x.json was not written by `mnemic eval`"),
    ],
)
def test_a_damaged_run_is_one_line_and_nothing_is_written(
    sweep: Path, tmp_path: Path, capsys, name: str, text: str, words: str
) -> None:
    run, page = spoiled(sweep, tmp_path, name, text), tmp_path / "page.html"
    assert main(["report", str(sweep), str(run), "--out", str(page)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not page.exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "run folders come first: `mnemic report RUN.."),
        (["nowhere"], "nowhere is not a run folder: it is not there"),
        (["SWEEP/gru-0/config.json"], "it is a file"),
        (["EMPTY"], "is not a run folder and holds none"),
        (["SWEEP", "--out", "page.txt"], "--out page.txt: give a file that ends in .html"),
        (["SWEEP", "--out", "nowhere/page.html"], "its folder is not there"),
        (["SWEEP", "--rows", "SWEEP"], "give a file that ends in .md"),
        (["SWEEP", "--figure", "sucess"], "has the figure 'sucess'"),
        (["SWEEP", "--published", "lstm=3"], "unknown entry 'lstm'; choose one of"),
        (["SWEEP", "--published", "gru"], "--published takes ENTRY=FIGURE, 'gru' came"),
        (["SWEEP", "--threshold", "high"], "--threshold takes a number, 'high' came"),
        (["SWEEP", "--treshold", "1"], "close to it: --threshold"),
    ],
)
def test_mistakes_are_one_line(sweep: Path, tmp_path: Path, capsys, argv: list[str], words: str) -> None:
    named = [word.replace("SWEEP", str(sweep)).replace("EMPTY", str(tmp_path)) for word in argv]
    assert main(["report", *named]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_run_without_figures_is_left_out(sweep: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "begun").mkdir()
    shutil.copy(sweep / "gru-0" / "config.json", tmp_path / "begun")
    assert main(["report", str(sweep / "gru-1"), str(tmp_path / "begun")]) == 0
    assert "begun is left out: it has no figures yet" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "begun")]) == 2
    assert "has no figures yet" in capsys.readouterr().err


def test_ticks_are_round_and_reach_over_the_range() -> None:
    assert picture.nice(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert picture.nice(-30, 470) == [-100, 0, 100, 200, 300, 400, 500]
    assert [tables.short(x) for x in (0, 0.25, 1500, 2e6, 3.5e9, -20_000)] == [
        "0",
        "0.25",
        "1.5k",
        "2M",
        "3.5G",
        "-20k",
    ]


def test_a_chart_puts_points_where_they_belong() -> None:
    line = picture.Line("a < b", 9, [10, 1000], [Interval(0, -1, 1), Interval(10, 9, 10)])
    drawn = picture.chart("t", "context", "success", [line], log_x=True)
    low, high = (picture.HEIGHT - picture.BOTTOM, picture.TOP)
    # y reaches from -2 to 10 (ticks of 2... of the bounds -1 and 10: 5 apart, so -5 to 10).
    at = {y: low - (y + 5) / 15 * (low - high) for y in (0, 10)}
    assert f'points="56.0,{at[0]:.1f} 626.0,{at[10]:.1f}"' in drawn
    assert "stroke-dasharray" in drawn  # the tenth entry has the second colour, dashed
    assert "var(--c1)" in drawn
    assert "a &lt; b" in drawn
    flat = picture.chart("t", "x", "y", [picture.Line("a", 0, [5], [Interval(1, 1, 1)])])
    assert "nan" not in flat
