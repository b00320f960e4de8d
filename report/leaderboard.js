"use strict";
// Sorts a table by the column whose button is pressed; the order on paper and without scripts is that of the ranking.
for (const table of document.querySelectorAll("table.board")) {
  if (table.tBodies[0].rows.length < 2) continue;
  table.classList.add("sortable");
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, heads, column));
  });
}

function sort(table, heads, column) {
  const descending = heads[column].getAttribute("aria-sort") === "ascending";
  const key = (row) => row.cells[column].dataset.key;
  const order = (first, second) => {
    const [a, b] = [key(first), key(second)];
    const number = a !== "" && b !== "" && Number.isFinite(+a) && Number.isFinite(+b);
    return number ? a - b : a.localeCompare(b);
  };
  const rows = [...table.tBodies[0].rows].sort((a, b) => (descending ? order(b, a) : order(a, b)));
  table.tBodies[0].append(...rows);
  heads.forEach((head, index) => {
    if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}
