// Pixels that show a chart's head and some rows.
const ROOM_MIN = 240;

// One object for each counterexample of the page: what is selected, what is drawn between lanes.
class Story {
  constructor(section) {
    this.section = section;
    this.data = JSON.parse(section.querySelector(".data").textContent);
    this.sources = JSON.parse(section.querySelector(".sources").textContent);
    this.chart = section.querySelector(".chart");
    this.detail = section.querySelector(".detail");
    this.steps = [...section.querySelectorAll(".step")];
    // Rows of the program's table, by the labels that are reached with them.
    this.rules = new Map([...section.querySelectorAll(".rules tbody tr")].map((row) => [row.dataset.label, row]));
    this.selected = null;
    this.wires = new Map();
    // Whom the facts name.
    this.named = JSON.parse(section.dataset.named);
    const overview = section.querySelector(".overview");
    this.overview = overview && new Overview(overview, this);
    this.search = new Search(section, this);
    this.lanes = new Lanes(section, this);
    this.earlier = section.querySelector(".earlier");
    this.listen();
    this.draw();
    this.open();
  }

  // At the violation, with the rows before it in view, without a move of the page; beside it the
  // values then: where it went wrong stands above.
  open() {
    const shown = this.shown();
    const first = shown.find((step) => step.matches(".violation")) || shown[0];
    if (!first) return;
    this.fit();
    this.select(first, false);
    this.chart.scrollTop += first.getBoundingClientRect().bottom - this.chart.getBoundingClientRect().bottom + 8;
    const values = this.values(Number(first.dataset.step), "values at the violation");
    if (this.section.querySelector(".source") && values.length) this.detail.replaceChildren(...values);
    this.look();
  }

  // What of it is in view: how many rows are above that.
  look() {
    const top = this.chart.querySelector(".head").getBoundingClientRect().bottom;
    const above = this.shown().filter((step) => step.getBoundingClientRect().bottom <= top + 4).length;
    this.earlier.hidden = above === 0;
    this.earlier.textContent = `↑ ${above} ${above === 1 ? "row" : "rows"} before: go to the beginning`;
    this.overview?.look();
  }

  // Down to the end of the window, where that is far enough: of the page's first one, or of the one
  // in which a link to it shows it.
  fit() {
    const top = this.chart.getBoundingClientRect().top;
    const above = [top + window.scrollY, top - this.section.getBoundingClientRect().top];
    const room = above.map((each) => window.innerHeight - each - 8).find((each) => each >= ROOM_MIN);
    if (room) this.chart.style.setProperty("--room", `${room}px`);
  }

  // Those that can be selected: not hidden, and of this execution.
  shown() {
    return this.steps.filter((step) => step.offsetParent && !step.matches(".only-there"));
  }

  listen() {
    this.chart.addEventListener("click", (event) => {
      const step = event.target.closest(".step:not(.only-there)");
      if (step) this.select(step, false);
    });
    for (const button of this.section.querySelectorAll(".go"))
      button.addEventListener("click", () => {
        const { choice, step } = button.dataset;
        if (step !== undefined) this.select(this.steps[Number(step)]);
        else this.toChoice(Number(choice));
      });
    for (const button of this.section.querySelectorAll(".copy"))
      button.addEventListener("click", () => copy(button));
    const minor = this.section.querySelector("input.every");
    if (minor)
      minor.addEventListener("change", () => {
        this.section.classList.toggle("all", minor.checked);
        this.lanes.lay();
        this.search.find();
        this.redraw();
      });
    this.earlier.addEventListener("click", () => {
      this.select(this.shown()[0]);
      this.chart.scrollTop = 0;
      this.chart.focus();
    });
    this.chart.addEventListener("scroll", () => this.look(), { passive: true });
    window.addEventListener("resize", () => this.redraw());
  }

  redraw() {
    this.draw();
    this.look();
  }

  key(event) {
    switch (event.key) {
      case "ArrowDown": case "j": return this.move(1);
      case "ArrowUp": case "k": return this.move(-1);
      case "Home": return this.select(this.shown()[0]);
      case "End": return this.select(this.shown().at(-1));
      case "d": return this.toNext(".departs");
      case "f": return this.toNext(".differs");
      case "/": this.search.input.focus(); return true;
      default: return false;
    }
  }

  move(by) {
    const shown = this.shown();
    const at = shown.indexOf(this.selected);
    return this.select(shown[Math.min(Math.max(at + by, 0), shown.length - 1)]);
  }

  // The next one of a kind, and after the last the first; or the one before.
  toNext(kind, isBack = false) {
    const of = this.shown().filter((step) => step.matches(kind));
    if (isBack) of.reverse();
    const here = Number(this.selected?.dataset.step ?? -1);
    const after = of.find((step) => (isBack ? Number(step.dataset.step) < here : Number(step.dataset.step) > here));
    return this.select(after || of[0]);
  }

