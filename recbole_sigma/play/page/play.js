"use strict";
// The page: reads the form, asks the server, draws columns. Text from the server is only ever set as text.

const at = (id) => document.getElementById(id);
const history_ = []; // titles, oldest first
let busy = 0; // number of the newest question; answers to older ones are dropped

function make(tag, text, kind) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}

async function ask(address, body) {
  const more = body === undefined ? {} :
    { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(address, more);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || answer.statusText);
  return found;
}

function say(text, bad) {
  at("said").textContent = text;
  at("said").className = bad ? "bad" : "";
}

// --- the history, with proposals while a title is typed ---

let chosen = -1;

function drawHistory() {
  at("history").replaceChildren(...history_.map((title, place) => {
    const line = make("li", title), off = make("button", "✕");
    off.type = "button";
    off.setAttribute("aria-label", `take out ${title}`);
    off.onclick = () => { history_.splice(place, 1); drawHistory(); at("title").focus(); };
    line.append(off);
    return line;
  }));
}

function closeFound() {
  at("found").hidden = true;
  at("found").replaceChildren();
  at("title").setAttribute("aria-expanded", "false");
  at("title").removeAttribute("aria-activedescendant");
  chosen = -1;
}

function add(title) {
  history_.push(title);
  at("title").value = "";
  at("user").value = "";
  closeFound();
  drawHistory();
}

function point(place) {
  const lines = [...at("found").children];
  if (!lines.length) return;
  chosen = (place + lines.length) % lines.length;
  lines.forEach((line, number) => line.setAttribute("aria-selected", String(number === chosen)));
  lines[chosen].scrollIntoView({ block: "nearest" });
  at("title").setAttribute("aria-activedescendant", lines[chosen].id);
}

at("title").addEventListener("input", async () => {
  const text = at("title").value;
  const found = text.trim() ? await ask(`api/titles?q=${encodeURIComponent(text)}`) : [];
  if (text !== at("title").value) return;
  at("found").replaceChildren(...found.map((title, place) => {
    const line = make("li", title);
    line.id = `found-${place}`;
    line.setAttribute("role", "option");
    line.onmousedown = (event) => { event.preventDefault(); add(title); };
    return line;
  }));
  at("found").hidden = !found.length;
  at("title").setAttribute("aria-expanded", String(Boolean(found.length)));
  if (found.length) point(0); else closeFound();
});

at("title").addEventListener("keydown", (event) => {
  const lines = at("found").children;
  if (event.key === "ArrowDown") { event.preventDefault(); point(chosen + 1); }
  else if (event.key === "ArrowUp") { event.preventDefault(); point(chosen - 1); }
  else if (event.key === "Escape") closeFound();
  else if (event.key === "Enter" && at("title").value.trim()) {
    event.preventDefault();
    if (lines.length && chosen >= 0) add(lines[chosen].textContent);
    else say(`No title holds "${at("title").value}".`, true);
  }
});
at("title").addEventListener("blur", closeFound);
at("user").addEventListener("input", () => { history_.length = 0; drawHistory(); });

// --- lists ---

function columnOf(column, counts) {
  const box = make("section");
  box.append(make("h2", column.name), make("p", column.told, "soft"));
  if (column.read) box.append(make("p", `The model read: ${column.read}`, "soft"));
  const table = make("table"), body = make("tbody");
  column.items.forEach((item, place) => {
    const line = make("tr", undefined, counts.get(item.item) > 1 ? "shared" : "");
    const cell = make("td", item.title);
    if (item.votes.length) {
      const told = item.votes.map(([title, gain]) => `${title} +${gain}`).join(", ");
      cell.append(make("div", `votes: ${told}`, "votes"));
    }
    line.append(make("td", place + 1, "number"), cell, make("td", item.prefix), make("td", item.score, "number"));
    body.append(line);
  });
  table.append(body);
  box.append(table);
  if (column.prefixes.length) {
    box.append(make("h3", "Which prefix comes next"));
    for (const prefix of column.prefixes) {
      const row = make("div", undefined, "bar"), track = make("span"), bar = make("i");
      bar.style.width = `${Math.max(1, 100 * prefix.share / column.prefixes[0].share)}%`;
      track.append(bar);
      row.append(make("b", prefix.prefix), track, make("div", `${(100 * prefix.share).toFixed(1)} %`),
        make("small", `${prefix.items} items: ${prefix.examples.join("; ")} ...`));
      box.append(row);
    }
  }
  const notes = make("ul", undefined, "notes");
  column.notes.forEach((note) => notes.append(make("li", note)));
  box.append(notes);
  return box;
}

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const mine = ++busy;
  say("Asking ...");
  try {
    const found = await ask("api/lists", {
      user: at("user").value.trim() || null,
      history: history_.length ? history_ : null,
      instruction: at("instruction").value,
      set: at("set").value,
      k: Number(at("k").value),
    });
    if (mine !== busy) return;
    const counts = new Map();
    found.columns.forEach((column) => column.items.forEach((item) =>
      counts.set(item.item, (counts.get(item.item) || 0) + 1)));
    at("columns").replaceChildren(...found.columns.map((column) => columnOf(column, counts)));
    const shared = [...counts.values()].filter((count) => count > 1).length;
    say(found.columns.length > 1
      ? `${found.columns.length} lists; ${shared} items are in more than one, in bold.` : "One list.");
  } catch (error) {
    if (mine === busy) { say(error.message, true); at("columns").replaceChildren(); }
  }
});

ask("api/about").then((about) => {
  at("about").textContent = `Data set ${about.dataset}, ${about.items.toLocaleString("en")} items. ` +
    "Pick a user or name titles; everything works by keyboard.";
  at("users").replaceChildren(...about.users.map((user) => { const o = make("option"); o.value = user; return o; }));
  at("set").replaceChildren(...Object.entries(about.sets).map(([name, columns]) => {
    const option = make("option", `${name}: ${columns.join(", ")}`);
    option.value = name;
    return option;
  }));
  const wanted = new URLSearchParams(location.search);
  for (const name of ["user", "instruction", "set", "k"]) if (wanted.has(name)) at(name).value = wanted.get(name);
  (wanted.get("history") || "").split(";").map((t) => t.trim()).filter(Boolean).forEach((t) => history_.push(t));
  drawHistory();
  if (history_.length || at("user").value) at("ask").requestSubmit();
  else at("title").focus();
}).catch((error) => say(error.message, true));
