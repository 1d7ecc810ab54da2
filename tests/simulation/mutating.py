"""Small faults for one module, made in its syntax tree: what `mutation.py` plants, one at a time.

Conditions, operators, numbers, flags, the enum members that the protocol is made of, rules of a table, keywords of `_replace`,
whole cases and statements. Not touched, because no rule of the protocol is in them: annotations, docstrings, imports, `__all__`,
assertions, decorators, and texts for people (messages of refusals, findings and errors).
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from saga_choreo.core.rows import Duty
from saga_choreo.model.choreography import Join, Split, Undo
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.states import Cancel, Cause, Outcome, Parked, SagaState, State, StepState

__all__ = ["Mutant", "mutants_of", "planted"]

ENUMS: dict[str, Any] = {e.__name__: e for e in (State, Parked, Outcome, Cause, Cancel, SagaState, StepState)}
ENUMS |= {e.__name__: e for e in (Duty, Join, Split, Undo, MessageKind)} | {"S": State}
COMPARED: dict[type, type] = {
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
}  # fmt: skip
COMPUTED: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
# What they are called with is said to people.
TELLING = frozenset({"Refusal", "Finding", "DefinitionError", "assert_never", "_cannot", "lru_cache"})
# Leaving out a keyword of these means something; elsewhere it is an error that any call finds.
CHANGING = frozenset({"_replace", "Message", "Note", "Parking", "Row"})


@dataclass(frozen=True)
class Mutant:
    """`name` says where and what, without a line number, so that it outlives edits elsewhere in the file. `node` and `choice`
    are the place in the tree and which of its changes."""

    name: str
    function: str
    node: int
    choice: int


Change = tuple[str, Callable[[], None]]


def mutants_of(source: str, module: str) -> Iterator[Mutant]:
    seen: dict[str, int] = {}
    for number, (node, function) in enumerate(_places(ast.parse(source), "")):
        for choice, (what, _) in enumerate(_changes(node)):
            name = f"{module}.{function or '(module)'}: {what}"
            seen[name] = seen.get(name, 0) + 1
            yield Mutant(name + (f" #{seen[name]}" if seen[name] > 1 else ""), function, number, choice)


def planted(source: str, mutant: Mutant) -> ast.Module:
    """The tree of the module with this one fault in it."""
    tree = ast.parse(source)
    node, _ = next(islice(_places(tree, ""), mutant.node, None))
    _, change = next(islice(_changes(node), mutant.choice, None))
    change()
    return ast.fix_missing_locations(tree)


def _places(node: ast.AST, function: str) -> Iterator[tuple[Any, str]]:
    """Every node that may be changed, in a fixed order, with the function it is in."""
    for child in _children(node):
        inside = f"{function}.{child.name}".lstrip(".") if isinstance(child, ast.FunctionDef | ast.ClassDef) else function
        if hasattr(child, "lineno"):
            yield child, inside
        yield from _places(child, inside)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.FunctionDef():
            yield node.args
            yield from node.body
        case ast.ClassDef():
            yield from node.body
        case ast.arguments():
            yield from (default for default in (*node.defaults, *node.kw_defaults) if default is not None)
        case ast.AnnAssign():
            yield from [node.value] if node.value is not None else []
        case ast.Assert() | ast.Import() | ast.ImportFrom() | ast.JoinedStr() | ast.Expr(value=ast.Constant()):
            return
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return
        case ast.Call(func=ast.Name(id=name)) if name in TELLING:
            return
        case _:
            yield from ast.iter_child_nodes(node)


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())[:100]


def _set(node: Any, field: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(node, field, value)


def _become(node: Any, other: ast.AST) -> Callable[[], None]:
    """Turn the node into another one in its place."""

    def change() -> None:
        place = {key: getattr(node, key) for key in ("lineno", "col_offset")}
        node.__class__ = other.__class__
        vars(node).clear()
        vars(node).update(place | vars(copy.deepcopy(other)) | place)

    return change


def _without(parent: Any, field: str, index: int) -> Callable[[], None]:
    return lambda: getattr(parent, field).__delitem__(index)


def _changes(node: Any) -> Iterator[Change]:
    """Everything that may be done to this one node."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARED:
            yield f"{_text(node)} -> {COMPARED[type(op)].__name__}", _set(node, "ops", [COMPARED[type(op)]()])
        case ast.BoolOp(op=op, values=values):
            other = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield f"{_text(node)} -> {type(other).__name__}", _set(node, "op", other)
            for at, value in enumerate(values):
                yield f"{_text(node)} -> without {_text(value)}", _fewer(node, at)
        case ast.UnaryOp(op=ast.Not() | ast.Invert()):
            yield f"{_text(node)} -> {_text(node.operand)}", _become(node, node.operand)
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in COMPUTED:
            yield f"{_text(node)} -> {COMPUTED[type(op)].__name__}", _set(node, "op", COMPUTED[type(op)]())
            if isinstance(node, ast.AugAssign):
                yield f"{_text(node)} -> left out", _become(node, ast.Pass())
        case ast.If() | ast.IfExp():
            for value in (True, False):
                yield f"if {_text(node.test)} -> {value}", _set(node, "test", ast.Constant(value))
        case ast.Constant(value=bool(value)):
            yield f"{value} -> {not value}", _set(node, "value", not value)
        case ast.Constant(value=int(number)):
            yield f"{number} -> {number + 1}", _set(node, "value", number + 1)
        case ast.Attribute(value=ast.Name(id=owner), attr=attr) if owner in ENUMS and attr in ENUMS[owner].__members__:
            members = list(ENUMS[owner].__members__)
            following = members[(members.index(attr) + 1) % len(members)]
            yield f"{owner}.{attr} -> {following}", _set(node, "attr", following)
        case _:
            yield from _left_out(node)


