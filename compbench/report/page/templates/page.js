"use strict";

// The page is whole without this script: it sorts and chooses rows, unfolds cells, and draws the figures anew so that
// they can be pointed at. What it shows it only ever sets as text.
(() => {
  const DARK = "(prefers-color-scheme: dark)";
  const inTheDark = () => matchMedia(DARK).matches;
  const collator = new Intl.Collator("en", {numeric: true});

  /** A table of the page, whose records are its rows, or its bodies where a record has several rows. */
  class Records {
    constructor(box) {
      this.box = box;
      this.table = box.querySelector("table");
      this.heads = [...this.table.tHead.rows[0].cells];
      this.records = box.dataset.rows === "body" ? [...this.table.tBodies] : [...this.table.tBodies[0].rows];
      this.parent = this.records.length ? this.records[0].parentNode : null;
      this.controls = box.querySelector(".controls");
      this.output = this.controls.querySelector("output");
      this.order = null;
      this.texts = new Map(this.records.map((record) => [record, this.text(record)]));
      this.heads.forEach((head, column) => this.addButton(head, column));
      for (const happening of ["input", "change"]) this.controls.addEventListener(happening, () => this.choose());
      this.controls.addEventListener("click", (event) => this.act(event.target.dataset.does));
      this.controls.hidden = false;
      this.choose(); // a browser that comes back to the page fills the fields as they were
    }

    row(record) {
      return record.tagName === "TR" ? record : record.rows[0];
    }

    /** What a search looks at: the row, and what stands under it unfolded. */
    text(record) {
      const parts = [this.row(record), ...record.querySelectorAll(".reason, .remark")];
      return parts.map((part) => [...(part.cells ?? [part])].map((cell) => cell.textContent).join(" ")).join(" ").toLowerCase();
    }

    addButton(head, column) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => this.sort(column));
    }

    /** Ascending, then descending, then as it was. */
    sort(column) {
      const head = this.heads[column];
      const next = {ascending: "descending", descending: null}[head.getAttribute("aria-sort")];
      const direction = next === undefined ? "ascending" : next;
      this.heads.forEach((other) => other.removeAttribute("aria-sort"));
      const sorted = [...this.records];
      if (direction) {
        head.setAttribute("aria-sort", direction);
        const sign = direction === "ascending" ? 1 : -1;
        const numbers = head.classList.contains("number");
        const cell = (record) => this.row(record).cells[column];
        sorted.sort((a, b) => (numbers ? this.compareNumbers : this.compareWords)(cell(a), cell(b), sign));
      }
      if (this.parent) this.parent.append(...sorted);
      this.order = direction ? `${head.textContent}, ${direction}` : null;
      this.tell();
    }

    /** What has no number goes last, in whichever direction; a cell that was not run has no such column at all. */
    compareNumbers(a, b, sign) {
      const [left, right] = [a?.dataset.number, b?.dataset.number];
      if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
      return sign * (Number(left) - Number(right));
    }

    compareWords(a, b, sign) {
      return sign * collator.compare(a.textContent, b.textContent);
    }

    choose() {
      const field = this.controls.querySelector("[data-filter=text]");
      const words = field ? field.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
      const chosen = [...this.controls.querySelectorAll("select")].filter((select) => select.selectedIndex > 0);
      for (const record of this.records) {
        const cells = this.row(record).cells;
        record.hidden = !(
          words.every((word) => this.texts.get(record).includes(word)) &&
          chosen.every((select) => cells[select.dataset.column].textContent === select.options[select.selectedIndex].text)
        );
      }
      this.tell();
    }

    get shown() {
      return this.records.filter((record) => !record.hidden);
    }

    tell() {
      const rows = `${this.shown.length} of ${this.records.length} row${this.records.length === 1 ? "" : "s"}`;
      this.output.textContent = this.order ? `${rows}, by ${this.order}` : rows;
    }

    act(what) {
      if (what === "clear") this.showAll();
      if (what === "unfold" || what === "fold") {
        for (const record of this.shown) {
          for (const details of record.querySelectorAll("details")) details.open = what === "unfold";
        }
      }
    }

    showAll() {
      for (const field of this.controls.querySelectorAll("input")) field.value = "";
      for (const select of this.controls.querySelectorAll("select")) select.selectedIndex = 0;
      this.choose();
    }
  }

  /** A figure that is drawn from its data, in the colours of the page, in the place of the drawing. */
  class Figure {
    constructor(element, darkConfig) {
      this.element = element;
      this.live = element.querySelector(".live");
      this.specification = JSON.parse(element.querySelector(".specification").textContent);
      this.darkConfig = darkConfig;
      this.view = null;
      this.drawing = Promise.resolve();
      for (const button of element.querySelectorAll("[data-saves]")) {
        button.addEventListener("click", () => this.save(button.dataset.saves));
      }
    }

    /** One drawing after the other: when the colours change meanwhile, the last one has them right. */
    draw() {
      this.drawing = this.drawing.then(() => this.drawNow());
      return this.drawing;
    }

    async drawNow() {
      const config = inTheDark() ? this.darkConfig : this.specification.config;
      this.element.dataset.drawn = "";
      try {
        this.view?.finalize();
        this.view = await viewOf({...this.specification, config}, this.live, "svg");
        const paper = await this.paper();
        this.element.querySelector(".drawn").innerHTML = await paper.toSVG(); // for print, with this machine's fonts
      } catch (error) {
        this.element.dataset.undrawn = String(error); // the drawing stays in its place
        return;
      }
      this.element.querySelector(".drawn").hidden = true;
      this.element.querySelector(".controls").hidden = false;
      this.live.hidden = false;
      this.element.dataset.drawn = config === this.darkConfig ? "dark" : "light";
    }

    /** As it is for paper: on white, whatever the page's colours are and whichever arm is picked. */
    async paper() {
      this.onPaper ??= await viewOf(this.specification, document.createElement("div"), "none");
      return this.onPaper;
    }

    async save(format) {
      const name = `${document.title.split(" ")[0]}-${this.element.id.replace("figure-", "")}.${format}`;
      const paper = await this.paper();
      download(format === "svg" ? textUrl(await paper.toSVG(), "image/svg+xml") : await paper.toImageURL("png", 4), name);
    }
  }

  /** A figure in an element. Expressions are interpreted, not compiled: the page's policy lets no text become code. */
  const viewOf = async (specification, element, renderer) => {
    const options = {actions: false, ast: true, renderer, tooltip: {theme: "custom"}};
    return (await vegaEmbed(element, specification, options)).view;
  };

  const textUrl = (text, type) => URL.createObjectURL(new Blob([text], {type}));

  const download = (url, name) => {
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    link.click();
    if (url.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(url), 10000);
  };

  const tables = [...document.querySelectorAll(".table")].map((box) => new Records(box));

  /** A cell that the address names is shown, unfolded, whatever is filtered. */
  const unfoldTarget = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const table = tables.find((one) => one.records.includes(target));
    if (!table) return;
    if (target.hidden) table.showAll();
    for (const details of target.querySelectorAll("details")) details.open = true;
    target.scrollIntoView();
    target.focus({preventScroll: true});
  };
  window.addEventListener("hashchange", unfoldTarget);
  unfoldTarget();

  for (const button of document.querySelectorAll("[data-saves=numbers]")) {
    const {name, text} = JSON.parse(document.getElementById("numbers").textContent);
    button.parentElement.hidden = false;
    button.addEventListener("click", () => download(textUrl(text, "text/csv"), name));
  }

  const dark = document.getElementById("dark-config");
  if (dark && typeof vegaEmbed === "function") {
    const elements = [...document.querySelectorAll("figure")].filter((element) => element.querySelector(".specification"));
    const figures = new Map(elements.map((element) => [element, new Figure(element, JSON.parse(dark.textContent))]));
    // A figure takes a moment to draw: first come those that the reader is near, the others when there is nothing to do.
    const waiting = new Set(elements);
    const draw = (element) => (waiting.delete(element) ? figures.get(element).draw() : null);
    const near = new IntersectionObserver((entries) => {
      for (const {target} of entries.filter((entry) => entry.isIntersecting)) draw(target);
    }, {rootMargin: "500px"});
    for (const element of elements) near.observe(element);
    const whenIdle = (work) => (window.requestIdleCallback ? requestIdleCallback(work, {timeout: 500}) : setTimeout(work, 100));
    const drawNext = async () => {
      const [next] = waiting;
      if (!next) return;
      await draw(next);
      whenIdle(drawNext);
    };
    whenIdle(drawNext);
    // Not the query that inTheDark reads: one that is read between a change and its event has no such event in Chromium.
    const scheme = matchMedia(DARK);
    scheme.addEventListener("change", () => {
      for (const element of elements) if (!waiting.has(element)) figures.get(element).draw();
    });
  }
})();
