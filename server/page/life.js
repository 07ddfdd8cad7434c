// The streams of the key: what is known of each, and the table of their lives.

import { ask, json } from "./api.js";
import { WHOLE, set, told } from "./words.js";

// The shortest of these that all shows that runs, or ran lately.
const WINDOWS_S = [10, 20, 30, 60, 120];
const LATELY_MS = 30_000;
const ROWS_SHOWN = 12;
const KEPT_MAX = 400;

// One stream. Its times are milliseconds since its register; `begunAt` is by this page's clock.
export class Life {
  constructor(view) {
    this.view = view;
    this.begunAt = Infinity;
    // When each state was entered, as far as it was seen.
    this.entered = new Map();
  }

  // isChange: the view is of the moment in which the state changed, or a later one.
  see(view, isChange) {
    this.view = view;
    const { now } = view.timings_ms;
    this.begunAt = Math.min(this.begunAt, performance.now() - now);
    if (isChange && !this.entered.has(view.state)) this.entered.set(view.state, now);
  }

  get isOver() {
    return this.view.state === "ENDED";
  }

  lastedMs() {
    if (!this.isOver) return Math.max(performance.now() - this.begunAt, 0);
    const { ended, now } = this.view.timings_ms;
    return this.entered.get("ENDED") ?? ended ?? now;
  }

  // [what, from, to], in order. LOADING is ACTIVE before the first chunk.
  parts() {
    const { started, first_chunk: first } = this.view.timings_ms;
    const begins = [
      ["WAITING", 0],
      ["LOADING", this.entered.get("ACTIVE") ?? started],
      ["ACTIVE", first],
      ["STOPPING", this.entered.get("STOPPING")],
      ["DETACHED", this.entered.get("DETACHED")],
    ].filter(([, at]) => at !== null && at !== undefined);
    const end = this.lastedMs();
    return begins
      .map(([what, at], number) => [what, at, begins[number + 1]?.[1] ?? end])
      .filter(([, from, to]) => to > from);
  }

  why() {
    const { reason, message } = this.view;
    return reason === null ? "" : told(reason, message);
  }
}

// onSeen: called with each Life that is new or has changed.
export class Streams {
  constructor(body, more, says, span, onSeen) {
    this.body = body;
    this.span = span;
    this.more = more;
    this.says = says;
    this.onSeen = onSeen;
    this.lives = new Map();
    this.rows = new Map();
    this.showsAll = false;
    this.isStale = false;
    more.addEventListener("click", () => {
      this.showsAll = !this.showsAll;
      this.draw();
    });
  }

  list({ data }) {
    const there = new Set(data.map((view) => view.trace_id));
    for (const name of this.lives.keys()) if (!there.has(name)) this.forget(name);
    for (const view of data.toReversed()) this.see(view, false);
    this.draw();
  }

  change(view) {
    this.see(view, true);
    this.draw();
  }

  see(view, isChange) {
    let life = this.lives.get(view.trace_id);
    if (!life) this.lives.set(view.trace_id, life = new Life(view));
    life.see(view, isChange);
    this.onSeen(life);
    this.rows.get(view.trace_id)?.changed();
  }

  // Nothing is known of what happens now.
  stale(isStale) {
    this.isStale = isStale;
    this.body.classList.toggle("stale", isStale);
    this.draw();
  }

  forget(name) {
    this.lives.delete(name);
    this.rows.get(name)?.remove();
    this.rows.delete(name);
  }

  draw() {
    const sorted = [...this.lives.values()].sort((a, b) => b.begunAt - a.begunAt);
    for (const life of sorted.slice(KEPT_MAX)) if (life.isOver) this.forget(life.view.trace_id);
    const shown = this.showsAll ? sorted : sorted.slice(0, ROWS_SHOWN);
    const names = new Set(shown.map((life) => life.view.trace_id));
    for (const [name, row] of this.rows) {
      if (names.has(name)) continue;
      row.remove();
      this.rows.delete(name);
    }
    let before = null;
    for (const life of shown) {
      const name = life.view.trace_id;
      let row = this.rows.get(name);
      if (!row) this.rows.set(name, row = new Row(life));
      row.draw();
      const wanted = before ? before.last.nextSibling : this.body.firstChild;
      if (row.element !== wanted) this.body.insertBefore(row.element, wanted);
      before = row;
    }
    this.more.hidden = sorted.length <= ROWS_SHOWN;
    this.more.textContent = this.showsAll ? `Show the newest ${ROWS_SHOWN}` : `Show all ${sorted.length}`;
    const running = sorted.filter((life) => !life.isOver).length;
    this.says.textContent = sorted.length
      ? `${running} ${this.isStale ? "ran when last heard of" : "running"}, ${sorted.length} known` : "None yet.";
    this.tick(true);
  }

