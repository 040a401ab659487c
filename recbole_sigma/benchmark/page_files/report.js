"use strict";
// A column sorts inside its groups: numbers by value, the largest first; text by letters.
const value = (row, place) => row.cells[place].textContent.replaceAll(",", "");
function sort(head) {
  const table = head.closest("table"), place = head.cellIndex;
  const up = head.getAttribute("aria-sort") === "descending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
    rows.sort((a, b) => {
      const [x, y] = [parseFloat(value(a, place)), parseFloat(value(b, place))];
      if (isNaN(x) !== isNaN(y)) return isNaN(x) - isNaN(y);
      const order = isNaN(x) ? value(b, place).localeCompare(value(a, place)) : x - y;
      return up ? order : -order;
    });
    body.append(...rows);
  }
}
for (const head of document.querySelectorAll("table.sorts thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  button.onclick = () => sort(head);
  head.replaceChildren(button);
}
// Rows that are not chosen leave the tables and the pictures.
const boxes = [...document.querySelectorAll("#rows input")];
function choose() {
  for (const box of boxes) {
    for (const row of document.querySelectorAll(`tr[data-row="${box.value}"]`)) row.hidden = !box.checked;
    for (const part of document.querySelectorAll(`svg [id^="row-${box.value}-"]`)) {
      part.style.display = box.checked ? "" : "none";
    }
  }
}
for (const box of boxes) box.onchange = choose;
for (const button of document.querySelectorAll("#rows button")) {
  button.onclick = () => { for (const box of boxes) box.checked = button.value === "all"; choose(); };
}
if (boxes.length) document.getElementById("rows").hidden = false;
// A picture as it is shown now, the chosen rows alone, as a file of its own.
for (const figure of document.querySelectorAll("figure")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Save as SVG";
  button.onclick = () => {
    const shown = [...figure.querySelectorAll("svg")].find((svg) => getComputedStyle(svg).display !== "none");
    const text = new XMLSerializer().serializeToString(shown);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
    link.download = `${figure.id}.svg`;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  figure.querySelector(".save").prepend(button);
}
