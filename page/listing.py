"""Python source as HTML: a line is a div, a comment or a keyword a span, a long line wraps well."""

import io
import keyword
import tokenize
from difflib import SequenceMatcher
from html import escape
from tokenize import TokenInfo

OPERATORS = {"+", "-", "*", "/", "**", "==", "!=", "<", ">", "<=", ">=", "&", "|", "="}
SETS = {"kill_set": "kill", "pass_set": "pass"}


def css_class(token: TokenInfo) -> str:
    """The class of a token's span, "" for none."""
    if token.type == tokenize.COMMENT:
        return "comment"
    if token.type == tokenize.STRING:
        return "string"
    if token.type == tokenize.NAME and keyword.iskeyword(token.string):
        return "keyword"
    return SETS.get(token.string, "")


def tokens(source: str) -> list[TokenInfo]:
    """The tokens that one sees; an f-string is one, as it is for Python 3.11, not many."""
    found = []
    opened = []  # the first tokens of the f-strings that we are in
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "FSTRING_START":
            opened.append(token)
        elif kind == "FSTRING_END":
            token = token._replace(type=tokenize.STRING, start=opened.pop().start)
        if not opened and token.string.strip():
            found.append(token)
    return found


def span(text: str, name: str) -> str:
    """The text, escaped, in a span of that class if there is one."""
    if not text or not name:
        return escape(text)
    return f'<span class="{name}">{escape(text)}</span>'


def pieces(source: str) -> list[list[tuple[str, str]]]:
    """Every line of the source as (text, class) of its tokens, whitespace between them included."""
    lines = source.splitlines()
    found = [[] for _ in lines]
    ends = [0 for _ in lines]

    def add(row: int, start: int, end: int, name: str) -> None:
        """The part of a token that lies in a row, after the blanks before it."""
        before = lines[row][ends[row] : start]
        if before:
            found[row].append((before, ""))
        if end > start:
            found[row].append((lines[row][start:end], name))
        ends[row] = end

    for token in tokens(source):
        first, last = token.start[0] - 1, token.end[0] - 1
        for row in range(first, last + 1):
            start = token.start[1] if row == first else 0
            end = token.end[1] if row == last else len(lines[row])
            add(row, start, end, css_class(token))
    return found


def blank(text: str, next_class: str) -> str:
    """A blank; what `align` added to it is a span, which narrow screens hide."""
    if len(text) == 1 or next_class == "comment":
        return text
    return f'{text[0]}<span class="pad">{text[1:]}</span>'


def keep_operators(parts: list[tuple[str, str]]) -> str:
    """A line's HTML, in which an operator stays with what follows, so that it wraps before it."""
    html = ""
    is_open = False
    for i, (text, name) in enumerate(parts):
        is_blank = text.isspace()
        before_operator = is_blank and i + 1 < len(parts) and parts[i + 1][0] in OPERATORS
        after_operator = is_blank and i > 0 and parts[i - 1][0] in OPERATORS
        if is_open and is_blank and not after_operator:
            html += "</span>"
            is_open = False
        html += blank(text, parts[i + 1][1]) if is_blank else span(text, name)
        if before_operator and not is_open:
            html += '<span class="keep">'
            is_open = True
    return html + "</span>" * is_open


def code_lines(source: str) -> list[str]:
    """Every line of the source as a div; --indent tells how far its continuation is indented."""
    divs = []
    for parts in pieces(source):
        indent = ""
        if parts and parts[0][0].isspace():
            indent = parts[0][0]
            parts = parts[1:]
        lead = f'<span class="indent">{indent}</span>' if indent else ""
        body = lead + keep_operators(parts) or "\n"
        divs.append(f'<div class="line" style="--indent:{len(indent)}">{body}</div>')
    return divs


def common(a: list[str], b: list[str]) -> list[str]:
    """The tokens that two lines share, in order."""
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return [token for block in blocks for token in a[block.a : block.a + block.size]]


def align(lines: list[str]) -> list[str]:
    """The lines, with blanks before the tokens that all share, so that these stand in columns."""
    rows = [[text for text, _ in pieces(line)[0]] for line in lines]
    anchors = [text for text in rows[0] if not text.isspace()]
    for row in rows[1:]:
        anchors = common(anchors, [text for text in row if not text.isspace()])
    done = ["" for _ in rows]
    rest = [list(row) for row in rows]
    for anchor in anchors:
        for i, row in enumerate(rest):
            place = row.index(anchor)
            done[i] += "".join(row[:place])
            rest[i] = row[place:]
        column = max(len(text) for text in done)
        for i, row in enumerate(rest):
            done[i] = done[i].ljust(column) + row.pop(0)
    return [text + "".join(row) for text, row in zip(done, rest, strict=True)]
