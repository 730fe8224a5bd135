// Elements made of plain text: nothing that a tenant or a model is called is ever read as HTML.

/** Make an element; children are elements or text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** Fill a table. `columns`: [title, class]; rows hold a cell for each: text, or an array of children. */
export function fill(table, columns, rows, none) {
  const head = columns.map(([title, kind]) => make("th", { scope: "col", class: kind ?? "" }, title));
  const body = rows.map((cells) =>
    make("tr", {}, ...cells.map((cell, i) => make("td", { class: columns[i][1] ?? "" }, ...[cell].flat()))),
  );
  if (!rows.length) body.push(make("tr", {}, make("td", { class: "dim", colspan: columns.length }, none)));
  table.replaceChildren(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

/** A bar that fills a share of its cell. */
export function bar(share, kind = "") {
  const filled = make("i", { class: kind });
  filled.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  return filled;
}
