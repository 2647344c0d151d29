"""Arrows between packages point one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {  # package -> those of ours that it may import, beside itself
    "core": set(),
    "procedural_data": {"core"},
    "procedural_pretraining": {"core", "procedural_data"},
    "prng": {"core"},
    "downstream": {"core"},
    "synthetic_tasks": {"core"},
}


def imports(path: Path) -> set[str]:
    """First words of everything a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_package_imports_one_that_stands_on_it(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        wrong = imports(path) & (MAY_IMPORT.keys() | {"tests", "benchmarks"}) - MAY_IMPORT[package] - {package}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"
