// Sorts a table by a tap on a column's head: numbers highest first, words from A, a second tap the
// other way round. Equal cells keep the order of the page; cells without anything stay last.
"use strict";
(() => {
  const UNITS = { "": 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18 };
  const NUMBER = /^([+-]?(?:\d[\d,]*)?\.?\d+(?:e[+-]?\d+)?)\s?([kMGTPE]?)(?:i?B|x|%|s|ms)?(?![\w.])/;

  const text = (row, column) => row.cells[column].textContent.trim();
  const number = (words) => {
    const found = NUMBER.exec(words.replace("\u2212", "-"));
    return found ? Number(found[1].replaceAll(",", "")) * UNITS[found[2]] : NaN;
  };

  function sort(table, column, order) {
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => a.dataset.place - b.dataset.place);
    const filled = rows.filter((row) => !["", "-"].includes(text(row, column)));
    const keys = new Map(filled.map((row) => [row, number(text(row, column))]));
    const numeric = ![...keys.values()].some(Number.isNaN);
    const compare = (a, b) => numeric ? keys.get(a) - keys.get(b)
      : text(a, column).localeCompare(text(b, column), "en", { numeric: true });
    const ascending = (order === undefined ? !numeric : order === "ascending");
    filled.sort((a, b) => (ascending ? 1 : -1) * compare(a, b));
    body.append(...filled, ...rows.filter((row) => !keys.has(row)));
    return ascending ? "ascending" : "descending";
  }

  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    [...table.tBodies[0].rows].forEach((row, place) => { row.dataset.place = place; });
    if (table.tBodies[0].rows.length < 2) continue;
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const other = { ascending: "descending", descending: "ascending" };
        const order = sort(table, column, other[head.getAttribute("aria-sort")]);
        heads.forEach((each) => { each.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", order);
      });
    });
  }
})();
