r"""Tables in LaTeX, to be pasted into a paper. They need the package booktabs and nothing else, also under pdflatex.

The font is the largest of a few in which the table is no wider than a line of ``article``, by an estimate from the
widths of Computer Modern's letters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from compbench.report.formats.table import ABSENT, Table, folded, header_lines
from compbench.report.formats.text import visible

LINE = 345.0
r"""Points of ``\textwidth`` in ``article`` at 10 pt, in one column."""

_FONTS = (("", 1.0, 6.0), (r"\small", 0.925, 4.0), (r"\footnotesize", 0.85, 3.0), (r"\scriptsize", 0.797, 2.5))
r"""Sizes, how wide their letters are beside those of 10 pt, and ``\tabcolsep`` in points."""

_LONGEST_LINE = 40
"""Letters of words beyond which a column is broken into lines."""

_NARROWEST_PARAGRAPH = 45.0

_LETTERS = {
    letter: width
    for letters, width in (
        ("!',.:;[]il", 2.8),
        ("fj -I_", 3.4),
        ("()trs", 3.9),
        ("cez", 4.4),
        ("kqvxyJ", 5.3),
        ("bdhnpuSZ", 5.6),
        ("LFEP", 6.6),
        ("BCTwRAHNUVXYDKOQG", 7.4),
        ("&+=<>@±≥≤→\N{MULTIPLICATION SIGN}", 7.8),
        ("m#%", 8.3),
        ("MW", 9.8),
    )
    for letter in letters
}
"""Points of a letter of Computer Modern at 10 pt; of all others, as of figures, :data:`_ORDINARY_LETTER`."""

_ORDINARY_LETTER = 5.0
_BOLD = 1.15

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\`{}",
    # What a command before it would take for its option or its star:
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "÷": r"$\div$",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≠": r"$\neq$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "∞": r"$\infty$",
    "\N{MINUS SIGN}": "$-$",
    "√": r"$\surd$",
    "∈": r"$\in$",
    "∂": r"$\partial$",
    "∑": r"$\sum$",
    "∏": r"$\prod$",
    "∇": r"$\nabla$",
    "°": r"$^{\circ}$",
    "²": "$^{2}$",
    "³": "$^{3}$",
    "µ": r"$\mu$",
    "…": r"\ldots{}",
    "\N{EN DASH}": "--{}",
    "\N{EM DASH}": "---{}",
    "\N{LEFT SINGLE QUOTATION MARK}": "`{}",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'{}",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``{}",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''{}",
    "§": r"\S{}",
    "¶": r"\P{}",
    "©": r"\copyright{}",
    "£": r"\pounds{}",
    "€": "EUR",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
}
_LIGATURES = ("-", "'", ",")
"""Two of these would be set as another sign."""

_ACCENTS = {
    "\u0300": r"\`",
    "\u0301": r"\'",
    "\u0302": r"\^",
    "\u0303": r"\~",
    "\u0304": r"\=",
    "\u0306": r"\u",
    "\u0307": r"\.",
    "\u0308": r"\"",
    "\u030a": r"\r",
    "\u030b": r"\H",
    "\u030c": r"\v",
    "\u0327": r"\c",
}
_GREEK = {
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu"),
    *("xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "varsigma"),
    *("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"),
}
_OTHER_GREEK = {"final sigma": "varsigma", "lamda": "lambda", "Lamda": "Lambda"}
_LATIN = dict(
    zip(
        ("Alpha", "Beta", "Epsilon", "Zeta", "Eta", "Iota", "Kappa", "Mu", "Nu", "Omicron", "Rho", "Tau", "Chi"),
        "ABEZHIKMNOPTX",
        strict=True,
    ),
    omicron="o",
)
"""Greek letters that TeX has no name for, since they look like these."""

_MINUS = re.compile(r"(?<![\w.)])-(?=\.?\d)")


def as_latex(table: Table) -> str:
    """A ``tabular`` with booktabs' rules; what stands under the table is in comments, for a caption to be made of."""
    shown = folded(table)
    headers = [
        header_lines(header, max((len(row[place]) for row in shown.cells), default=0)) or [""]
        for place, header in enumerate(shown.headers)
    ]
    widths = [_width(shown, headers[place], place) for place in range(len(headers))]
    font, scale, gap = next((f for f in _FONTS if _total(widths, f[1], f[2]) <= LINE), _FONTS[-1])
    paragraphs = _paragraphs(shown, widths, scale, gap)
    points = _total([paragraphs.get(place, width * scale) for place, width in enumerate(widths)], 1.0, gap)
    columns = "".join(
        f"p{{{paragraphs[place]:.0f}pt}}" if place in paragraphs else "l" if header in shown.words else "r"
        for place, header in enumerate(shown.headers)
    )
    lines = [r"% Needs \usepackage{booktabs}, and nothing else."]
    if shown.caption:
        lines.append(f"% {visible(shown.caption)}")
    if points > LINE:
        lines.append(
            rf"% About {points:.0f} pt wide, where a line of article has {LINE:.0f}: for fewer columns see --columns."
        )
    lines += [rf"\begingroup{font}\setlength{{\tabcolsep}}{{{gap:g}pt}}%", rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}"]
    lines += [r"\toprule", _row([_header(shown, place, parts) for place, parts in enumerate(headers)]), r"\midrule"]
    for number, texts in enumerate(shown.cells):
        if number in shown.sections:
            lines.append(r"\addlinespace")
        lines.append(_row([_cell(shown, number, place, place in paragraphs) for place in range(len(texts))]))
    lines += [r"\bottomrule", r"\end{tabular}%", r"\endgroup"]
    lines += [f"% {visible(sentence)}" for sentence in shown.all_sentences]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    r"""Text that pdflatex sets without further packages.

    Letters with accents and Greek letters are set as such. What can't be is written by its code, such as
    ``\texttt{U+6F22}``, so that two names that differ look different.
    """
    clusters = _clusters(visible(text))
    following = [*clusters, ""][1:]
    return "".join(
        _letters(cluster) + ("{}" if cluster == after and cluster in _LIGATURES else "")
        for cluster, after in zip(clusters, following, strict=True)
    )


