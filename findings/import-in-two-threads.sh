#!/bin/sh
# MLflow, imported for the first time by two threads at once, one the package, the other a part of it. Python locks the part's name before it looks for the
# package, and the package imports that part in its own __init__: each waits for the other. The one ends in a _DeadlockError, which is no ImportError,
# the other in an AttributeError of what the first left behind. Whoever imports MLflow late, or ahead, does it in one thread.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'mlflow-skinny==3.17.2'
cat >"$folder/threads.py" <<'PYTHON'
import sys
import time
from importlib import import_module
from importlib.abc import MetaPathFinder
from threading import Thread, current_thread

ends = {}


def imports(name):
    try:
        import_module(name)
        ends[name] = "imported"
    except BaseException as error:
        ends[name] = f"{type(error).__mro__[1].__name__}: {type(error).__name__}"


class Beside(MetaPathFinder):
    """While the package is on its way, another thread begins with a part."""

    begun = False

    def find_spec(self, name, path=None, target=None):
        if not self.begun and name == "mlflow.version" and current_thread() is package:
            self.begun = True
            part.start()
            time.sleep(1)


package, part = Thread(target=imports, args=("mlflow",)), Thread(target=imports, args=("mlflow.store.tracking",))
sys.meta_path.insert(0, Beside())
package.start()
package.join()
part.join()
for name, end in sorted(ends.items()):
    print(f"{name}: {end}")
PYTHON
"$folder/venv/bin/python" -c 'import sys; from importlib.metadata import version; print("mlflow", version("mlflow-skinny"), "on Python", sys.version.split()[0])'
"$folder/venv/bin/python" "$folder/threads.py" 2>/dev/null | tee "$folder/found"
cat >"$folder/seen" <<'SEEN'
mlflow: RuntimeError: _DeadlockError
mlflow.store.tracking: Exception: AttributeError
SEEN
if cmp -s "$folder/found" "$folder/seen"; then
    echo "as it was seen"
else
    echo "CHANGED"
    exit 1
fi
