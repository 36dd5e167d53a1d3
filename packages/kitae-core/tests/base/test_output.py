import io
import os

import pytest

from kitae.base.rundir.output import Output, guarded, visible


@pytest.mark.parametrize(
    "text, shown",
    [
        ("größer 日本 [red] 🙂", "größer 日本 [red] 🙂"),
        ("\x00\x1b[2J\x7f", r"\x00\x1b[2J\x7f"),
        ("\x1b]8;;http://x\x07y\x1b]8;;\x07", r"\x1b]8;;http://x\x07y\x1b]8;;\x07"),
        ("\x85\x9b31m", r"\x85\x9b31m"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\u202egpj.exe\u2066", r"\u202egpj.exe\u2066"),
        ("\udcff\ud800", r"\udcff\ud800"),
        (7, "7"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert visible(text) == shown


def test_what_cannot_be_encoded_is_replaced():
    written = io.BytesIO()
    output = Output(io.TextIOWrapper(written, encoding="ascii"), None)
    output.writelines(["größer\n", "\ud800\n"])
    assert written.getvalue() == b"gr??er\n?\n"


def test_output_ends_once_and_for_all(capsys):
    class Full(io.StringIO):
        full = True

        def write(self, text):
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = Full()
    output = guarded(stream, "standard output")
    assert guarded(output) is output
    print("one", file=output)
    stream.full = False
    print("two", file=output, flush=True)
    assert stream.getvalue() == ""
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_a_closed_stream_and_none_at_all_are_as_good():
    stream = io.StringIO()
    stream.close()
    print("dropped", file=guarded(stream), flush=True)
    nowhere = guarded(None)
    print("dropped", file=nowhere, flush=True)
    nowhere.close()


def test_what_the_stream_can_do_is_still_there(tmp_path):
    with (tmp_path / "file").open("w", encoding="utf-8") as stream:
        output = guarded(stream)
        assert output.fileno() == stream.fileno()
        assert not output.isatty()
        assert output.encoding == "utf-8"


def test_a_descriptor_stays_what_it_was():
    reader, writer = os.pipe()
    os.close(reader)
    before = os.fstat(writer)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        print("lost", file=guarded(stream))
        assert os.fstat(stream.fileno()) == before
        assert not os.get_inheritable(stream.fileno())