def _fewer(node: ast.BoolOp, at: int) -> Callable[[], None]:
    rest = [value for number, value in enumerate(node.values) if number != at]
    return _become(node, rest[0]) if len(rest) == 1 else _set(node, "values", rest)


def _left_out(node: Any) -> Iterator[Change]:
    match node:
        case ast.Expr(value=ast.Call(func=ast.Name(id=name))) if name in TELLING:
            return
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()):
            yield f"{_text(node)} -> left out", _become(node, ast.Expr(ast.Constant(None)))
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in CHANGING:
            for at, keyword in enumerate(node.keywords):
                yield f"{_text(node)} -> without {keyword.arg}", _without(node, "keywords", at)
        case ast.Match() if len(node.cases) > 1:
            for at, case in enumerate(node.cases):
                if _is_nothing(case):
                    continue
                yield f"match {_text(node.subject)} -> without case {_text(case.pattern)}", _without(node, "cases", at)
        case ast.MatchOr(patterns=patterns):
            for pattern in patterns:
                rest = [other for other in patterns if other is not pattern]
                change = _become(node, rest[0]) if len(rest) == 1 else _set(node, "patterns", rest)
                yield f"case {_text(node)} -> without {_text(pattern)}", change
        case ast.Dict(keys=keys):
            for at, key in enumerate(keys):
                if key is not None:
                    yield f"without the entry {_text(key)}", lambda at=at: (node.keys.pop(at), node.values.pop(at))
        case ast.Set(elts=elts) | ast.Tuple(elts=elts, ctx=ast.Load()) if len(elts) > 1 and not _is_type(node):
            for at, one in enumerate(elts):
                yield f"{_text(node)} -> without {_text(one)}", _without(node, "elts", at)
        case _:
            return


def _is_nothing(case: ast.match_case) -> bool:
    """A last case that is there for the type checker: it does what happens without it."""
    return _text(case.pattern) == "_" and _text(case.body[0]) in ("pass", "return None", "assert_never(message.kind)")


def _is_type(node: ast.AST) -> bool:
    """`dict[a, b]` in an expression, and the like."""
    return all(isinstance(one, ast.Name | ast.Subscript) and _text(one)[0].islower() for one in getattr(node, "elts", []))
