// Elements and tables that are changed only where their text changes. Foreign text becomes text nodes, never HTML.

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const shown = new WeakMap(); // element -> what `setText` and `setClass` have written last

function changes(node, key, value) {
  const known = shown.get(node) || {};
  if (known[key] === value) return false;
  shown.set(node, { ...known, [key]: value });
  return true;
}

export function setText(node, text) {
  if (changes(node, "text", text)) node.textContent = text;
}

export function setClass(node, name) {
  if (changes(node, "class", name)) node.className = name;
}

export function setAttribute(node, name, value) {
  if (changes(node, ` ${name}`, value)) node.setAttribute(name, value);
}

export function setHidden(node, isHidden) {
  if (node.hidden !== isHidden) node.hidden = isHidden;
}

// A table with headings. columns: {label, group, isText}; the first one names its row. A cell is a text, or
// {text, state, note}: a state gets a mark, a note stands below.
export class Table {
  constructor(caption, columns) {
    this.columns = columns;
    this.body = element("tbody", { role: "rowgroup" });
    const head = element("thead", { role: "rowgroup" });
    if (columns.some((column) => column.group)) head.append(this.groupRow());
    head.append(element("tr", { role: "row" }, ...columns.map((column) => this.heading(column))));
    const table = element("table", { role: "table" }, element("caption", { class: "hidden" }, caption), head, this.body);
    this.element = element("div", { class: "scroll", role: "group", tabindex: "0", "aria-label": caption }, table);
    this.rows = [];
  }

  heading(column) {
    return element("th", { scope: "col", role: "columnheader", class: column.isText ? "text" : "" }, column.label);
  }

  groupRow() {
    const cells = [];
    for (const { group = "" } of this.columns) {
      const last = cells[cells.length - 1];
      if (last && last.group === group) last.width += 1;
      else cells.push({ group, width: 1 });
    }
    return element("tr", { role: "row", class: "groups" }, ...cells.map(({ group, width }) => group
      ? element("th", { colspan: width, scope: "colgroup", role: "columnheader" }, group)
      : element("td", { colspan: width, role: "cell" })));
  }

  fill(rows) {
    while (this.rows.length > rows.length) this.rows.pop().element.remove();
    rows.forEach((cells, place) => {
      if (place === this.rows.length) {
        this.rows.push(this.makeRow());
        this.body.append(this.rows[place].element);
      }
      cells.forEach((cell, column) => this.fillCell(this.rows[place].cells[column], cell));
    });
  }

  makeRow() {
    const cells = this.columns.map((column, place) => {
      const kind = column.isText ? "text" : "";
      const text = element("span");
      const cell = place ? element("td", { role: "cell", class: kind, "data-label": column.label }, text)
        : element("th", { role: "rowheader", scope: "row", class: kind }, text);
      return { cell, text, note: null };
    });
    return { cells, element: element("tr", { role: "row" }, ...cells.map(({ cell }) => cell)) };
  }

  fillCell(slot, value) {
    const { text, state = "", note = "" } = typeof value === "string" ? { text: value } : value;
    setText(slot.text, text);
    setClass(slot.text, state && `state ${state}`);
    if (note && !slot.note) {
      slot.note = element("span", { class: "note" });
      slot.cell.append(" ", slot.note); // a space for those who hear or copy it
    }
    if (slot.note) {
      setText(slot.note, note);
      setHidden(slot.note, !note);
    }
  }
}

// A list of labelled numbers.
export class Figures {
  constructor(list = element("dl", { class: "figures" })) {
    this.element = list;
    this.values = new Map();
  }

  // entries: [label, text, class] of each; the labels are those of the first call. A text of "" leaves its place empty.
  fill(entries) {
    for (const [label, text, kind = ""] of entries) {
      let slot = this.values.get(label);
      if (!slot) {
        slot = { value: element("dd"), group: element("div") };
        slot.group.append(element("dt", {}, label), slot.value);
        this.values.set(label, slot);
        this.element.append(slot.group);
      }
      setText(slot.value, text);
      setClass(slot.value, kind);
      setClass(slot.group, text === "" ? "empty" : "");
    }
  }
}
