"use strict";
// The page is whole without this script; it sorts tables, filters records, and shows a record in a dialog.
document.documentElement.classList.add("js");

// --- sorting: a button in each header cell, aria-sort on the sorted column alone
function key(row, column, numeric) {
  const text = row.cells[column] ? row.cells[column].textContent.trim() : "";
  if (!numeric) return text.toLowerCase();
  const found = /^[+−-]?\d+(\.\d+)?(e[+-]?\d+)?/i.exec(text);
  return found ? parseFloat(found[0].replace("−", "-")) : "";
}

function sort(table, cell, column) {
  const order = cell.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  const sign = order === "ascending" ? 1 : -1;
  const numeric = cell.classList.contains("r");
  const keyed = [...table.tBodies[0].rows].map((row) => [key(row, column, numeric), row]);
  keyed.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // nothing stands last in both orders
    return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  cell.setAttribute("aria-sort", order);
  table.classList.add("sorted");
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table")) {
  if (!table.tHead || !table.tBodies[0] || table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    if (cell.tagName !== "TH") return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => sort(table, cell, column));
  });
}

// --- filter
const all = document.getElementById("all");
const form = document.getElementById("filter");
const texts = [...all.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);

function filter() {
  const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = [...form.querySelectorAll("select")].filter((select) => select.value);
  let n = 0;
  for (const [row, text] of texts) {
    const fits =
      words.every((word) => text.includes(word)) &&
      chosen.every((select) => row.cells[select.dataset.column].textContent === select.value);
    row.hidden = !fits;
    n += fits;
  }
  document.getElementById("shown").textContent = `${n} of ${texts.length} records`;
}

form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());

// --- a record in a dialog: its row, its facts, and the parts that it shares with others
const dialog = document.getElementById("record");
const body = document.getElementById("record-body");

function make(name, ...children) {
  const element = document.createElement(name);
  element.append(...children);
  return element;
}

function copy(element) {
  return [...element.childNodes].map((node) => node.cloneNode(true));
}

function show(row) {
  const heads = [...all.tHead.rows[0].cells].map((cell) => copy(cell.querySelector("button") || cell));
  const list = make("dl");
  [...row.cells].slice(1).forEach((cell, i) => {
    if (cell.textContent) list.append(make("div", make("dt", ...heads[i + 1]), make("dd", ...copy(cell))));
  });
  const facts = make("p", ...copy(row.querySelector("details p")));
  const parts = [];
  const links = [...facts.querySelectorAll("a")];
  for (const link of links) {
    const part = document.getElementById(link.hash.slice(1));
    const [name, content] = part.children;
    const more = content.querySelectorAll("a"); // a setting names other parts
    links.push(...more);
    if (!more.length) parts.push(make("h3", name.textContent), make("pre", content.textContent));
  }
  for (const link of facts.querySelectorAll("a")) link.replaceWith(link.textContent);
  document.getElementById("record-title").textContent = `Record ${row.querySelector("a").textContent}`;
  body.replaceChildren(list, facts, ...parts);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0; // the browser scrolls to the first element that takes the focus
}

function recordOf(hash) {
  const target = hash.length > 1 ? document.getElementById(decodeURIComponent(hash.slice(1))) : null;
  return target && target.tagName === "TR" ? target : null;
}

document.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // beside it
  const link = event.target.closest('a[href^="#"]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const row = recordOf(link.hash);
  const part = document.getElementById(link.hash.slice(1));
  if (part && part.tagName === "DETAILS") part.open = true;
  if (!row) return;
  event.preventDefault(); // a second click on one link fires no hashchange
  history.replaceState(null, "", link.hash);
  show(row);
});

function showHash() {
  const row = recordOf(location.hash);
  if (row) show(row);
}

addEventListener("hashchange", showHash);
showHash();
