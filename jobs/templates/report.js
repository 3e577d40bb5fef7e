// Sorting and filtering; everything else on the page works without it.
"use strict";

const valueOf = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();

// Numbers as numbers, the rest as words; what is not known comes last, up or down.
function compare(a, b, direction) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const isNumber = !Number.isNaN(Number(a)) && !Number.isNaN(Number(b));
  return direction * (isNumber ? Number(a) - Number(b) : a.localeCompare(b));
}

function sortBy(table, header) {
  const isFirst = header.getAttribute("aria-sort") === "none";
  const isNumeric = header.classList.contains("num");
  const wasDown = header.getAttribute("aria-sort") === "descending";
  const isDown = isFirst ? isNumeric : !wasDown;
  for (const other of table.tHead.rows[0].cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", isDown ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [valueOf(row, header.cellIndex), row]);
  rows.sort(([a], [b]) => compare(a, b, isDown ? -1 : 1));
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sorts")) {
  for (const header of table.tHead.rows[0].cells) {
    if (!header.textContent.trim()) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(table, header));
    header.append(button);
    header.setAttribute("aria-sort", "none");
  }
}

// One field for each list that is long enough to have one; it hides what does not hold the word.
for (const field of document.querySelectorAll("input.filter")) {
  const list = document.getElementById(field.getAttribute("aria-controls"));
  const count = field.parentElement.querySelector("[role=status]");
  field.closest("[hidden]")?.removeAttribute("hidden");
  field.addEventListener("input", () => {
    const word = field.value.trim().toLocaleLowerCase();
    const items = [...list.querySelectorAll("tbody tr, .texts > li")];
    for (const item of items) item.hidden = word !== "" && !item.textContent.toLocaleLowerCase().includes(word);
    list.closest(".folded")?.classList.toggle("filtered", word !== "");
    count.textContent = word === "" ? "" : `${items.filter((item) => !item.hidden).length} of ${items.length}`;
  });
}

// What is folded on the screen is open on paper.
const folded = [];
window.addEventListener("beforeprint", () => {
  folded.push(...document.querySelectorAll("details:not([open])"));
  for (const details of folded) details.open = true;
});
window.addEventListener("afterprint", () => {
  for (const details of folded.splice(0)) details.open = false;
});
