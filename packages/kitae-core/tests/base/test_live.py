import io
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from kitae.base.recording import live
from kitae.base.recording.live import (
    Lines,
    Notebook,
    Progress,
    line,
    number,
    panel,
    sparkline,
)


def test_a_terminal_is_drawn_on(helpers, monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(live, "REFRESH_SECONDS", 0.0)
    env = helpers.count_envs()
    helpers.make_agent(env, "shown").train(env, 40)
    out = capsys.readouterr().out
    for said in ("shown", "40/40", "0:00:00 left", "return", "steps/s", "updates/s"):
        assert said in out
    assert "loss_value" in out


def test_elsewhere_there_are_plain_lines(helpers, monkeypatch, capsys):
    monkeypatch.setattr(live, "LINE_SECONDS", 0.0)
    env = helpers.count_envs()
    agent = helpers.make_agent(env, "plain", log_frequency=20)
    agent.train(env, 40)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert [text.split("  ")[:2] for text in out.splitlines()] == [
        ["plain", "20/40"],
        ["plain", "40/40"],
    ]


def test_lines_do_not_come_faster_than_one_reads(helpers, monkeypatch, capsys):
    # Longer than this training takes on a machine that is busy with something else.
    monkeypatch.setattr(live, "LINE_SECONDS", 600.0)
    env = helpers.count_envs()
    helpers.make_agent(env, "fast", log_frequency=2).train(env, 40)
    # The last one is always there.
    (only,) = capsys.readouterr().out.splitlines()
    assert only.startswith("fast  40/40  return ")


def test_nothing_is_shown_where_that_is_asked_for(helpers, monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    env = helpers.count_envs()
    helpers.make_agent(env, show_progress=False).train(env, 40)
    assert capsys.readouterr().out == ""


def test_the_display_ends_with_a_training_that_fails(helpers, monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    env = helpers.count_envs()
    agent = helpers.make_agent(env)

    def fails(env_step, metrics):
        raise ArithmeticError("a tracker's own")

    with pytest.raises(ArithmeticError, match="a tracker's own"):
        agent.train(env, 40, trackers=[fails])
    # The cursor, hidden while it was drawn, is shown again.
    assert capsys.readouterr().out.rstrip().endswith("\x1b[?25h")


def test_what_is_left_is_told_by_the_speed():
    progress = Progress("x", first=1_000, step=3_000, until=10_000, seconds=2.0)
    assert progress.speed == 1_000.0
    assert progress.left == "0:00:07"
    assert progress.share == 0.3
    progress.until = 3_000 + 3_725_000
    assert progress.left == "1:02:05"
    progress.step = 1_000
    assert progress.left == "-:--:--"


def test_a_sparkline_rises_with_the_values():
    assert sparkline([]) == ""
    assert sparkline([5.0, 5.0]) == "▁▁"
    assert sparkline([-1.0, 0.0, 6.0]) == "▁▂█"


def test_returns_are_kept_at_equal_parts_of_a_training():
    progress = Progress("x", first=0, step=0, until=live.MAX_SPARKS)
    progress.note_return()
    assert progress.returns == []
    for step in range(1, live.MAX_SPARKS + 1):
        for _ in range(3):
            progress.step, progress.episode_return = step, float(step)
            progress.note_return()
    assert progress.returns == [float(n + 1) for n in range(live.MAX_SPARKS)]


@pytest.mark.parametrize("width", [40, 60, 200])
def test_the_panel_fits_the_width(width):
    progress = Progress(
        "dqn-CartPole-v1-0",
        first=0,
        step=123_456,
        until=500_000,
        seconds=12.0,
        updates=30_000,
        episodes=1_234,
        episode_return=187.25,
        episode_length=187.25,
        metrics={"loss_qvalue": 0.0123, "exploration": 0.05},
        returns=[float(i) for i in range(32)],
    )
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(panel(progress))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "10,288 steps/s  2,500 updates/s" in out.getvalue()
    assert "return 187.2" in out.getvalue()
    assert ("dqn-CartPole-v1-0" in lines[0]) == (width >= 60)


def test_a_line_tells_all_of_it():
    progress = Progress(
        "run",
        0,
        500,
        1_000,
        2.0,
        100,
        3,
        21.5,
        21.5,
        {"loss": 0.25, "exploration": 0.5},
    )
    assert line(progress) == (
        "run  500/1,000  return 21.5  loss 0.25  exploration 0.5  "
        "250 steps/s  50 updates/s  0:00:02 left"
    )


@pytest.mark.parametrize(
    "value, written",
    [(0.0, "0"), (1.0, "1"), (-200.0, "-200.0"), (99_999.4, "99,999")],
)
def test_numbers_are_short(value, written):
    assert number(value) == written


def test_a_closed_line_is_not_printed_twice():
    out = io.StringIO()
    lines = Lines(Console(file=out, width=200))
    progress = Progress("x", 0, 10, 10)
    lines.close(progress)
    lines.close(progress)
    assert len(out.getvalue().splitlines()) == 1


def test_a_notebooks_output_is_replaced(helpers, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    source = (
        "from kitae.base.recording.live import Progress, open_display\n"
        "display = open_display(True)\n"
        "print(type(display).__name__)\n"
        "for step in (1, 2):\n"
        "    display.close(Progress('in-a-notebook', 0, step, 2))\n"
    )
    cell = nbformat.v4.new_code_cell(source)
    book = nbformat.v4.new_notebook(cells=[cell])
    client.NotebookClient(book, timeout=120).execute()
    shown, printed = book.cells[0].outputs
    assert printed["text"] == "Notebook\n"
    text = shown["data"]["text/plain"]
    assert "in-a-notebook" in text
    assert "2/2" in text
    assert "1/2" not in text


@pytest.fixture(params=["1", "0"], ids=["terminal", "lines"])
def any_display(request, monkeypatch):
    """Each way to show a training outside a notebook, as often as it can."""
    monkeypatch.setenv("TTY_COMPATIBLE", request.param)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(live, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(live, "LINE_SECONDS", 0.0)


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk():
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize(
    "opened, why",
    [(broken_pipe, "Broken pipe"), (full_disk, "No space left on device")],
)
def test_a_training_outlives_whoever_read_of_it(
    helpers, any_display, opened, why, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "stdout", os.fdopen(opened(), "w", encoding="utf-8"))
    env = helpers.count_envs()
    agent = helpers.make_agent(env, "unread", log_frequency=10)
    agent.train(env, 40)
    assert agent.step == 40
    assert Path("runs/unread/checkpoints/40").is_dir()
    assert capsys.readouterr().err == (
        f"kitae: standard output can no longer be written ({why}): from here on it is "
        "dropped\n"
    )
    # Nothing is left that Python would try to write once more as it ends.
    sys.stdout.close()


def test_a_training_outlives_both_streams(helpers, any_display, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, os.fdopen(broken_pipe(), "w", encoding="utf-8"))
    env = helpers.count_envs()
    agent = helpers.make_agent(env, log_frequency=10)
    agent.train(env, 40)
    assert agent.step == 40
    sys.stdout.close()
    sys.stderr.close()


def test_what_users_print_to_a_broken_stream_still_raises(helpers, monkeypatch):
    stream = os.fdopen(broken_pipe(), "w", encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    env = helpers.count_envs()
    helpers.make_agent(env).train(env, 40)
    with pytest.raises(BrokenPipeError):
        print("mine", flush=True)
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_training_outlives_a_page_that_is_gone():
    class Gone:
        def update(self, *_, **__):
            raise RuntimeError("no connection")

    notebook = Notebook.__new__(Notebook)
    notebook._handle, notebook._last = Gone(), 0.0
    notebook.show(Progress("x", 0, 1, 2))
    notebook.close(Progress("x", 0, 2, 2))


def test_a_name_is_shown_as_it_is(helpers, any_display, capsys):
    name = "dqn[red]-lr[/0.1]"
    env = helpers.count_envs()
    helpers.make_agent(env, name, log_frequency=10).train(env, 40)
    assert name in capsys.readouterr().out


HOSTILE = "a\x1b[31m\x9b2J\u202e\ud800\r\nb"
ESCAPED = r"a\x1b[31m\x9b2J\u202e\ud800\r\nb"


def test_what_a_terminal_would_obey_is_escaped():
    progress = Progress(HOSTILE, 0, 1, 2, metrics={HOSTILE: 1.0})
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=False)
    console.print(panel(progress))
    Lines(console).close(progress)
    head, _, metrics, _, plain = out.getvalue().split("\n")[:-1]
    assert head.startswith(f"{ESCAPED} ")
    assert metrics == f"{ESCAPED} 1"
    assert plain == line(progress)
    assert plain.startswith(f"{ESCAPED}  1/2  {ESCAPED} 1  ")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_any_encoding_is_drawn_on(
    helpers, any_display, encoding, monkeypatch
):
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    env = helpers.count_envs()
    helpers.make_agent(env, "größer-日", log_frequency=10).train(env, 40)
    stream.flush()
    out = written.getvalue().decode(encoding)
    shown = "größer-日".encode(encoding, "replace").decode(encoding)
    assert shown in out
    assert "40/40" in out


def test_bars_are_of_what_the_encoding_has():
    progress = Progress("x", 0, 5, 10, episode_return=3.0, episode_length=3.0)
    progress.returns = [0.0, 3.5, 7.0]
    drawn = {}
    for encoding in ("ascii", "utf-8"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        console = Console(file=stream, width=100, force_terminal=False)
        console.print(panel(progress))
        stream.flush()
        drawn[encoding] = stream.buffer.getvalue().decode(encoding)
    assert "  _+#  " in drawn["ascii"]
    assert "  ▁▅█  " in drawn["utf-8"]
    assert drawn["ascii"].isascii()
