"use strict";
// Tables sort by the column whose head is clicked; cells carry their number in data-value.
for (const head of document.querySelectorAll("th[data-sort]")) {
  const sort = () => {
    const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of table.querySelectorAll("th[data-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a), y = value(b), nx = Number(x), ny = Number(y);
      const order = Number.isNaN(nx) || Number.isNaN(ny) || x === "" || y === "" ? String(x).localeCompare(String(y)) : nx - ny;
      return down ? -order : order;
    });
    body.append(...rows);
  };
  head.tabIndex = 0;
  head.addEventListener("click", sort);
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
}
// The U shows one measure at a time.
for (const map of document.querySelectorAll(".blocks")) {
  const values = JSON.parse(map.querySelector("script").textContent);
  const choose = map.querySelector("select");
  const show = () => {
    const chosen = values[choose.value];
    for (const block of map.querySelectorAll("[data-block]")) {
      const found = chosen[block.dataset.block];
      block.querySelector("rect").style.fill = found ? found.fill : "";
      block.querySelector(".value").textContent = found ? found.text : "-";
      block.querySelector("title").textContent = `${block.dataset.block}: ${found ? found.text : "nothing"}`;
    }
  };
  choose.addEventListener("change", show);
  show();
}
