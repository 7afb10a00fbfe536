"use strict";
// Sorting, filtering and the line below the heat map. Reads data-* attributes only and writes textContent only.
(() => {
  const table = document.querySelector(".heat");
  if (!table) return;
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];

  function sortBy(column, ascending) {
    const key = (row) => row.cells[column].dataset.sort;
    const numeric = headings[column].dataset.kind === "number";
    const compare = numeric ? (a, b) => Number(key(a)) - Number(key(b)) : (a, b) => key(a).localeCompare(key(b));
    const rows = [...body.rows].sort((a, b) => (ascending ? compare(a, b) : compare(b, a)));
    body.append(...rows);
    headings.forEach((heading, i) => {
      if (i === column) heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      else heading.removeAttribute("aria-sort");
    });
  }

  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      sortBy(column, heading.getAttribute("aria-sort") !== "ascending");
    });
  });

  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    let count = 0;
    for (const row of body.rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      count += row.hidden ? 0 : 1;
    }
    shown.textContent = `${count} of ${body.rows.length} learners`;
  });

  const detail = document.getElementById("detail");
  let current = body.querySelector("button"); // The one cell that the Tab key reaches.
  const show = (event) => {
    const cell = event.target.closest("button[data-detail]");
    if (!cell) return;
    detail.textContent = cell.dataset.detail;
    current.tabIndex = -1;
    cell.tabIndex = 0;
    current = cell;
  };
  body.addEventListener("focusin", show);
  body.addEventListener("click", show);

  // Arrow keys move between cells, as in a spreadsheet.
  body.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const cell = event.target.closest("td");
    if (!step || !cell) return;
    const rows = [...body.rows].filter((row) => !row.hidden);
    const next = rows[rows.indexOf(cell.parentElement) + step[0]]?.cells[cell.cellIndex + step[1]];
    const button = next?.querySelector("button");
    if (button) {
      event.preventDefault();
      button.focus();
    }
  });
})();
