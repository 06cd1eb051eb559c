"""How the code stands in numbers that a reviewer would count; `python -m tests.counts` prints them.

    Any          uses of the name in annotations and casts, imports left out
    parameters   functions with seven or more, kernels and generated signatures left out
    circles      import circles between modules, type-only imports included
    details      reads of what is for people only, outside the rooms that show
    flags        lines beside its declaration that spell an option's name, per option
    comments     share of lines

The bounds are held by tests/test_counts.py.
"""

from __future__ import annotations

import ast
import io
import tokenize
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("core", "db", "profilers", "calibrate", "card", "split", "reports", "workflows", "cli")
# Loops for numba: their parameters are arrays in NamedTuples, or are what the machine code is made of.
KERNELS = ("kernels.py", "hull_kernels.py", "device_kernels.py")


@cache
def modules(rooms: tuple[str, ...] = ROOMS) -> list[tuple[Path, ast.Module]]:
    """Every module of the product, parsed."""
    paths = [ROOT / "__init__.py", *(p for room in rooms for p in sorted((ROOT / room).rglob("*.py")))]
    return [(path, ast.parse(path.read_text("utf-8"))) for path in paths]


def any_names() -> int:
    """Uses of `Any`."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for _, tree in modules() for node in ast.walk(tree))


def long_signatures(most: int = 6) -> list[str]:
    """Functions of more than `most` parameters, self left out."""
    found = []
    for path, tree in modules():
        if path.name in KERNELS or "migrations" in path.parts:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                a = node.args
                names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs) if x.arg not in ("self", "cls")]
                if len(names) > most:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {len(names)}")
    return found


def _imports(path: Path, tree: ast.Module) -> set[str]:
    """Modules of ours that a module imports when it is loaded or for its types; not those inside functions."""
    found = set()
    stack: list[ast.stmt] = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If | ast.Try):
            stack += [*node.body, *node.orelse]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cardlab"):
            for name in node.names:
                found |= {node.module, f"{node.module}.{name.name}"}
    return found


def circles() -> list[tuple[str, ...]]:
    """Import circles between modules, each once."""
    names = {}
    for path, tree in modules():
        dotted = ".".join(("cardlab", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        names[dotted] = _imports(path, tree)
    # The root's names are loaded when they are used; that is no circle.
    graph = {name: {i for i in found if i in names and i not in (name, "cardlab")} for name, found in names.items()}
    graph.pop("cardlab", None)
    return _components(graph)


def _components(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Strongly connected components of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[tuple[str, ...]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in graph:
                continue
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = []
            while True:
                group.append(stack.pop())
                if group[-1] == name:
                    break
            if len(group) > 1:
                found.append(tuple(sorted(group)))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def option_lines() -> float:
    """Lines of the command line's code that declare or hand on an option, per declared option.

    Counted are keyword arguments `name=name` and parameters named as an option; its one declaration is left out.
    """
    declared: set[str] = set()
    for path, tree in modules(("workflows",)):
        if "options" in path.parts:
            declared |= {
                node.target.id
                for node in ast.walk(tree)
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            }
    spelled = 0
    for _, tree in modules(("cli",)):
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg in declared and isinstance(node.value, ast.Name):
                spelled += node.arg == node.value.id
            if isinstance(node, ast.arg) and node.arg in declared:
                spelled += 1
    return 1.0 + spelled / max(1, len(declared))


def comment_share() -> float:
    """Comment lines over all lines."""
    comments = lines = 0
    for path, _ in modules():
        text = path.read_text("utf-8")
        lines += text.count("\n")
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments += sum(t.type == tokenize.COMMENT and t.line.strip().startswith("#") for t in tokens)
    return comments / lines


def main() -> None:
    """Print every count."""
    long = long_signatures()
    print(f"Any names: {any_names()}")
    print(f"functions of seven and more parameters: {len(long)}")
    for line in long:
        print(f"  {line}")
    print(f"import circles: {len(circles())}")
    for circle in circles():
        print(f"  {' <-> '.join(circle)}")
    print(f"lines that spell an option's name, per option: {option_lines():.2f}")
    print(f"comment lines: {comment_share():.1%}")


if __name__ == "__main__":
    main()
