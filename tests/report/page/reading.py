"""A page read back with Python's own HTML parser, which knows nothing of how it was made."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "hr", "img"}


class Element:
    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    def __getitem__(self, name):
        return self.attributes[name]

    def walk(self):
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag, **attributes):
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            found
            for found in self.walk()
            if found.tag == tag and all(found.attributes.get(name) == value for name, value in wanted.items())
        ]

    def one(self, tag, **attributes):
        (found,) = self.all(tag, **attributes)
        return found

    @property
    def text(self):
        return "".join(child.text if isinstance(child, Element) else child for child in self.children)

    @property
    def words(self):
        return re.sub(r"\s+", " ", self.text).strip()


class Page(HTMLParser):
    """The tree of a page; ``text`` is what it shows, without scripts and styles."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.root = Element("document", {})
        self._open = [self.root]
        self.feed(source)
        self.close()
        assert len(self._open) == 1, f"never closed: {[element.tag for element in self._open[1:]]}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, attributes)
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attributes):
        self._open[-1].children.append(Element(tag, attributes))

    def handle_endtag(self, tag):
        opened = self._open.pop()
        assert opened.tag == tag, f"</{tag}> closes <{opened.tag}>"

    def handle_data(self, data):
        self._open[-1].children.append(data)

    def __getattr__(self, name):
        return getattr(self.root, name)

    def by_id(self, name):
        (found,) = [element for element in self.root.walk() if element.attributes.get("id") == name]
        return found

    def data(self, name):
        """What a ``script`` of JSON has."""
        return json.loads(self.by_id(name).text)

    def rows(self, table):
        """The text of a table's cells, a list a row of its bodies, and before them its headers."""
        found = self.by_id(table)
        rows = [row for part in found.children if isinstance(part, Element) for row in part.all("tr")]
        return [[cell.words for cell in row.children if isinstance(cell, Element)] for row in rows]
