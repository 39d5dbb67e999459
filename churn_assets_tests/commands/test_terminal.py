"""What a person is shown in a terminal: lines of characters, and nothing that moves it."""

import subprocess
import sys
from pathlib import Path

SAY = """
import sys
from pathlib import Path
from churn_assets.commands.terminal import output_to
with output_to(Path(sys.argv[1])) as terminal:
    print("one\\x1b[2J two\\r\\u202e\\nthree", file=terminal)
    print("a library's own words")
"""


def test_text_from_data_does_not_control_the_terminal(tmp_path: Path) -> None:
    said = subprocess.run([sys.executable, "-c", SAY, str(tmp_path / "log")], check=True, capture_output=True)
    assert said.stdout.decode() == "one\ufffd[2J two\ufffd\ufffd\nthree\n"
    assert (tmp_path / "log").read_text() == "a library's own words\n"
