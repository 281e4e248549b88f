"""How offline/demo reads a task: clauses, and the rules that make a step of one."""

import re
from collections.abc import Callable
from dataclasses import dataclass

VERBS = {
    "list": "list DIR",
    "read": "read FILE",
    "search": "find TEXT in DIR",
    "glob": "find *.EXT in DIR",
    "write": "write TEXT to FILE",
    "run": "run COMMAND",
    "summarise": "summarise FILE",
}
_VERB_WORDS = (
    r"list|ls|read|show|cat|print|open|display|find|search|grep|look|write|save|put|append|"
    r"summari[sz]e|sum up|review|run|exec|execute"
)
_CLAUSE = re.compile(
    r"\s*(?:[;\n]|\.(?=\s|$)|,?\s*\b(?:and then|then|afterwards)\b"
    rf"|(?:,|\band\b)(?=\s*(?:please\s+)?(?:{_VERB_WORDS})\b))\s*",
    re.IGNORECASE,
)
_BACK = re.compile(
    r"^(?:it|them|that|those|these|each|all"
    r"|the (?:first |best )?(?:files?|match|matches|results?|hits?)(?: found| of them)?"
    r"|each (?:of them|file|match)|what (?:you|was) f(?:ind|ound))$",
    re.IGNORECASE,
)
_NOISE = re.compile(
    r"^(?:(?:the|a|an|all|every|me|us|please|for|of|in|contents?|files?|text|word|words|lines?|"
    r"director(?:y|ies)|folder|occurrences?|with|containing|mentioning)\s+)+",
    re.IGNORECASE,
)
_TAIL_NOISE = re.compile(r"\s+(?:director(?:y|ies)|folder|files?|please|for me)$", re.IGNORECASE)
_FILE = re.compile(r"[\w.]/|/\w|\w\.\w")
_QUOTED = re.compile(r"""^(["'`])(.*)\1$""", re.DOTALL)
TASK_CHARS = 4000
"""What is read of a task. The rules try each word against the rest, in the one loop."""
_LONG_RUN = re.compile(r"\s{9,}")
"""White space that is no indentation; the rules take the cube of the length of a run."""


@dataclass(frozen=True)
class Step:
    """One step: a verb of VERBS and what it is about.

    Attributes:
        targets: paths, or none where the tool's default will do.
        text: what is searched for, written or run.
        refers_back: `it` or `them`: the targets are the paths of the step before.
        summarise: the result is shown as a summary.
        most: how many of the paths of the step before.
    """

    verb: str
    targets: tuple[str, ...] = ()
    text: str = ""
    refers_back: bool = False
    summarise: bool = False
    most: int = 5

    def said(self) -> str:
        """What is said beside the call."""
        about = ", ".join(self.targets) or ("what was found" if self.refers_back else ".")
        if self.verb in ("search", "glob"):
            return f"I look for {self.text!r} in {about}."
        if self.verb == "run":
            return f"I run {self.text!r}."
        if self.verb == "collect":
            return "I wait for my workers."
        return f"I {self.verb} {about}."

    def heading(self, number: int) -> str:
        """The line above the result of call `number`."""
        where = self.targets[number] if number < len(self.targets) else "what was found"
        if self.verb in ("search", "glob"):
            return f"{self.text!r} in {where if self.targets else '.'}:"
        if self.verb == "run":
            return f"$ {self.text}"
        if self.verb == "collect":
            return "what my workers found:"
        return f"{'summary of' if self.summarise else self.verb} {where}:"


def plan_of(task: str) -> list[Step]:
    """The steps of all clauses that a rule knows, in order, in the first TASK_CHARS of a task."""
    steps = []
    for clause in _clauses(_LONG_RUN.sub(_one_space, task[:TASK_CHARS])):
        for pattern, make in _RULES:
            match = pattern.match(clause)
            step = make(match) if match else None
            if step is not None:
                steps.append(step)
                break
    return steps


def _one_space(run: re.Match[str]) -> str:
    return "\n" if "\n" in run.group() else " "


