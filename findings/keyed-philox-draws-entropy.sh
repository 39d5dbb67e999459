#!/bin/sh
# numpy: a Philox that is given its key asks the system for entropy all the same, for a seed that it does not use.
# A simulator with a stream for each customer took four times as long by that; set to another key, one Philox gives the same streams.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'numpy==2.4.6'
cat >"$folder/streams.py" <<'PYTHON'
import secrets

asked, honest = [], secrets.randbits
secrets.randbits = lambda bits: asked.append(bits) or honest(bits)

import numpy as np  # noqa: E402
import numpy.random  # noqa: E402, it takes the function over as it is loaded, and asks once

KEYS = [np.array([42, customer], dtype=np.uint64) for customer in range(1000)]


def told(name, streams):
    asked.clear()
    drawn = [stream.random(2).tolist() for stream in streams]
    print(f"{name}: {len(drawn)} streams, {sum(asked)} bits of entropy")
    return drawn


def set_anew():
    philox = np.random.Philox(key=0)
    start, stream = philox.state, np.random.Generator(philox)
    for key in KEYS:
        start["state"]["key"] = key
        philox.state = start
        yield stream


made = told("made with a key", (np.random.Generator(np.random.Philox(key=key)) for key in KEYS))
made_by_seed = told("made with a seed", (np.random.Generator(np.random.Philox(seed)) for seed in range(1000)))
again = told("one, set to each key", set_anew())
print("the same numbers:", made == again)
PYTHON
"$folder/venv/bin/python" -c 'import numpy; print("numpy", numpy.__version__)'
"$folder/venv/bin/python" "$folder/streams.py" | tee "$folder/found"
cat >"$folder/seen" <<'SEEN'
made with a key: 1000 streams, 128000 bits of entropy
made with a seed: 1000 streams, 0 bits of entropy
one, set to each key: 1000 streams, 128 bits of entropy
the same numbers: True
SEEN
if cmp -s "$folder/found" "$folder/seen"; then
    echo "as it was seen"
else
    echo "CHANGED"
    exit 1
fi
