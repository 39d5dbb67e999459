"""scripts/kills kills where it says it does: what it names is there. The kills themselves take an hour."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "kills"


def test_every_point_names_a_function_there_is_and_there_are_enough_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = spec_from_loader("kills", SourceFileLoader("kills", str(SCRIPT)))
    assert spec is not None
    assert spec.loader is not None
    kills = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "kills", kills)
    spec.loader.exec_module(kills)
    for point in kills.POINTS:
        if point.place != kills.MOVE:
            owner, name = kills._found(point.place)
            assert callable(getattr(owner, name)), point
        assert point.job in kills.COMMANDS
        assert point.when in ("before", "after")
    assert len({(point.job, point.name) for point in kills.POINTS}) == len(kills.POINTS) >= 23
