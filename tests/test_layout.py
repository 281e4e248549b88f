"""Rules of the house that import-linter and ruff cannot see. Each failure lists every offender."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("nexusfs", "mount")
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 500, 60
VAGUE_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "base",
    "manager",
    "managers",
    "misc",
}
DOORS_OF_THE_KERNEL = {"nexusfs.kernel.syscalls", "nexusfs.kernel.bound"}

# One place reads it for the kernel. The worker is a process of its own: litellm takes its switches
# from the environment alone.
ENVIRONMENT_READERS = {"nexusfs/boot/environment.py", "nexusfs/services/llm/worker.py"}


@cache
def sources(*tops: str) -> tuple[tuple[str, str, ast.Module], ...]:
    """(path from the root, text, syntax tree) of every module below the top directories."""
    found = []
    for path in sorted(p for top in tops for p in (ROOT / top).rglob("*.py")):
        text = path.read_text()
        found.append((str(path.relative_to(ROOT)), text, ast.parse(text)))
    return tuple(found)


def imported(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a module imports, `from a import b` being a.b."""
    package = Path(path).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def within(name: str, allowed: set[str]) -> bool:
    """True when a dotted name is one of the allowed modules or something in one."""
    return any(name == module or name.startswith(module + ".") for module in allowed)


def test_import_contracts_of_pyproject_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", ["nexusfs/services", "nexusfs/adapters", "mount"])
def test_outer_packages_enter_the_kernel_by_its_doors_only(package: str) -> None:
    offenders = [
        f"{path}:{line} {name}"
        for path, _, tree in sources(package)
        for line, name in imported(path, tree)
        if within(name, {"nexusfs.kernel"}) and not within(name, DOORS_OF_THE_KERNEL)
    ]

    assert offenders == []


@pytest.mark.parametrize("package", ["nexusfs/adapters", "mount"])
def test_front_ends_reach_filesystems_drivers_and_services_through_boot(package: str) -> None:
    inner = {"nexusfs.fs", "nexusfs.drivers", "nexusfs.services"}
    offenders = [
        f"{path}:{line} {name}"
        for path, _, tree in sources(package)
        for line, name in imported(path, tree)
        if within(name, inner)
    ]

    assert offenders == []


def test_only_the_configuration_reads_the_environment() -> None:
    names = {"environ", "environb", "getenv", "putenv"}
    offenders = [
        f"{path}:{node.lineno}"
        for path, _, tree in sources(*PRODUCT)
        if path not in ENVIRONMENT_READERS
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in names
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]

    assert offenders == []


def test_no_module_is_longer_than_its_limit() -> None:
    offenders = [
        f"{path}: {len(text.splitlines())} lines"
        for path, text, _ in sources(*PRODUCT, "tests")
        if len(text.splitlines()) > MAX_MODULE_LINES
    ]

    assert offenders == []


def test_no_function_is_longer_than_its_limit() -> None:
    offenders = [
        f"{path}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path, _, tree in sources(*PRODUCT, "tests")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]

    assert offenders == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    parts = {
        path: {*Path(path).parent.parts, *Path(path).stem.split("_")}
        for path, _, _ in sources(*PRODUCT, "tests")
    }

    assert [path for path, words in parts.items() if words & VAGUE_NAMES] == []


def test_only_the_command_line_prints() -> None:
    offenders = [
        f"{path}:{node.lineno}"
        for path, _, tree in sources(*PRODUCT)
        if not re.match(r"nexusfs/adapters/cli/|mount/cli\.py", path)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]

    assert offenders == []


def test_every_type_ignore_and_noqa_has_a_code_and_a_reason() -> None:
    bare = re.compile(r"#\s*(type:\s*ignore|noqa)(?!\S*[\[:]\s*[A-Za-z][\w, -]*\]?\s+\S)")
    offenders = [
        f"{path}:{number}"
        for path, text, _ in sources(*PRODUCT)
        for number, line in enumerate(text.splitlines(), 1)
        if bare.search(line)
    ]

    assert offenders == []


def test_the_lock_names_no_address_and_has_a_hash_for_everything() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^[a-z].*", lock, re.M)

    assert "://" not in lock
    assert pins and all(pin.endswith("\\") for pin in pins)