def _clauses(task: str) -> list[str]:
    """The task cut at `then`, `;`, full stops, lines and before verbs; never inside quotes."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match.group())
        return f"\x00{len(kept) - 1}\x00"

    hidden = re.sub(r"\"[^\"]*\"|`[^`]*`|(?<!\w)'[^']*'(?!\w)", keep, task)
    clauses = [
        re.sub(r"\x00(\d+)\x00", lambda m: kept[int(m[1])], c) for c in _CLAUSE.split(hidden)
    ]
    return [
        re.sub(r"^(?:please|first|and|now|can you|could you)\s+", "", c, flags=re.I)
        for c in clauses
        if c
    ]


def _clean(text: str) -> str:
    """A name or a text without quotes and the words around it."""
    text = text.strip().rstrip(",?!")
    quoted = _QUOTED.match(text)
    if quoted:
        return quoted[2]
    text = _TAIL_NOISE.sub("", _NOISE.sub("", text))
    quoted = _QUOTED.match(text)
    return quoted[2] if quoted else text.rstrip(":")


def _paths(text: str) -> tuple[str, ...]:
    """`a, b and c` as three paths."""
    parts = re.split(r"\s*,\s*|\s+and\s+", text)
    return tuple(path for path in (_clean(part) for part in parts) if path)


def _list(match: re.Match[str]) -> Step:
    target = _clean(match["rest"] or "")
    return Step("list", (target,) if _is_path(target) else ())


def _is_path(text: str) -> bool:
    return bool(text) and " " not in text and not _BACK.match(text)


def _read(match: re.Match[str]) -> Step | None:
    return _on_files(match["rest"], summarise=False)


def _summarise(match: re.Match[str]) -> Step | None:
    return _on_files(match["rest"], summarise=True)


def _on_files(rest: str, *, summarise: bool) -> Step | None:
    if _BACK.match(rest.strip()):
        most = 1 if re.search(r"\b(first|best|it)\b", rest, re.I) else Step.most
        return Step("read", refers_back=True, summarise=summarise, most=most)
    quoted = tuple(re.findall(r"(?<!\w)[\"`']([^\"`']+)[\"`'](?!\w)", rest))
    plain = tuple(path for path in _paths(rest) if _is_path(path))
    paths = quoted or plain or tuple(_clean(word) for word in rest.split() if _FILE.search(word))
    return Step("read", paths, summarise=summarise) if paths else None


def _search(match: re.Match[str]) -> Step | None:
    text = _clean(match["text"])
    where = _clean(match["where"] or "")
    targets = (where,) if _is_path(where) else ()
    if not text:
        return None
    looks_like_files = " " not in text and any(c in text for c in "*?[") and ".*" not in text
    return Step("glob" if looks_like_files else "search", targets, text)


def _write(match: re.Match[str]) -> Step | None:
    text, path = match["text"].strip(), _clean(match["where"])
    quoted = _QUOTED.match(text)
    return Step("write", (path,), quoted[2] if quoted else text) if _is_path(path) else None


def _run(match: re.Match[str]) -> Step | None:
    command = _clean(match["rest"])
    return Step("run", (), command) if command else None


_Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], Step | None]]
_FLAGS = re.IGNORECASE | re.DOTALL
_RULES: tuple[_Rule, ...] = (
    (re.compile(r"(?:summari[sz]e|sum up|review)\s+(?P<rest>.+)", _FLAGS), _summarise),
    (re.compile(r"(?:list|ls)(?:\s+(?P<rest>.+))?$", _FLAGS), _list),
    (
        re.compile(
            r"(?:find|search|grep|look)\s+(?:for\s+)?(?P<text>.+?)"
            r"(?:\s+(?:in|under|below|within|inside)\s+(?P<where>\S+(?:\s+(?:directory|folder))?))?\s*$",
            _FLAGS,
        ),
        _search,
    ),
    (
        re.compile(
            r"(?:write|save|put)\s+(?P<text>.+)\s+(?:to|into|in|as)\s+(?P<where>.+)$", _FLAGS
        ),
        _write,
    ),
    (re.compile(r"(?:run|exec|execute)\s+(?P<rest>.+)$", _FLAGS), _run),
    (re.compile(r"(?:read|show|cat|print|open|display)\s+(?P<rest>.+)$", _FLAGS), _read),
)
