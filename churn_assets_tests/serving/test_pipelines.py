"""A model as the files of a Spark pipeline: it comes back as it was, and what is damaged or another's is refused.

That Spark reads and writes the same is tried in `test_spark_ml.py`.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from churn_assets.churn.errors import ChangedModelError, ChurnError, UnexportableModelError
from churn_assets.churn.trees import BoostedTrees, Node, Tree, exported_trees
from churn_assets.serving.pipelines import load_pipeline, save_pipeline, shared_folder

SPLITS = [
    Node(feature=1, split=-3.4580216419098566e-4, left=1, right=4, gain=3.25),
    Node(feature=0, split=5e-324, left=2, right=3, gain=0.1),
    Node(-0.6153846153846154),
    Node(1e-5),
    Node(1e300),
]
MODEL = BoostedTrees(("a", "b"), (Tree.of(1.0, [Node(0.25)]), Tree.of(0.1, SPLITS)))
ASSEMBLER, TREES = "stages/0_*", "stages/1_*"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_pipeline(MODEL, tmp_path / "saved")
    return tmp_path / "saved"


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def described(folder: Path, pattern: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the description of a stage, or of the pipeline itself (".")."""
    file = one(folder, f"{pattern}/metadata/part-*")
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("model", [MODEL, replace(MODEL, trees=MODEL.trees[:1])], ids=["trees", "a leaf"])
def test_a_model_comes_back_as_it_was(model: BoostedTrees, tmp_path: Path) -> None:
    save_pipeline(model, tmp_path / "saved")
    loaded = load_pipeline(tmp_path / "saved")
    assert exported_trees(loaded, 0.5) == exported_trees(model, 0.5)
    assert loaded.importances() == model.importances()
    assert [tree.gain.tolist() for tree in loaded.trees] == [tree.gain.tolist() for tree in model.trees]


def test_a_learned_model_comes_back_as_it_was(churn_trees: BoostedTrees, tmp_path: Path) -> None:
    save_pipeline(churn_trees, tmp_path / "saved")
    loaded = load_pipeline(tmp_path / "saved")
    assert exported_trees(loaded, 0.5) == exported_trees(churn_trees, 0.5)
    assert loaded.importances() == churn_trees.importances()
    assert sum(loaded.importances().values()) == pytest.approx(1)


def test_the_same_model_gives_the_same_bytes_and_another_one_others(tmp_path: Path) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    for name, model in {"one": MODEL, "again": MODEL, "other": replace(MODEL, features=("a", "c"))}.items():
        save_pipeline(model, tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "again")
    assert files(tmp_path / "one").keys() != files(tmp_path / "other").keys()


def test_weights_belong_to_their_trees_whatever_order_they_are_in(saved: Path) -> None:
    file = one(saved, f"{TREES}/treesMetadata/part-*")
    heads = pq.read_table(file)
    pq.write_table(heads.take([1, 0]), file)
    assert exported_trees(load_pipeline(saved), 0.5) == exported_trees(MODEL, 0.5)


def test_a_pipeline_is_not_written_over_another(saved: Path) -> None:
    with pytest.raises(FileExistsError):
        save_pipeline(MODEL, saved)


def without_trees(folder: Path) -> None:
    described(folder, ".", lambda content: content["paramMap"]["stageUids"].pop())


def in_another_order(folder: Path) -> None:
    described(folder, ".", lambda content: content["paramMap"]["stageUids"].reverse())
    for stage in sorted(folder.glob("stages/*")):
        number, _, uid = stage.name.partition("_")
        stage.rename(stage.with_name(f"{1 - int(number)}_{uid}"))


def of_another_class(folder: Path) -> None:
    described(folder, TREES, lambda content: content.update({"class": "org.apache.spark.ml.RandomForest"}))


def lenient(folder: Path) -> None:
    described(folder, ASSEMBLER, lambda content: content["paramMap"].update(handleInvalid="keep"))


def lenient_by_default(folder: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        del content["paramMap"]["handleInvalid"]
        content["defaultParamMap"]["handleInvalid"] = "skip"

    described(folder, ASSEMBLER, change)


def of_more_features(folder: Path) -> None:
    described(folder, ASSEMBLER, lambda content: content["paramMap"]["inputCols"].append("c"))


def of_a_tree_more(folder: Path) -> None:
    described(folder, TREES, lambda content: content.update(numTrees=3))


def without_a_weight(folder: Path) -> None:
    file = one(folder, f"{TREES}/treesMetadata/part-*")
    pq.write_table(pq.read_table(file).slice(1), file)


def without_a_node(folder: Path) -> None:
    file = one(folder, f"{TREES}/data/part-*")
    pq.write_table(pq.read_table(file).slice(0, 5), file)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without_trees, "its stages are not VectorAssembler and GBTClassificationModel"),
        (in_another_order, "its stages are not VectorAssembler and GBTClassificationModel"),
        (of_another_class, "org.apache.spark.ml.RandomForest"),
        (lenient, "lets unknown values through.*\n.*handleInvalid: keep"),
        (lenient_by_default, "lets unknown values through.*\n.*handleInvalid: skip"),
        (of_more_features, "differ in features.*\n.*3 and 2"),
        (of_a_tree_more, "its trees are not all there.*\n.*2 of 3"),
        (without_a_weight, "its trees are not all there.*\n.*1 of 2"),
        (without_a_node, "the nodes of tree 1 are no tree"),
    ],
)
def test_another_pipeline_is_refused_and_told(saved: Path, spoil: Callable[[Path], None], told: str) -> None:
    spoil(saved)
    with pytest.raises(UnexportableModelError, match=told):
        load_pipeline(saved)


FILES = [
    "metadata/part-*",
    f"{ASSEMBLER}/metadata/part-*",
    f"{TREES}/metadata/part-*",
    f"{TREES}/treesMetadata/part-*",
    f"{TREES}/data/part-*",
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "scrambled", "of another kind"])
def test_a_damaged_file_is_told_and_not_read_as_another_model(saved: Path, file: str, how: str) -> None:
    damaged = one(saved, file)
    content = damaged.read_bytes()
    if how == "missing":
        damaged.unlink()
    elif how == "of another kind":
        is_table = damaged.suffix == ".parquet"
        pq.write_table(pa.table({"x": [1]}), damaged) if is_table else damaged.write_text("[1]")
    else:
        scrambled = bytes(np.random.default_rng(1).permutation(np.frombuffer(content, dtype=np.uint8)))
        damaged.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "scrambled": scrambled}[how])
    with pytest.raises(ChurnError) as refused:
        load_pipeline(saved)
    assert isinstance(refused.value, ChangedModelError | UnexportableModelError)
    assert "Next step: " in str(refused.value)


def test_a_pipeline_that_is_not_there_is_told_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(ChangedModelError, match=f"{tmp_path}/none are missing or damaged"):
        load_pipeline(tmp_path / "none")


def test_a_shared_folder_is_gone_afterwards_also_after_an_error(tmp_path: Path) -> None:
    def used(folder: str) -> None:
        Path(folder, "data").mkdir(parents=True)
        raise OSError("full")

    with shared_folder(str(tmp_path)) as first, shared_folder(f"{tmp_path}/") as second:
        assert first != second
        Path(first).mkdir()
    with pytest.raises(OSError, match="full"), shared_folder(str(tmp_path)) as third:
        used(third)
    assert list(tmp_path.iterdir()) == []
