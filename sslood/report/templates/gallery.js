"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const cards = [...document.querySelectorAll(".cards figure")];
const at = (id) => document.getElementById(id);
const slider = at("threshold");
// the handle moves in equal steps of log p, since most of what matters is below 0.1
const lowest = Math.log10(Math.min(...data.steps, 0.001) / 1.5);
const decided = Number(slider.dataset.line);
let line = null; // null: as it was decided

const isOod = (card) => (line === null ? card.dataset.ood === "true" : Number(card.dataset.p) <= line);
const plural = (n) => `${n} ${data.nouns[n === 1 ? 0 : 1]}`;

function show() {
  const text = at("filter").value.trim().toLowerCase();
  const kind = at("kind").value;
  let seen = 0, ood = 0, marked = 0;
  for (const card of cards) {
    const flag = isOod(card), mark = card.querySelector(".mark").checked;
    card.className = flag ? "ood" : "id";
    card.querySelector("strong").textContent = flag ? "OOD" : "ID";
    const fits = { all: true, ood: flag, id: !flag, marked: mark }[kind];
    card.hidden = !fits || !card.dataset.text.toLowerCase().includes(text);
    seen += !card.hidden;
    ood += flag;
    marked += mark;
  }
  document.body.classList.toggle("moved", line !== null);
  let total = 0;
  data.steps.forEach((p, i) => { if (p <= line) total += data.counts[i]; });
  const all = data.counts.reduce((sum, n) => sum + n, 0);
  at("line").textContent = line === null ? "as decided" : `p ≤ ${line.toPrecision(2)}`;
  at("outcome").textContent = line === null ? "" :
    `At p ≤ ${line.toPrecision(2)}, ${total} of ${plural(all)} would be OOD (${ood} of those shown); ` +
    `of ID pictures at most ${(100 * line).toPrecision(2)} %, on average.`;
  at("seen").textContent = `${plural(seen)} shown, ${marked} marked`;
  at("save").disabled = marked === 0;
}

function move(value) {
  line = value;
  if (value === null) slider.value = decided > 0 ? Math.max(0, 1000 * (1 - Math.log10(decided) / lowest)) : 0;
  show();
}

function save() {
  const rows = cards.filter((card) => card.querySelector(".mark").checked).map((card) => {
    const { path, score, p, cells } = card.dataset;
    return [path, score, p, isOod(card), cells].join(",");
  });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([[data.columns, ...rows, ""].join("\n")], { type: "text/csv" }));
  link.download = `${data.name} marked.csv`;
  link.click();
  URL.revokeObjectURL(link.href);
}

slider.addEventListener("input", () => move(10 ** (lowest * (1 - slider.value / 1000))));
at("reset").addEventListener("click", () => move(null));
at("filter").addEventListener("input", show);
at("kind").addEventListener("change", show);
at("save").addEventListener("click", save);
for (const [id, value] of [["mark", true], ["unmark", false]]) {
  at(id).addEventListener("click", () => {
    for (const card of cards) if (!card.hidden) card.querySelector(".mark").checked = value;
    show();
  });
}
document.addEventListener("change", (event) => { if (event.target.className === "mark") show(); });
document.body.classList.add("scripted");
move(null);
