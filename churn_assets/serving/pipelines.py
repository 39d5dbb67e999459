"""Plain trees as the files of a fitted Spark pipeline, and back: written and read without Spark or a JVM.

So a version of any engine's loads in Spark as any other pipeline (`mlflow.spark.load_model`). What is logged beside it
belongs to `flavor`.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.environment_variables import MLFLOW_DFS_TMP
from pyspark import __version__ as spark_version

from churn_assets.churn.errors import ChangedModelError
from churn_assets.churn.trees import LEAF, BoostedTrees, Tree, model_digest, trees_of_saved_nodes, unreadable
from churn_assets.delta.storage import delete_folder, spark_uri

# Within a logged model: where MLflow's Spark flavor keeps it, so that `mlflow.spark.load_model` finds it too.
PIPELINE = "sparkml"
PIPELINE_CLASS = "org.apache.spark.ml.PipelineModel"
ASSEMBLER_CLASS = "org.apache.spark.ml.feature.VectorAssembler"
TREES_CLASS = "org.apache.spark.ml.classification.GBTClassificationModel"
TREE_CLASS = "org.apache.spark.ml.regression.DecisionTreeRegressionModel"
# Spark multiplies a gain by the rows counted here; ours is of all rows of the node already.
STATISTICS, ROW_COUNT = [1.0, 0.0, 0.0], 1
NO_GAIN = -1.0


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


# As Spark 4 writes and reads them (org.apache.spark.ml.tree, DecisionTreeModelReadWrite and EnsembleModelReadWrite).
_DOUBLES = pa.list_(_required("element", pa.float64()))
_SPLIT = pa.struct(
    [
        _required("featureIndex", pa.int32()),
        pa.field("leftCategoriesOrThreshold", _DOUBLES),
        _required("numCategories", pa.int32()),
    ]
)
_NODE = pa.struct(
    [
        *(_required("id", pa.int32()), _required("prediction", pa.float64()), _required("impurity", pa.float64())),
        pa.field("impurityStats", _DOUBLES),
        *(_required("rawCount", pa.int64()), _required("gain", pa.float64())),
        *(_required("leftChild", pa.int32()), _required("rightChild", pa.int32())),
        pa.field("split", _SPLIT),
    ]
)
_NODES = pa.schema([_required("treeID", pa.int32()), pa.field("nodeData", _NODE)])
_HEADS = pa.schema([_required("_1", pa.int32()), pa.field("_2", pa.string()), _required("_3", pa.float64())])


def save_pipeline(model: BoostedTrees, folder: Path) -> None:
    """Writes `model` as the new folder `folder`, which Spark's `PipelineModel.load` reads: assembler and trees.

    The same model gives the same bytes. Its gains give Spark's featureImportances; node counts and impurities, which no
    score depends on, are not kept.
    """
    name = model_digest(model, None)[:12]
    uids = [f"VectorAssembler_{name}", f"BoostedTrees_{name}"]
    assembler, trees = (folder / "stages" / f"{number}_{uid}" for number, uid in enumerate(uids))
    _write_metadata(folder, PIPELINE_CLASS, f"PipelineModel_{name}", {"stageUids": uids})
    params = {"inputCols": list(model.features), "outputCol": "features", "handleInvalid": "error"}
    _write_metadata(assembler, ASSEMBLER_CLASS, uids[0], params)
    counted = {"numFeatures": len(model.features), "numTrees": len(model.trees)}
    # The impurity says how the statistics of a node are to be read; what is not named keeps its default.
    _write_metadata(trees, TREES_CLASS, uids[1], {}, {"impurity": "variance"}, counted)
    heads = [
        (number, _metadata(TREE_CLASS, f"{uids[1]}_{number}", {}, {"impurity": "variance"}), tree.weight)
        for number, tree in enumerate(model.trees)
    ]
    nodes = [
        {"treeID": number, "nodeData": node} for number, tree in enumerate(model.trees) for node in _saved_nodes(tree)
    ]
    _write_rows(trees / "treesMetadata", [dict(zip(_HEADS.names, head, strict=True)) for head in heads], _HEADS)
    _write_rows(trees / "data", nodes, _NODES)


def load_pipeline(folder: Path) -> BoostedTrees:
    """The trees of a pipeline that `save_pipeline`, or Spark for a model of these stages, wrote.

    Raises UnexportableModelError for any other pipeline, and for one that lets unknown values through, and
    ChangedModelError where its files are missing or damaged.
    """
    try:
        return _loaded(folder)
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as damaged:
        raise ChangedModelError(
            f"The files of the pipeline in {folder} are missing or damaged.",
            [f"{type(damaged).__name__}: {damaged}"],
            next_step="roll back to a version that loads, or train and register again",
        ) from damaged


def _loaded(folder: Path) -> BoostedTrees:
    stages = _read_metadata(folder)["paramMap"].get("stageUids", [])
    folders = [folder / "stages" / f"{number}_{uid}" for number, uid in enumerate(stages)]
    described = [_read_metadata(stage) for stage in folders]
    classes = [stage["class"] for stage in described]
    if classes != [ASSEMBLER_CLASS, TREES_CLASS]:
        raise unreadable("its stages are not VectorAssembler and GBTClassificationModel", classes)
    settings = described[0]["defaultParamMap"] | described[0]["paramMap"]
    # The other settings let a row with an unknown feature through, which the exported trees could not score.
    if settings.get("handleInvalid", "error") != "error":
        raise unreadable("its assembler lets unknown values through", [f"handleInvalid: {settings['handleInvalid']}"])
    features, counted = settings["inputCols"], described[1]
    if len(features) != counted["numFeatures"]:
        raise unreadable("assembler and trees differ in features", [f"{len(features)} and {counted['numFeatures']}"])
    # By place: their names (_1, _2, _3) say nothing.
    heads = sorted((number, weight) for number, _, weight in map(dict.values, _read_rows(folders[1] / "treesMetadata")))
    if [number for number, _ in heads] != list(range(counted["numTrees"])):
        raise unreadable("its trees are not all there", [f"{len(heads)} of {counted['numTrees']}"])
    return trees_of_saved_nodes(features, _read_rows(folders[1] / "data"), [weight for _, weight in heads])


@contextmanager
def shared_folder(dfs_tmpdir: str | None) -> Iterator[str]:
    """Spark's name for a folder under `dfs_tmpdir` (None: MLflow's own), which is gone afterwards."""
    shared = f"{(dfs_tmpdir or MLFLOW_DFS_TMP.get()).rstrip('/')}/{uuid.uuid4().hex}"
    try:
        yield spark_uri(shared)
    finally:
        delete_folder(shared)


def _saved_nodes(tree: Tree) -> Iterator[dict[str, Any]]:
    for number, feature in enumerate(tree.feature.tolist()):
        is_leaf = feature == LEAF
        yield {
            "id": number,
            "prediction": float(tree.value[number]) if is_leaf else 0.0,
            "impurity": 0.0,
            "impurityStats": STATISTICS,
            "rawCount": ROW_COUNT,
            "gain": NO_GAIN if is_leaf else float(tree.gain[number]),
            "leftChild": int(tree.left[number]),
            "rightChild": int(tree.right[number]),
            "split": {
                "featureIndex": feature,
                "leftCategoriesOrThreshold": [] if is_leaf else [float(tree.split[number])],
                "numCategories": -1,
            },
        }


def _metadata(
    kind: str, uid: str, params: Mapping[str, Any], defaults: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> str:
    content = {"class": kind, "timestamp": 0, "sparkVersion": spark_version, "uid": uid}
    return json.dumps(content | {"paramMap": dict(params), "defaultParamMap": dict(defaults)} | dict(more or {}))


def _write_metadata(
    folder: Path,
    kind: str,
    uid: str,
    params: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    _write(folder / "metadata", "part-00000.txt", f"{_metadata(kind, uid, params, defaults or {}, more)}\n".encode())


def _write_rows(folder: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), sink)
    _write(folder, "part-00000.parquet", sink.getvalue().to_pybytes())


def _write(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    (folder / "_SUCCESS").touch()


def _read_metadata(folder: Path) -> dict[str, Any]:
    parts = sorted((folder / "metadata").glob("part-*"))
    content: dict[str, Any] = json.loads("".join(part.read_text(encoding="utf-8") for part in parts))
    return content


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.concat_tables(
        [pq.read_table(part) for part in sorted(folder.glob("part-*.parquet"))]
    ).to_pylist()
    return rows
