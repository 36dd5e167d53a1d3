"""The page about a run: what is on it, what never is, how a browser shows it."""

import base64
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kitae.runs import interval, page, write_report
from kitae.runs.page import readable_time

VOID = {"meta", "br", "img", "link", "input", "wbr", "hr"}
HOSTILE = "<script>document.title = 'sung'</script>\" onload='x' {{ 7 * 7 }} &amp;"
URL = re.compile(
    r"""(?:src|href|action|data|poster|srcset)=["']([^"']*)|url\(([^)]*)"""
)


class Page(HTMLParser):
    """Reads a page, and refuses tags that are not closed or closed wrongly."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes = [], Counter(), []
        self.headings, self.rows, self.ids, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] += data

    def values(self, tag, name):
        return [v for t, n, v in self.attributes if (t, n) == (tag, name)]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def read(path):
    return Page(path.read_text("utf-8"))


def evaluate(run_dir, returns):
    mean, low, high = interval(returns)
    entry = {
        "env_steps": 100,
        "episodes": len(returns),
        "returns": returns,
        "mean": mean,
        "low": low,
        "high": high,
        "seed": 0,
    }
    (run_dir / "evaluation.json").write_text(json.dumps([entry]))


def film(run_dir, name, content=b"film"):
    path = run_dir / "videos" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def whole_run(write_run):
    """A run of which everything is there."""
    run_dir = write_run(
        episodes=[(i, float(i), 10) for i in range(1, 101)],
        metrics=[(50, 30.0, 0.5, 1_000.0), (100, 61.0, 0.25, 2_000.0)],
        columns=["loss_qvalue", "steps_per_second"],
    )
    evaluate(run_dir, [1.0, 2.0, 3.0])
    film(run_dir, "one.mp4")
    return run_dir


def test_everything_of_a_run_is_on_its_page(whole_run):
    path = write_report(whole_run)
    assert path == whole_run / "report.html"
    shown = read(path)
    assert shown.headings == [
        "DQN on Count-v1",
        *("Learning", "Evaluation", "Videos", "Config", "System"),
    ]
    assert "Run run, seed 0, finished" in shown.text
    for number in ("100 of 100", "50.5 mean of the last 100", "2.0 mean return, 1.0"):
        assert number in shown.text
    assert "1 min 1 s" in shown.text
    assert ["hidden_sizes", "[120, 84]"] in shown.rows
    assert ["task_name", "Count-v1"] in shown.rows
    assert ["agent", "DQN"] in shown.rows
    assert ["100", "3", "2.0", "1.0 to 3.0"] in shown.rows
    actual = [
        f"{title} over 100 environment steps: {first} at the start, {last} at the end, "
        f"at least {low}, at most {high}"
        for title, first, last, low, high in (
            ("Return of an episode", "1", "95.5", "1", "95.5"),
            ("Length of an episode (steps)", "10", "10", "10", "10"),
            ("loss_qvalue", "0.5", "0.25", "0.25", "0.5"),
            ("Environment steps per second", "1k", "2k", "1k", "2k"),
        )
    ]
    alts = shown.values("svg", "aria-label")
    assert alts == [*actual, "histogram of returns from 1 to 3"]
    assert shown.values("html", "lang") == ["en"]
    assert len(shown.ids) == len(set(shown.ids)) > 100
    assert shown.values("th", "scope").count("col") == 4


def test_a_page_is_the_same_again(whole_run):
    first = write_report(whole_run).read_bytes()
    assert write_report(whole_run).read_bytes() == first
    assert not list(whole_run.glob(".*.tmp"))


def test_a_page_of_a_run_that_has_just_begun(write_run):
    shown = read(write_report(write_run(agent=None)))
    assert shown.headings == ["unknown on Count-v1", "Learning", "Config"]
    assert "only begun" in shown.text
    assert "Nothing is written yet" in shown.text
    assert "Best return" not in shown.text


def test_a_page_may_lie_elsewhere(whole_run):
    path = write_report(str(whole_run), "pages/of/it.html")
    assert path == Path("pages/of/it.html")
    assert read(path).headings[0] == "DQN on Count-v1"
    assert not (whole_run / "report.html").exists()


def test_films_are_in_the_page_or_beside_it(whole_run, monkeypatch):
    film(whole_run, "deep/a #1?.mp4", b"another")
    (whole_run / "videos/note.txt").write_text("no film")
    inside = [b"another", b"film"]
    sources = read(write_report(whole_run)).values("video", "src")
    prefix = "data:video/mp4;base64,"
    assert [base64.b64decode(s.removeprefix(prefix)) for s in sources] == inside
    monkeypatch.setattr(page, "EMBEDDED_BYTES", len(b"anotherfilm"))
    linked = read(write_report(whole_run)).values("video", "src")
    assert linked == ["videos/deep/a%20%231%3F.mp4", "videos/one.mp4"]
    linked = read(write_report(whole_run, "pages/it.html")).values("video", "src")
    assert linked[1] == "../runs/run/videos/one.mp4"


def test_no_film_leads_out_of_the_run(whole_run, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    os.symlink(tmp_path / "secret", whole_run / "videos/two.mp4")
    shown = read(write_report(whole_run))
    assert len(shown.values("video", "src")) == 1
    assert "two.mp4" not in shown.text


def test_whatever_a_run_says_is_text(write_run):
    """Even the names of its columns, films and fields."""
    quoted = '"' + HOSTILE.replace('"', '""') + '"'  # as CSV has it
    run_dir = write_run(
        agent=HOSTILE,
        task_name=HOSTILE,
        algo_params={HOSTILE: HOSTILE, "deep": {HOSTILE: [HOSTILE]}},
        episodes=[(1, 1.0, 1)],
        metrics=[(1, 1.0, 0.5)],
        columns=[quoted],
    )
    packages = {"env_step": HOSTILE, "agent": HOSTILE, "packages": {HOSTILE: HOSTILE}}
    (run_dir / "system.json").write_text(json.dumps([HOSTILE, packages]))
    (run_dir / "evaluation.json").write_text(json.dumps([{"env_steps": HOSTILE}]))
    film(run_dir, "<img src=x onerror='y'>.mp4")
    path = write_report(run_dir)
    shown = read(path)
    assert shown.tags["script"] == shown.tags["img"] == 0
    assert not [a for a in shown.attributes if a[1].startswith("on")]
    assert shown.headings[0] == f"{HOSTILE} on {HOSTILE}"
    assert shown.values("svg", "aria-label")[-1].startswith(f"{HOSTILE} over 1 env")
    assert path.read_text("utf-8").count(html.escape("<script>")) > 8


def test_what_no_file_can_hold_is_replaced(write_run):
    shown = read(write_report(write_run(task_name="a\ud800b")))
    assert shown.headings[0] == "DQN on a?b"


def test_a_page_asks_nobody_for_anything(whole_run):
    text = write_report(whole_run).read_text("utf-8")
    found = [one or other for one, other in URL.findall(text)]
    assert len(found) > 20
    assert {url[:1] for url in found if not url.startswith("data:video")} == {"#"}
    targets = {url[1:] for url in found if url.startswith("#")}
    assert targets <= set(Page(text).ids)
    policy = "default-src 'none'; style-src 'unsafe-inline'; media-src data: 'self'"
    assert policy in read(whole_run / "report.html").values("meta", "content")


def test_a_damaged_run_has_a_page_that_says_so(whole_run):
    for name in ("config.json", "metrics.csv", "system.json", "evaluation.json"):
        (whole_run / name).write_text("{")
    shown = read(write_report(whole_run))
    assert shown.headings[:2] == ["unknown on unknown", "What cannot be read"]
    assert "damaged" in shown.text
    for name in ("config.json", "metrics.csv", "system.json", "evaluation.json"):
        assert shown.text.count(f"runs/run/{name} is damaged") == 1


def test_without_a_run_there_is_no_page():
    with pytest.raises(FileNotFoundError, match="there is no run in nowhere"):
        write_report("nowhere")


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_the_extra_is_named_where_it_is_missing(whole_run, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "kitae-core\[report\]"'):
        write_report(whole_run)


@pytest.mark.parametrize(
    "seconds, shown", [(0, "0.0 s"), (59.99, "60.0 s"), (3_599.7, "1 h 0 min")]
)
def test_times_are_readable(seconds, shown):
    assert readable_time(seconds) == shown


# In a browser

FRAME = """<!doctype html><body style="margin: 0">
<iframe src="{src}" width="{width}" height="900" style="border: 0"></iframe>
<script>onmessage = event => document.body.append(event.data)</script>"""
MEASURE = """<script>onload = () => parent.postMessage(
  `measured ${document.documentElement.scrollWidth} of ${innerWidth}, ` +
  `${[...document.querySelectorAll('svg')].filter(one => one.clientWidth > 200).length}`
  + ` figures, title ${document.title}`, '*')</script>"""


@pytest.fixture
def browser(tmp_path):
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on the PATH to look at the page with")

    def dump(path):
        """The document as the browser has it in the end."""
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=1600,900",
        ]
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [found, *options, profile, "--dump-dom", path.resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return dump


@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_all_of_it_within_its_width(whole_run, browser, width):
    report = write_report(whole_run)
    config = json.loads((whole_run / "config.json").read_text())
    config["algo_params"] |= {"long" * 40: "value" * 100, "task": HOSTILE}
    config["env_cfg"]["task_name"] = "Task" * 50
    (whole_run / "config.json").write_text(json.dumps(config))
    write_report(whole_run)
    # A copy that may run a script, which the page itself may not.
    text = re.sub("<meta http-equiv=.*>", "", report.read_text("utf-8"))
    Path("copy.html").write_text(text + MEASURE)
    Path("frame.html").write_text(FRAME.format(src="copy.html", width=width))
    shown = browser(Path("frame.html"))
    measured = re.search(r"measured (\d+) of (\d+), (\d+) figures, title (.*)", shown)
    assert measured, shown
    assert int(measured[1]) <= int(measured[2]) == width
    assert int(measured[3]) == 5
    assert measured[4].startswith("run: DQN on Task")


def test_a_browser_runs_nothing_that_is_in_the_page(whole_run, browser):
    report = write_report(whole_run)
    planted = report.read_text("utf-8") + "<script>document.title = 'sung'</script>"
    Path("planted.html").write_text(planted)
    assert "<title>run: DQN on Count-v1</title>" in browser(Path("planted.html"))
    free = re.sub("<meta http-equiv=.*>", "", planted)
    Path("planted.html").write_text(free)  # it can sing
    assert "<title>sung</title>" in browser(Path("planted.html"))
