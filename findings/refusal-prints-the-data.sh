#!/bin/sh
# MLflow's python_function: to refuse a row whose types do not fit its signature takes several times as long as to score it, and the more columns there are the
# longer. The refusal begins with "Failed to enforce schema of data", and the data there is a DataFrame as text: pandas shows twenty of 400 columns, but it
# formats more of them first and gives up those that do not fit the width. Whoever answers bad requests with an error pays more for these than for good ones; a
# contract test that spoils each column once pays it for each. Within pandas' option display.max_columns of 1 a refusal is cheaper than a score.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'mlflow-skinny==3.17.2' 'pandas==2.3.3' 'numpy==2.4.6' 'cloudpickle==3.1.2'
cat >"$folder/refusal.py" <<'PYTHON'
import os
import sys
import time
import warnings

warnings.simplefilter("ignore")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow.pyfunc
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

names = [f"measure_{number:03}" for number in range(400)]


class Sum(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return model_input.sum(axis=1)


place = os.path.join(sys.argv[1], "model")
signature = ModelSignature(Schema([ColSpec("double", name) for name in names]), Schema([ColSpec("double")]))
mlflow.pyfunc.save_model(place, python_model=Sum(), signature=signature, pip_requirements=["pandas"])
model = mlflow.pyfunc.load_model(place, suppress_warnings=True)
sound = pd.DataFrame([dict.fromkeys(names, 1.0)])
text = sound.assign(measure_007="text")


def seconds(row):
    begun = time.process_time()
    for _ in range(20):
        try:
            model.predict(row)
        except mlflow.exceptions.MlflowException as refusal:
            said = str(refusal)
            assert said.startswith("Failed to enforce schema of data") and "measure_007" in said
    return time.process_time() - begun


seconds(sound)
scored, refused = seconds(sound), seconds(text)
with pd.option_context("display.max_columns", 1):
    refused_in_short = seconds(text)
print("refused at more than three times the cost of a score:", refused > 3 * scored)
print("within display.max_columns = 1 at less than a score:", refused_in_short < scored)
PYTHON
"$folder/venv/bin/python" -c 'from importlib.metadata import version as v; print(*(f"{name} {v(name)}" for name in ("mlflow-skinny", "pandas")))'
"$folder/venv/bin/python" "$folder/refusal.py" "$folder" 2>/dev/null | tee "$folder/found"
cat >"$folder/seen" <<'SEEN'
refused at more than three times the cost of a score: True
within display.max_columns = 1 at less than a score: True
SEEN
if cmp -s "$folder/found" "$folder/seen"; then
    echo "as it was seen"
else
    echo "CHANGED"
    exit 1
fi
