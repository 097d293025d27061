"""The line scanner against `tomllib` and against documents whose lines are known."""

from __future__ import annotations

import random
import tomllib

import pytest

from edged.toml_lines import key_lines
from edged.toml_text import MAX_LENGTH, MAX_LINE, TomlTextError, load

SCALARS = [
    "1",
    "0xf",
    "1_000",
    "+1.5e-3",
    "inf",
    "true",
    "1979-05-27T07:32:00Z",
    "1979-05-27 07:32:00.5",
    "07:32:00",
    '"a # ] } , = \\" \\\\"',
    "'c:\\[x]#'",
    '""',
    "''",
    '""""""',
    "''''''",
    '"""one"""',
    '"""two"quotes""at end"""""',
    "'''it''s'''''",
    '"""\n[not.a.table]\nk = 1 # \\""" \\\n\n"""',
    "'''\n[[x]]\n'k' = \"\n\\'''",
]


class Document:
    """A random TOML text, and the line of everything in it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.text = ""
        self.lines: dict[tuple[str | int, ...], int] = {}
        self.names = 0
        self.arrays: dict[tuple[str | int, ...], int] = {}
        for _ in range(self.random.randrange(4)):
            self.pair(())
        tables: list[tuple[str | int, ...]] = [()]
        for _ in range(self.random.randrange(6)):
            self.table(tables)

    def note(self, path: tuple[str | int, ...]) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def gap(self, *, lines: bool) -> None:
        self.text += self.random.choice(["", "", " ", "\t "])
        while lines and self.random.random() < 0.3:
            self.text += self.random.choice(["\n", " # ] } \" ''' [x]\n", "\n\n  "])

    def key(self, base: tuple[str | int, ...], parts: int) -> tuple[str | int, ...]:
        for number in range(parts):
            self.names += 1
            plain = self.random.choice(["k-{}", "{}", "a b{}", "a.b{}", 'q"{}', "é{}", "#[{}]="])
            name = plain.format(self.names)
            if name.replace("-", "").isascii() and name.replace("-", "").isalnum():
                shown = name
            else:
                shown = (
                    f"'{name}'"
                    if self.random.random() < 0.5
                    else '"' + name.replace('"', '\\"').replace("é", "\\u00e9") + '"'
                )
            base = (*base, name)
            self.note(base)
            if number:
                self.text += self.random.choice([".", " . ", "\t."])
            self.text += shown
        return base

    def pair(self, base: tuple[str | int, ...]) -> None:
        self.gap(lines=True)
        path = self.key(base, self.random.choice([1, 1, 2, 3]))
        self.text += self.random.choice(["=", " = ", "\t="])
        self.value(path, 0)
        self.text += self.random.choice(["\n", " # end = [1\n", "\n\n"])

    def value(self, path: tuple[str | int, ...], depth: int) -> None:
        kind = self.random.random()
        if kind < 0.5 or depth > 3:
            self.text += self.random.choice(SCALARS)
        elif kind < 0.8:
            self.text += "["
            count = self.random.randrange(4)
            for index in range(count):
                self.gap(lines=True)
                self.note((*path, index))
                self.value((*path, index), depth + 1)
                self.gap(lines=True)
                if index < count - 1 or self.random.random() < 0.3:
                    self.text += ","
            self.gap(lines=True)
            self.text += "]"
        else:
            self.text += "{"
            for number in range(self.random.randrange(4)):
                self.text += ", " if number else ""
                self.gap(lines=False)
                inner = self.key(path, self.random.choice([1, 2]))
                self.text += " = "
                self.value(inner, depth + 1)
                self.gap(lines=False)
            self.text += "}"

    def table(self, tables: list[tuple[str | int, ...]]) -> None:
        self.gap(lines=True)
        again = [path for path in self.arrays if path[:-1] == ()]
        if again and self.random.random() < 0.4:  # one more of an [[array]] of the top
            path = self.random.choice(again)
            self.text += f'[["{path[0]}"]]'.replace('q"', 'q\\"')
            self.arrays[path] += 1
            path = (*path, self.arrays[path])
            self.note(path)
        else:
            many = self.random.random() < 0.5
            self.text += "[[" if many else "["
            path = self.key((), self.random.choice([1, 1, 2]))
            if many:
                self.arrays[path] = 0
                path = (*path, 0)
                self.note(path)
            self.text += "]]" if many else "]"
        self.text += self.random.choice(["\n", " # [no]\n"])
        for _ in range(self.random.randrange(3)):
            self.pair(path)
        tables.append(path)


def paths_in(value: object, base: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    found = {base} if base else set()
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        found |= paths_in(inner, (*base, key))
    return found


def test_random_documents_have_the_lines_they_were_written_on() -> None:
    sizes = []
    for seed in range(1500):
        document = Document(seed)
        data = tomllib.loads(document.text)  # the generator makes TOML
        lines = key_lines(document.text)
        assert set(lines) == paths_in(data), (seed, document.text)
        assert lines == document.lines, (seed, document.text)
        assert key_lines(document.text.replace("\n", "\r\n")) == lines, seed
        sizes.append(len(lines))
    assert max(sizes) > 50
    assert sum(sizes) > 10_000


def refusal(text: str) -> TomlTextError | None:
    try:
        load(text)
    except TomlTextError as error:
        return error
    return None


def test_broken_documents_end_in_plain_words() -> None:
    rng = random.Random(7)
    refused = 0
    noise = [*"[]{}\"'=.,#\n\\ \tx1", ""]
    for seed in range(1500):
        text = Document(seed).text
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(text) + 1)
            cut = rng.choice([0, 0, 1, 5, len(text)])
            text = text[:at] + rng.choice(noise) + text[at + cut :]
        key_lines(text)  # returns, whatever it is given
        error = refusal(text)
        if error is not None:
            refused += 1
            assert error.line is None or 1 <= error.line <= text.count("\n") + 1
            assert error.message
    assert refused > 500


def test_tables_below_the_last_of_an_array() -> None:
    text = "[[a]]\n[a.b]\nc = 1\n[[a]]\n[[a.d]]\n[[a.d]]\ne.f = 2\n[a.d.g]\n"
    assert key_lines(text) == {
        ("a",): 1,
        ("a", 0): 1,
        ("a", 0, "b"): 2,
        ("a", 0, "b", "c"): 3,
        ("a", 1): 4,
        ("a", 1, "d"): 5,
        ("a", 1, "d", 0): 5,
        ("a", 1, "d", 1): 6,
        ("a", 1, "d", 1, "e"): 7,
        ("a", 1, "d", 1, "e", "f"): 7,
        ("a", 1, "d", 1, "g"): 8,
    }


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a = 1\n\na = 2\n", 3, "first on line 1"),
        ("[a]\nb = 1\n[c]\n[a]\n", 4, "first on line 1"),
        ("[[a]]\n[a]\n", 2, "first on line 1"),
        ("a = 1\n[a]\n", 2, "first on line 1"),
        ("x = 1\na = { b = 1, b = 2 }\n", 2, "twice"),
        ("\nhost = 127.0.0.1\n", 2, "double quotes"),
        ("host = broker\n", 1, 'double quotes ("..."); it is true, not True (column 8)'),
        ("a = True\n", 1, "true, not True"),
        ('a = "x\nb = 1\n', 1, "no closing quote on its line"),
        ("a = 'x\nb = '1'\n", 1, "no closing quote on its line"),
        ("a = 'x", 1, "no closing quote"),
        ('\na = """x\n\n', 2, "no closing quotes"),
        ("a = [1,\n2\n\n", 2, "no closing ]"),
        ("a = {b = 1\n", 1, "no closing }"),
        ('a = "\\q"\n', 1, "backslash"),
        ("[a\n", 1, "must end with ]"),
        ("[[a]\n", 1, "must end with ]]"),
        ("a\n", 1, "key = value"),
        ("= 1\n", 1, "key = value"),
        ("a = 1 b = 2\n", 1, "one key on each line"),
        ("[a]\nb.c = 1\n[a.b]\n", 3, "already"),
        ("a = [1]\n[[a]]\n", 2, "complete already"),
        ("\ufeffa = 1\n", 1, "byte order mark"),
        ("a = 1\nb = '\0'\n", 2, "zero byte"),
        ("a = 1\r\nb = '\udcff'\r\n", 2, "not UTF-8"),
        ("a = 1\n#" + "x" * MAX_LINE, 2, "longer than 2000 characters"),
        ("#\n" * MAX_LENGTH, None, "the file is longer than"),
        ("a = " + "[" * 1900, None, "nested too deeply"),
        ("a = " + "[\n" * 10_000, None, "nested too deeply"),
        ("[" + "a." * 900 + "a]\nb = ]\n", 2, "not a value"),
    ],
)
def test_what_is_no_toml_is_explained(text: str, line: int | None, words: str) -> None:
    with pytest.raises(TomlTextError) as caught:
        load(text)
    assert caught.value.line == line
    assert words in caught.value.message


def test_a_secret_is_not_repeated_by_a_syntax_error() -> None:
    for text in ("password = hunter2", 'password = "hunter2', "p = 'x' hunter2", 'p = "\\hunter2"'):
        with pytest.raises(TomlTextError) as caught:
            load(text)
        assert "hunter2" not in str(caught.value)