  toChoice(index) {
    const number = this.data.findIndex((step) => step.choices.some((choice) => choice.index === index));
    if (number < 0) return;
    const step = this.steps[number];
    if (step.matches(".minor") && !this.section.matches(".all")) this.section.querySelector("input.every").click();
    this.select(step);
  }

  select(step, scrolls = true) {
    if (!step) return true;
    this.selected?.classList.remove("selected");
    this.selected?.removeAttribute("aria-current");
    this.selected = step;
    step.classList.add("selected");
    step.setAttribute("aria-current", "step");
    if (scrolls) step.scrollIntoView({ block: "nearest", inline: "nearest" });
    const number = Number(step.dataset.step);
    for (const [to, path] of this.wires) path.classList.toggle("now", to === number);
    this.light(number);
    this.tell(this.data[number], step);
    this.search.tell();
    this.look();
    return true;
  }

  // ---- the step that is selected

  // The rows that it takes, and those that were not taken yet.
  light(number) {
    const before = new Set(this.data.slice(0, number + 1).flatMap((step) => step.labels));
    for (const [label, row] of this.rules) {
      row.classList.toggle("lit", this.data[number].labels.includes(label));
      row.classList.toggle("later", !before.has(label));
    }
  }

  // A rule with what it says.
  reached(label) {
    const row = this.rules.get(label);
    return row ? `${row.cells[0].textContent}: ${row.cells[1].textContent}` : label;
  }

  tell(step, element) {
    const parts = [heading(`${step.actor || "passing"}: ${step.text}`)];
    if (step.place) parts.push(...this.source(step.place));
    for (const choice of step.choices) parts.push(...options(choice));
    if (step.labels.length) parts.push(heading("reached"), list(step.labels.map((label) => this.reached(label))));
    parts.push(...this.values(Number(element.dataset.step)));
    parts.push(...titled("meanwhile", step.held));
    parts.push(...titled("tasks", step.tasks.map(([name, does]) => `${name} ${does}`)));
    parts.push(...titled("ready to run, in this order", step.ready, "ol"));
    parts.push(...titled("timers", step.timers));
    this.detail.replaceChildren(...parts);
  }

  // ---- values

  // After the step; those of before it that are others now, or gone, are marked.
  values(number, title = "values after this step") {
    const now = this.valuesAt(number);
    const above = this.shown().filter((step) => Number(step.dataset.step) < number).at(-1);
    const before = above ? this.valuesAt(Number(above.dataset.step)) : new Map();
    // Of whom something is left: who is over has nothing to tell.
    const left = new Set([...now.keys()].map((key) => JSON.parse(key)[0]));
    const gone = [...before.keys()].filter((key) => !now.has(key) && left.has(JSON.parse(key)[0]));
    if (!now.size && !gone.length) return [];
    const keys = [...now.keys(), ...gone].map((key) => [key, ...JSON.parse(key)]);
    const owners = [...new Set(keys.map(([, owner]) => owner))];
    const isNamed = (owner) => this.named.some((name) => owner === name || owner.startsWith(`${name},`));
    owners.sort((one, other) => isNamed(other) - isNamed(one));
    keys.sort((one, other) => owners.indexOf(one[1]) - owners.indexOf(other[1]));
    const isChanged = (key) => above !== undefined && now.get(key) !== before.get(key);
    // Of an actor that is not in question, and does nothing here; the program's are shared by all.
    const aside = (owner) =>
      this.lanes.names.some((name) => owner === name || owner.startsWith(`${name},`)) &&
      !isNamed(owner) && owner.split(",")[0] !== "program" && owner !== this.data[number].actor && !keys.some(([key, of]) => of === owner && isChanged(key));
    const others = new Set(this.named.length ? owners.filter(aside) : []);
    if (others.size === owners.length) others.clear();
    const tableOf = (some) => this.table(some, now, before, isChanged, above !== undefined);
    const table = tableOf(keys.filter(([, owner]) => !others.has(owner)));
    const isMarked = table.querySelector(".changed") !== null;
    const parts = [heading(isMarked ? `${title}; marked: changed since the row above` : title), table];
    if (others.size) {
      const folded = make("details");
      folded.append(make("summary", "", `of others: ${[...others].join(", ")}`), tableOf(keys.filter(([, owner]) => others.has(owner))));
      parts.push(folded);
    }
    return parts;
  }

  table(keys, now, before, isChanged, hasBefore) {
    const table = make("table", "values");
    let group = null;
    for (const [key, owner, name] of keys) {
      if (owner && owner !== group) {
        const head = table.insertRow();
        head.append(make("th", "", owner));
        head.cells[0].colSpan = 2;
      }
      group = owner;
      const row = table.insertRow();
      const finds = make("button", "", name);
      finds.type = "button";
      finds.title = "search for the steps that change it";
      finds.addEventListener("click", () => this.search.for(name));
      row.insertCell().append(finds);
      row.append(value(now.get(key), before.get(key), hasBefore));
      if (isChanged(key)) row.className = "changed";
    }
    return table;
  }