  // The clocks, while something runs.
  tick(isForced = false) {
    const lives = [...this.lives.values()];
    const runs = lives.some((life) => !life.isOver) && !this.isStale;
    if (!runs && !isForced) return;
    const ends = (life) => life.begunAt + life.lastedMs();
    const right = runs ? performance.now() : Math.max(0, ...lives.map(ends));
    const begins = lives.filter((life) => ends(life) > right - LATELY_MS).map((life) => life.begunAt);
    const wantedS = (right - Math.min(right, ...begins)) / 1000;
    const spanS = WINDOWS_S.find((each) => each >= wantedS) ?? WINDOWS_S.at(-1);
    set(this.span, `the last ${spanS} s`);
    for (const row of this.rows.values()) row.tick(right - spanS * 1000, spanS * 1000);
  }
}

class Row {
  constructor(life) {
    this.life = life;
    const name = life.view.trace_id;
    const template = document.getElementById("stream-template");
    this.element = template.content.firstElementChild.cloneNode(true);
    this.cell = (selector) => this.element.querySelector(selector);
    this.shown = null;
    this.show = this.cell(".show");
    this.show.textContent = name.length > 10 ? `${name.slice(0, 8)}…` : name;
    this.show.setAttribute("aria-label", `${name}, its text`);
    this.show.title = name;
    this.show.addEventListener("click", () => this.toggle());
    const stop = this.cell(".stop");
    stop.setAttribute("aria-label", `Stop ${name}`);
    stop.addEventListener("click", () => cancel(name).catch((error) => { this.cell(".why").textContent = error.message; }));
  }

  // Where the next row stands behind.
  get last() {
    return this.shown ?? this.element;
  }

  draw() {
    const { view } = this.life;
    set(this.cell(".of"), view.session_id);
    set(this.cell(".model"), view.model ?? "–");
    drawState(this.cell(".state"), view.state, view.reason);
    set(this.cell(".chunks"), String(view.chunks));
    const place = view.queue_position && view.state === "WAITING" ? `Number ${view.queue_position} of those that wait.` : "";
    set(this.cell(".why"), this.life.why() || place);
    this.cell(".stop").hidden = !["WAITING", "ACTIVE"].includes(view.state);
  }

  // left: when the window begins, of widthMs.
  tick(left, widthMs) {
    const { life } = this;
    set(this.cell(".seconds"), (life.lastedMs() / 1000).toFixed(1));
    const percent = (ms) => Math.min(Math.max(((life.begunAt + ms - left) / widthMs) * 100, 0), 100);
    const parts = life.parts().filter(([, , to]) => life.begunAt + to > left);
    const bar = this.cell(".life");
    while (bar.children.length > parts.length) bar.lastChild.remove();
    parts.forEach(([what, from, to], number) => {
      const span = bar.children[number] ?? bar.appendChild(document.createElement("span"));
      if (span.className !== what) span.className = what;
      span.style.left = `${percent(from)}%`;
      span.style.width = `${percent(to) - percent(from)}%`;
    });
  }

  toggle() {
    if (this.shown) this.shown.remove();
    this.shown = this.shown ? null : this.opened();
    this.show.setAttribute("aria-expanded", String(this.shown !== null));
    if (this.shown) this.element.after(this.shown);
    this.changed();
  }

  opened() {
    const row = document.createElement("tr");
    row.className = "shown";
    row.setAttribute("role", "row");
    const cell = row.insertCell();
    cell.setAttribute("role", "cell");
    cell.colSpan = this.element.cells.length;
    const full = cell.appendChild(document.createElement("p"));
    full.className = "hint";
    const text = document.createElement("div");
    text.className = "text";
    text.tabIndex = 0;
    text.setAttribute("role", "region");
    text.setAttribute("aria-label", `text of ${this.life.view.trace_id}`);
    cell.append(text);
    return row;
  }

  async changed() {
    const box = this.shown?.querySelector(".text");
    if (!box) return;
    const { trace_id: name, message } = this.life.view;
    set(this.shown.querySelector(".hint"), message ? `${name}: ${message}` : name);
    try {
      const { text } = await json(`v1/streams/${encodeURIComponent(name)}`);
      set(box, text || "No text yet.");
    } catch (error) {
      set(box, error.message);
    }
  }

  remove() {
    this.shown?.remove();
    this.element.remove();
  }
}

// Stops a stream by its name. Throws Refusal.
export async function cancel(name) {
  await ask(`v1/streams/${encodeURIComponent(name)}/cancel`, { method: "POST" });
}

export function drawState(element, state, reason) {
  const fails = state === "ENDED" && reason !== null && !WHOLE.has(reason);
  const name = `state ${state}${fails ? " fails" : ""}`;
  if (element.className !== name) element.className = name;
  set(element, fails ? reason : state);
}
