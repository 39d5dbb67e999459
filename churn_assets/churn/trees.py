"""A fitted pipeline as text: everything that decides a score and an alert, exactly, and readable without Spark.

Where the text is kept and who scores with it does not belong here.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from churn_assets.churn.errors import UnexportableModelError

if TYPE_CHECKING:
    from pyspark.ml import PipelineModel
    from pyspark.ml.classification import GBTClassificationModel
    from pyspark.ml.feature import VectorAssembler

LEAF = -1
# As Java writes a double; NaN and Infinity are not among them.
_NUMBER = r"-?[0-9]+\.[0-9]+(?:E-?[0-9]+)?"
_TREE = re.compile(rf"  Tree (?P<number>[0-9]+) \(weight (?P<weight>{_NUMBER})\):")
_NODE = re.compile(
    rf"(?P<indent> *)(?:(?P<word>If|Else) \(feature (?P<feature>[0-9]+) (?P<relation><=|>) (?P<split>{_NUMBER})\)"
    rf"|Predict: (?P<value>{_NUMBER}))"
)
# Of a tree's root in GBTClassificationModel.toDebugString; every level below it is one space further in.
_ROOT_INDENT = 4


@dataclass
class Tree:
    """One tree as columns with an entry per node, the root first and each left child right after its parent.

    A row goes left where its value of feature number `feature` is at most `split`. At a leaf `feature`, `left` and
    `right` are LEAF and `split` is None; elsewhere `value`, the leaf's prediction, is None.
    """

    weight: float
    feature: list[int] = field(default_factory=list)
    split: list[float | None] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    value: list[float | None] = field(default_factory=list)

    def add(self, *, feature: int = LEAF, split: float | None = None, value: float | None = None) -> int:
        """Appends a node without children and returns its number."""
        self.feature.append(feature)
        self.split.append(split)
        self.left.append(LEAF)
        self.right.append(LEAF)
        self.value.append(value)
        return len(self.feature) - 1


def exported_trees(model: "PipelineModel", threshold: float | None) -> str:
    """The model and its threshold as one line of JSON, the same text for the same model on any machine.

    Keys: `features`, their names in the trees' order; `threshold`; `trees`, each as `Tree`. The margin of a row is the
    sum over the trees of weight times prediction, its probability of churn 1 - 1 / (1 + exp(2 margin)). Numbers are the
    shortest text that reads back as the same double. Raises UnexportableModelError for a pipeline that is not the
    assembler and trees of `fit_churn_model`, and where Spark's description of the trees is not fully understood.
    """
    assembler, boosted = assembler_and_trees(model)
    features = assembler.getInputCols()
    trees = parsed_trees(boosted.toDebugString, len(features))
    described, expected = (
        {"features": len(features), "weights": [tree.weight for tree in trees], "nodes": _nodes(trees)},
        {"features": boosted.numFeatures, "weights": list(boosted.treeWeights), "nodes": boosted.totalNumNodes},
    )
    wrong = [
        f"{name}: read {described[name]}, has {expected[name]}"
        for name in expected
        if described[name] != expected[name]
    ]
    if wrong or len(trees) != boosted.getNumTrees:
        raise _unreadable("its description is not of the whole model", wrong)
    content = {
        "features": features,
        "threshold": None if threshold is None else float(threshold),
        "trees": [asdict(tree) for tree in trees],
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def assembler_and_trees(model: "PipelineModel") -> "tuple[VectorAssembler, GBTClassificationModel]":
    """The two stages of a churn pipeline. Raises UnexportableModelError for any other pipeline."""
    from pyspark.ml.classification import GBTClassificationModel
    from pyspark.ml.feature import VectorAssembler

    stages = list(model.stages)
    names = [type(stage).__name__ for stage in stages]
    if len(stages) != 2:
        raise _unreadable("its stages are not VectorAssembler and GBTClassificationModel", names)
    assembler, trees = stages
    if not isinstance(assembler, VectorAssembler) or not isinstance(trees, GBTClassificationModel):
        raise _unreadable("its stages are not VectorAssembler and GBTClassificationModel", names)
    # The other settings let a row with an unknown feature through, which the exported trees could not score.
    if assembler.getHandleInvalid() != "error":
        raise _unreadable(
            "its assembler lets unknown values through", [f"handleInvalid: {assembler.getHandleInvalid()}"]
        )
    return assembler, trees


def parsed_trees(described: str, features: int) -> list[Tree]:
    """The trees of a `GBTClassificationModel.toDebugString` over so many features.

    Raises UnexportableModelError at the first line that is not exactly as expected, such as a categorical split.
    """
    header, *body = described.rstrip("\n").split("\n")
    if not header.startswith("GBTClassificationModel: "):
        raise _unreadable("its description begins unexpectedly", [header])
    lines = _Lines(body)
    trees: list[Tree] = []
    while lines.peek() is not None:
        parts = lines.take(_TREE)
        if int(parts["number"]) != len(trees):
            raise lines.unexpected()
        tree = Tree(float(parts["weight"]))
        _read_node(lines, tree, features, _ROOT_INDENT)
        trees.append(tree)
    return trees


class _Lines:
    """A cursor over the description that knows where it stands when something is wrong."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._taken = 0

    def peek(self) -> str | None:
        return self._lines[self._taken] if self._taken < len(self._lines) else None

    def take(self, pattern: re.Pattern[str]) -> dict[str, Any]:
        line = self.peek()
        self._taken += 1
        match = None if line is None else pattern.fullmatch(line)
        if match is None:
            raise self.unexpected()
        return match.groupdict()

    def unexpected(self) -> UnexportableModelError:
        """About the line taken last."""
        line = self._lines[self._taken - 1] if self._taken <= len(self._lines) else "(the end)"
        # The header is line 1.
        return _unreadable("its description cannot be read", [f"line {self._taken + 1}: {line.strip()}"])


def _read_node(lines: _Lines, tree: Tree, features: int, indent: int) -> int:
    parts = _take_node(lines, indent)
    if parts["value"] is not None:
        return tree.add(value=float(parts["value"]))
    if (parts["word"], parts["relation"]) != ("If", "<=") or int(parts["feature"]) >= features:
        raise lines.unexpected()
    node = tree.add(feature=int(parts["feature"]), split=float(parts["split"]))
    tree.left[node] = _read_node(lines, tree, features, indent + 1)
    other = _take_node(lines, indent)
    if (other["word"], other["relation"]) != ("Else", ">") or any(
        other[part] != parts[part] for part in ("feature", "split")
    ):
        raise lines.unexpected()
    tree.right[node] = _read_node(lines, tree, features, indent + 1)
    return node


def _take_node(lines: _Lines, indent: int) -> dict[str, Any]:
    parts = lines.take(_NODE)
    if len(parts["indent"]) != indent:
        raise lines.unexpected()
    return parts


def _nodes(trees: Sequence[Tree]) -> int:
    return sum(len(tree.feature) for tree in trees)


def _unreadable(reason: str, problems: Sequence[str]) -> UnexportableModelError:
    return UnexportableModelError(
        f"The model cannot be exported: {reason}.",
        problems,
        next_step="train with models.fit_churn_model under the pyspark version of constraints.txt",
    )
