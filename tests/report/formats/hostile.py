"""Text that tries to be more than text, in any format."""

from compbench.report.formats import Table

TEXTS = (
    "a|b",
    "<script>alert(1)</script>",
    "&lt;b&gt;",
    "`code` ``` ~~~",
    "*bold* _it_ __init__ ~~gone~~",
    "# heading",
    "- item",
    "1. item",
    "> quoted",
    "[x](http://example.org) ![i](http://example.org/i.png)",
    "$x^2$ 100% a_b #1 {c} ~d \\e & f",
    "\\input{/etc/passwd} \\end{tabular} %",
    "^^M ^^5c",
    "--- '' ,, << >> ?` !`",
    "[laser, int8]",
    "*starred*",
    "\"quoted\" 'single'",
    "± × ≥ ≤ → µ é ñ ü Å č ç ß æ ø ł",
    "αβγ Σ Ω ς ό Α",
    "漢字 кирилл 🙂 ﬁ ①",
    "[red]red[/red] [link=http://example.org]x[/link]",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "two\nlines\r\nand\ttabs\x0bx",
    "\u202egnp.exe \u200b zero \u00ad soft \ufeff",
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "",
)


def table() -> Table:
    """Every text as the name of a row, in and at the beginning of a sentence, in the caption; two as headers."""
    return Table(
        headers=["arm", "depth", *TEXTS[:2]],
        cells=[[text, str(number), "-0.5 ± 0.1", "-"] for number, text in enumerate(TEXTS)],
        words=["arm"],
        sentences=[*TEXTS, *(f"of {text}: no" for text in TEXTS)],
        caption=" ".join(TEXTS),
        best={(number, place) for number in range(len(TEXTS)) for place in (0, 2)},
        best_sentence="bold: the best.",
        sections=range(1, len(TEXTS)),
    )