  valuesAt(number) {
    const values = new Map();
    for (const step of this.data.slice(0, number + 1))
      for (const [owner, name, text] of step.changed)
        if (text === null) values.delete(JSON.stringify([owner, name]));
        else values.set(JSON.stringify([owner, name]), text);
    return values;
  }

  source([file, line, name], around = 7) {
    const lines = this.sources[file] || {};
    const pre = make("pre");
    pre.tabIndex = 0;
    const near = Object.keys(lines).map(Number).filter((number) => Math.abs(number - line) <= around);
    const indents = near.filter((number) => lines[number].trim()).map((number) => lines[number].search(/\S/));
    for (const number of near) {
      const row = make("span", number === line ? "line here" : "line");
      const text = lines[number].slice(Math.min(...indents));
      row.style.setProperty("--in", Math.max(text.search(/\S/), 0));
      row.append(make("span", "at", String(number)), text);
      pre.append(row);
    }
    return [make("div", "", `${name}, ${file}:${line}`), pre];
  }

  // ---- arrows from what caused a step, where that was another's

  draw() {
    this.chart.querySelector(".wires")?.remove();
    this.wires.clear();
    const box = this.chart.querySelector(".steps");
    const wires = svg("svg", "wires");
    wires.setAttribute("aria-hidden", "true");
    wires.innerHTML = '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>';
    const origin = box.getBoundingClientRect();
    const which = this.section.matches(".all") ? 1 : 0;
    this.data.forEach((step, number) => {
      if (step.causes[which] === null) return;
      const from = this.act(step.causes[which]), to = this.act(number);
      if (!from || !to) return;
      const path = svg("path", "");
      path.setAttribute("d", curve(from, to, origin));
      path.setAttribute("marker-end", "url(#tip)");
      wires.append(path);
      this.wires.set(number, path);
    });
    box.append(wires);
  }

  act(number) {
    const step = this.steps[number];
    return step?.offsetParent ? step.querySelector(".box")?.getBoundingClientRect() : null;
  }
}

// From below the one to above the other, behind the boxes that lie between.
function curve(from, to, origin) {
  const x1 = from.left + 12 - origin.left, y1 = from.bottom - origin.top;
  const x2 = to.left + 24 - origin.left, y2 = to.top - origin.top;
  const middle = (y1 + y2) / 2;
  return `M${x1},${y1} C${x1},${middle} ${x2},${middle} ${x2},${y2}`;
}

function options(choice) {
  const names = choice.options.map((option, at) => {
    const said = [at === choice.taken ? "taken" : "", at === 0 ? "natural" : ""].filter(Boolean);
    return make("li", at === choice.taken ? "taken" : "", option + (said.length ? ` (${said.join(", ")})` : ""));
  });
  const all = make("ul");
  all.append(...names);
  return [heading(`free at choice point ${choice.index} (${choice.kind})${choice.cost ? ": a departure" : ""}`), all];
}

function make(name, kind = "", text = "") {
  const element = document.createElement(name);
  if (kind) element.className = kind;
  element.textContent = text;
  return element;
}

function heading(text) {
  return make("h3", "", text);
}

function list(texts, name = "ul") {
  const all = make(name);
  all.append(...texts.map((text) => make("li", "", text)));
  return all;
}

// A long one is folded.
const LONG = 5;

function titled(title, texts, name = "ul") {
  if (!texts.length) return [];
  if (texts.length <= LONG) return [heading(title), list(texts, name)];
  const folded = make("details");
  folded.append(make("summary", "", `${title} (${texts.length})`), list(texts, name));
  return [folded];
}

// What it is, and what it was where that is something else.
function value(now, before, hasBefore) {
  const cell = make("td");
  if (hasBefore && before !== undefined && before !== now) cell.append(make("del", "", before), " → ");
  cell.append(now === undefined ? make("i", "", "gone") : now);
  return cell;
}

async function copy(button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(button.dataset.text);
    button.textContent = "Copied";
  } catch {
    window.prompt("Copy it from here:", button.dataset.text);
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}

const stories = [...document.querySelectorAll(".story")].map((section) => new Story(section));

// What is folded has no size until it is opened, by hand or by a link to it.
for (const folded of document.querySelectorAll(".same")) {
  const story = stories.find(({ section }) => folded.contains(section));
  folded.addEventListener("toggle", () => {
    if (!folded.open) return;
    story.draw();
    story.open();
  });
}

function unfold() {
  const folded = document.getElementById(location.hash.slice(1))?.closest(".same");
  if (folded) folded.open = true;
}
window.addEventListener("hashchange", unfold);
unfold();

// Keys go to the story that is in view.
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, textarea, summary") || event.ctrlKey || event.metaKey || event.altKey) return;
  const middle = window.innerHeight / 2;
  const story = stories.find((each) => {
    const box = each.section.getBoundingClientRect();
    return box.top < middle && box.bottom > 0;
  });
  if (story && story.key(event)) event.preventDefault();
});