def _clusters(text: str) -> list[str]:
    """Letters, each with the accents that follow it."""
    clusters: list[str] = []
    for letter in unicodedata.normalize("NFC", text):
        if clusters and unicodedata.combining(letter):
            clusters[-1] += letter
        else:
            clusters.append(letter)
    return clusters


def _letters(cluster: str) -> str:
    if cluster in _SPECIAL:
        return _SPECIAL[cluster]
    if cluster.isascii():
        return cluster
    decomposed = unicodedata.normalize("NFD", cluster)
    base, accents = decomposed[0], decomposed[1:]
    if accents:
        if base.isascii() and base.isalpha() and accents in _ACCENTS:
            return f"{_ACCENTS[accents]}{{{base}}}"
        return "".join(_letters(part) for part in (base, *accents))
    if greek := _greek(base):
        return greek
    compatible = unicodedata.normalize("NFKD", base)
    if compatible != base and compatible.isascii():
        return "".join(_SPECIAL.get(letter, letter) for letter in compatible)
    return rf"\texttt{{U+{ord(base):04X}}}"


def _greek(letter: str) -> str:
    """A Greek letter without accents; empty for others."""
    kind, _, name = unicodedata.name(letter, "").partition(" LETTER ")
    name = {"GREEK SMALL": name.lower(), "GREEK CAPITAL": name.capitalize()}.get(kind, "")
    name = _OTHER_GREEK.get(name, name)
    return _LATIN.get(name) or (rf"$\{name}$" if name in _GREEK else "")


def _cell(table: Table, row: int, place: int, paragraph: bool) -> str:
    text = table.cells[row][place]
    if table.headers[place] in table.words:
        shown = _with_code(text) if table.code else escaped(text)
    elif text == ABSENT:
        shown = "--"
    else:
        shown = escaped(_MINUS.sub("\N{MINUS SIGN}", text))
    if (row, place) in table.best and shown:
        shown = rf"\textbf{{{shown}}}"
    return rf"\raggedright {shown}" if paragraph else shown


def _with_code(text: str) -> str:
    parts = re.split(r"`([^`]+)`", visible(text))
    # A space at the end of a part is one of the text; `escaped` would take it away.
    return "".join(
        rf"\texttt{{{escaped(part)}}}"
        if place % 2
        else re.sub(r"^(\s*)(.*?)(\s*)$", lambda found: found[1] + escaped(found[2]) + found[3], part)
        for place, part in enumerate(parts)
    )


def _header(table: Table, place: int, lines: Sequence[str]) -> str:
    if len(lines) == 1:
        return escaped(lines[0])
    side = "l" if table.headers[place] in table.words else "r"
    broken = r"\\".join(map(escaped, lines))
    return rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}{broken}\end{{tabular}}"


def _row(cells: Sequence[str]) -> str:
    # Not \\, which means something else in a ragged paragraph.
    return " & ".join(cells) + r" \tabularnewline"


def _width(table: Table, header: Sequence[str], place: int) -> float:
    """Points of a column at 10 pt."""
    texts = [row[place] for row in table.cells]
    bold = [_BOLD * _points(text) for row, text in enumerate(texts) if (row, place) in table.best]
    return max([*map(_points, header), *map(_points, texts), *bold], default=0.0)


def _points(text: str) -> float:
    return sum(_LETTERS.get(letter, _ORDINARY_LETTER) for letter in text)


def _total(widths: Sequence[float], scale: float, gap: float) -> float:
    return scale * sum(widths) + 2 * gap * max(0, len(widths) - 1)


def _paragraphs(table: Table, widths: Sequence[float], scale: float, gap: float) -> dict[int, float]:
    """The widths of columns whose text is broken into lines, where a table is too wide: they share what is left."""
    if _total(widths, scale, gap) <= LINE:
        return {}
    long = {
        place: scale * width
        for place, width in enumerate(widths)
        if table.headers[place] in table.words and width > _LONGEST_LINE * _ORDINARY_LETTER
    }
    others = _total([width for place, width in enumerate(widths) if place not in long], scale, gap)
    left = LINE - others - 2 * gap * len(long)
    whole = sum(width**0.5 for width in long.values())
    return {place: max(_NARROWEST_PARAGRAPH, left * width**0.5 / whole) for place, width in long.items()}
