"""A real run in TensorBoard, seen through a browser without a window."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress

import pytest

from mnemic.memory import make_config
from mnemic.train.config import EvalConfig, PPOConfig, TrainConfig
from mnemic.train.log import LAYOUT
from mnemic.train.loop import train
from mnemic.train.run import RunFolder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1600,6000",  # cards out of sight are not drawn
    "--virtual-time-budget=10000",
    "--dump-dom",
)
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def process(*command, **options):
    """A process that is ended with all of its children."""
    started = subprocess.Popen(command, text=True, start_new_session=True, **options)
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(started.pid, signal.SIGKILL)
        started.communicate()


def fetch(url):
    with DIRECT.open(url, timeout=10) as answer:
        return json.loads(answer.read())


def eventually(look, seconds=60):
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing was found in time"
        time.sleep(0.1)
    return found


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: nothing to look at the dashboard with")
@pytest.mark.timeout(180)
def test_a_browser_sees_the_run(toys, tmp_path):
    """TensorBoard opens on the returns and the evaluation, and has a page with the layout of the run."""
    ppo = PPOConfig(rows=4, window=8, minibatches=2, epochs=1)
    config = TrainConfig(
        env=toys.LightConfig(),
        memory=make_config("none"),
        ppo=ppo,
        evaluation=EvalConfig(every=1),
        steps=3 * ppo.batch_steps,
    )
    train(config, RunFolder.create(tmp_path / "runs" / "light", config), toys.constant_evaluation, quiet=True)

    log = tmp_path / "tensorboard.log"
    command = (sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "runs"))
    with (
        log.open("w") as file,
        process(*command, "--host", "127.0.0.1", "--port", "0", stdout=file, stderr=file) as server,
    ):

        def address():
            assert server.poll() is None, log.read_text()
            words = [word for word in log.read_text().split() if word.startswith("http://127.0.0.1:")]
            return words[0] if words and words[0].endswith("/") else None

        url = eventually(address)
        eventually(lambda: "charts/episodic_return" in fetch(f"{url}data/plugin/scalars/tags").get("light", {}))
        layout = fetch(f"{url}data/plugin/custom_scalars/layout")
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        with process(
            CHROMIUM, *FLAGS, profile, url, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path
        ) as browser:
            page, _ = browser.communicate(timeout=120)

    for tag in ("charts/episodic_return", "charts/success", "charts/sps", "eval/success", "eval/return"):
        assert tag in page
    for group in ("charts", "eval", "losses", "memory", "time"):
        assert f'">{group}<' in page
    for tab in ("Time Series", "Custom Scalars"):
        assert tab.lower() in page.lower()
    assert [chart["title"] for chart in layout["category"][0]["chart"]][:2] == ["return", "success"]


def test_a_chart_shows_what_its_title_says():
    """TensorBoard takes all tags that begin as a pattern says: one may not begin like another's."""
    tags = ["charts/success", "eval/success", "eval/success_gain", "trial/success_gain", "trial/gain", "eval/gain"]
    shown = {
        title: [tag for tag in tags if any(re.match(pattern, tag) for pattern in patterns)]
        for title, (_, patterns) in LAYOUT["mnemic"].items()
    }
    assert {title: found for title, found in shown.items() if found} == {
        "success": ["charts/success", "eval/success"],
        "return gained in the trial: last whole episode minus first": ["trial/gain", "eval/gain"],
        "success gained in the trial": ["eval/success_gain", "trial/success_gain"],
    }
