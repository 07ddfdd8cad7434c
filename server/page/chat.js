// The sessions side by side: prompts, answers, and what became of each.

import { DONE, PING, Refusal, ask, json, messages } from "./api.js";
import { drawText } from "./blocks.js";
import { cancel, drawState } from "./life.js";
import { OPEN_MAX, Outbox } from "./outbox.js";
import { NOT_TAKEN, TROUBLES, WHOLE, seconds, set, told } from "./words.js";

const STORE = "onestream.sessions";
// So that each may have an answer open.
const SESSIONS_MAX = OPEN_MAX;
const TURNS_KEPT = 40;
// A stop whose request finds no connection free, as other tabs have them, closes the one of its
// stream.
const STOP_PATIENCE_MS = 1500;
// From then on it is said that nothing comes.
const SILENT_MS = 3000;
const FAKE = "fake:";
const EMPTY = "The answer is empty.";
const WHAT_SEND_DOES = {
  interrupt: "stops the answer that streams",
  enqueue: "waits until the answer is over",
  reject: "is refused while an answer streams",
};

// One prompt and its answer. `outcome` is null until the answer is over: {code, message}.
class Turn {
  constructor(session, kept) {
    this.session = session;
    this.prompt = kept.prompt;
    this.text = kept.text ?? "";
    this.thoughts = kept.thoughts ?? "";
    this.traceId = kept.traceId ?? null;
    this.outcome = kept.outcome ?? null;
    this.lastedMs = kept.lastedMs ?? null;
    this.sentAt = this.heardAt = performance.now();
    // What it is to be sent with; null once it is, or was by an earlier page.
    this.unsent = null;
    // Its answer comes in this connection; null for one that an earlier page asked for.
    this.connection = null;
    this.life = null;
    this.element = document.getElementById("turn-template").content.firstElementChild.cloneNode(true);
    drawText(this.part(".asked"), this.prompt);
    this.draw();
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  kept() {
    const { prompt, text, thoughts, traceId } = this;
    const outcome = this.unsent ? { code: "unsent", message: null } : this.outcome;
    return { prompt, text, thoughts, traceId, outcome, lastedMs: this.clockMs() };
  }

  get isOpen() {
    return this.outcome === null;
  }

  // Whole, and without a word.
  get isEmpty() {
    return WHOLE.has(this.outcome?.code) && !this.text && !this.thoughts;
  }

  // -- its answer

  async run() {
    const { body, headers } = this.unsent;
    this.unsent = null;
    this.sentAt = this.heardAt = performance.now();
    this.connection = new AbortController();
    this.draw();
    try {
      const options = { method: "POST", body, headers, signal: this.connection.signal };
      const response = await ask("v1/chat/completions", options);
      this.traceId = response.headers.get("x-trace-id");
      this.end(await this.read(response));
    } catch (error) {
      this.end(outcomeOf(error));
    }
  }

  async read(response) {
    let outcome = null;
    for await (const message of messages(response)) {
      if (message === PING) continue;
      if (message === DONE) return outcome ?? { code: "stop", message: null };
      if (message.error) outcome = { code: message.error.code, message: message.error.message };
      const choice = message.choices?.[0];
      if (choice?.finish_reason) outcome = { code: choice.finish_reason, message: null };
      if (choice?.delta) this.add(choice.delta);
    }
    return { code: "cut", message: null };
  }

  add({ content, reasoning_content: thoughts }) {
    if (!content && !thoughts) return;
    this.heardAt = performance.now();
    this.text += content ?? "";
    this.thoughts += thoughts ?? "";
    this.session.scrolled(() => this.draw());
    this.session.changed();
  }

  end(outcome) {
    if (!this.isOpen) return;
    this.lastedMs = this.clockMs();
    this.outcome = outcome;
    this.connection = null;
    this.session.scrolled(() => this.draw());
    this.session.ended(this);
  }

  async stop() {
    if (this.unsent) {
      this.withdraw("cancelled");
      return;
    }
    const { connection } = this;
    setTimeout(() => this.isOpen && connection?.abort(), STOP_PATIENCE_MS);
    if (this.traceId === null) {
      connection?.abort();
      return;
    }
    try {
      await cancel(this.traceId);
    } catch {
      connection?.abort();
    }
  }

  // It is not sent any more.
  withdraw(code) {
    this.session.chat.outbox.withdraw(this);
    this.unsent = null;
    this.end({ code, message: null });
  }

  // -- what the watch says

  async seen(life) {
    this.life = life;
    this.traceId = life.view.trace_id;
    this.draw();
    // The page that asked for it is gone, and the connection with it.
    if (this.isOpen && this.connection === null) await this.fetchText();
  }

  async fetchText() {
    try {
      const { text, state, reason, message } = await json(`v1/streams/${encodeURIComponent(this.traceId)}`);
      if (text.length > this.text.length) this.text = text;
      this.draw();
      if (state === "ENDED") this.end({ code: reason ?? "stop", message });
    } catch (error) {
      if (error instanceof Refusal && error.status === 404) this.end(outcomeOf(error));
    }
  }

  // -- how it looks

  clockMs() {
    if (this.life && !this.life.isOver) return this.life.lastedMs();
    if (this.lastedMs !== null) return this.lastedMs;
    return this.life ? this.life.lastedMs() : performance.now() - this.sentAt;
  }

  state() {
    const { life, outcome } = this;
    if (this.unsent) return "UNSENT";
    if (outcome === null) return life && !life.isOver ? life.view.state : "SENDING";
    // A stream that is told to stop outlives its answer.
    return life && ["STOPPING", "DETACHED"].includes(life.view.state) ? life.view.state : "ENDED";
  }

  draw() {
    drawText(this.part(".answer"), this.text);
    this.part(".thoughts").hidden = !this.thoughts;
    set(this.part(".thoughts .text"), this.thoughts);
    drawState(this.part(".state"), this.state(), this.outcome?.code ?? null);
    this.element.classList.toggle("busy", this.isOpen && this.state() === "ACTIVE");
    set(this.part(".why"), this.why());
    this.tick();
  }

  why() {
    if (this.outcome) return this.isEmpty ? EMPTY : told(this.outcome.code, this.outcome.message);
    if (this.unsent) return `sent when one of ${OPEN_MAX} answers is over: a browser has six connections`;
    const place = this.life?.view.queue_position;
    if (this.state() === "WAITING") return place ? `number ${place} of those that wait` : "";
    const silentMs = performance.now() - this.heardAt;
    return silentMs > SILENT_MS ? `silent for ${Math.floor(silentMs / 1000)} s` : "";
  }

  tick() {
    set(this.part(".clock"), seconds(this.clockMs()));
    if (this.isOpen) set(this.part(".why"), this.why());
  }
}

function outcomeOf(error) {
  if (error instanceof Refusal) return { code: error.code, message: error.message };
  if (error.name === "AbortError") return { code: "cancelled", message: null };
  return { code: "cut", message: null };
}

// A column: the turns of one session, and what the next prompt is sent with.
class Session {
  constructor(chat, kept) {
    this.chat = chat;
    this.id = kept.id;
    this.wanted = kept.model ?? "";
    this.element = document.getElementById("session-template").content.firstElementChild.cloneNode(true);
    this.element.setAttribute("aria-label", `session ${this.id}`);
    set(this.part(".name"), this.id);
    this.holder = this.part(".holder");
    this.list = this.part(".turns");
    this.list.setAttribute("aria-label", `prompts of ${this.id}`);
    this.input = this.part(".prompt");
    this.input.setAttribute("aria-label", `Prompt of ${this.id}`);
    this.model = this.part(".model");
    this.strategy = this.part(".strategy");
    this.strategy.value = kept.strategy ?? "interrupt";
    this.turns = (kept.turns ?? []).map((turn) => new Turn(this, turn));
    this.list.append(...this.turns.map((turn) => turn.element));
    this.listen();
    this.drawModels();
    this.draw();
  }

  // Once it is in the page.
  toEnd() {
    this.list.scrollTop = this.list.scrollHeight;
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  listen() {
    this.part(".composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.send();
      }
    });
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
    });
    this.part(".stop").addEventListener("click", () => this.stop());
    this.part(".close").setAttribute("aria-label", `Close ${this.id}`);
    this.part(".close").addEventListener("click", () => this.chat.close(this));
    this.strategy.addEventListener("change", () => this.changed());
    this.model.addEventListener("change", () => {
      this.wanted = this.model.value;
      this.changed();
    });
  }

  kept() {
    const turns = this.turns.slice(-TURNS_KEPT).map((turn) => turn.kept());
    return { id: this.id, model: this.wanted, strategy: this.strategy.value, turns };
  }

  open() {
    return this.turns.filter((turn) => turn.isOpen);
  }

  send() {
    const prompt = this.input.value.trim();
    if (!prompt) return;
    this.input.value = "";
    const body = { messages: this.conversation(prompt), stream: true };
    if (this.wanted) body.model = this.wanted;
    const strategy = this.strategy.value;
    const headers = { "x-session-id": this.id, "x-session-strategy": strategy };
    const isBusy = this.open().some((turn) => turn.connection);
    // As the server does with those that wait there.
    if (strategy === "interrupt") for (const turn of this.open()) if (turn.unsent) turn.withdraw("superseded");
    const turn = new Turn(this, { prompt });
    turn.unsent = { body, headers };
    this.turns.push(turn);
    this.list.append(turn.element);
    this.toEnd();
    this.chat.outbox.send(turn, isBusy && strategy !== "enqueue");
    turn.draw();
    this.changed();
  }

  // What was said so far: an answer that was stopped counts as far as it came.
  conversation(prompt) {
    const said = this.turns.filter((turn) => turn.text).flatMap((turn) => [
      { role: "user", content: turn.prompt },
      { role: "assistant", content: turn.text },
    ]);
    return [...said, { role: "user", content: prompt }];
  }

  // The one that holds the session, not those behind it.
  stop() {
    this.open()[0]?.stop();
  }

  // -- what happens

  ended(turn) {
    this.changed();
    const { code, message } = turn.outcome;
    // Nobody has it: it can be sent again as it is.
    if (NOT_TAKEN.has(code) && !this.input.value) this.input.value = turn.prompt;
    const what = WHOLE.has(code) ? "is answered" : `has ended: ${told(code, message)}`;
    this.chat.say(`${this.id}: “${turn.prompt.slice(0, 60)}” ${what}`);
  }

  // It is that of the turn with its name. The server names a stream with the first that it sends,
  // so that until then it is that of the oldest turn without a name.
  seen(life) {
    const name = life.view.trace_id;
    const mayBe = (turn) => turn.isOpen && !turn.unsent && turn.traceId === null
      && (turn.connection === null || life.begunAt > turn.sentAt - 500);
    const turn = this.turns.find((each) => each.traceId === name) ?? this.turns.find(mayBe);
    turn?.seen(life);
    this.draw();
  }

  // All streams that there are were seen.
  allSeen(names) {
    for (const turn of this.open()) {
      if (turn.connection || turn.unsent) continue;
      if (turn.traceId === null) turn.end({ code: "reloaded", message: null });
      else if (!names.has(turn.traceId)) turn.fetchText();
    }
  }

  changed() {
    this.draw();
    this.chat.keep();
  }

  // -- how it looks

  draw() {
    const open = this.open();
    this.part(".stop").disabled = !open.length;
    drawState(this.holder, open[0]?.state() ?? "", null);
    const send = this.part(".send");
    send.title = open.length ? `It ${WHAT_SEND_DOES[this.strategy.value]}` : "";
    set(this.part(".trouble"), this.wanted.startsWith(FAKE) ? TROUBLES[this.wanted.slice(FAKE.length)] ?? "" : "");
  }

  drawModels() {
    const groups = this.chat.groups.map(([label, names]) => {
      const group = document.createElement("optgroup");
      group.label = label;
      group.append(...names.map((name) => new Option(name, name)));
      return group;
    });
    this.model.replaceChildren(new Option("the server's choice", ""), ...groups);
    const isThere = [...this.model.options].some((option) => option.value === this.wanted);
    if (!isThere) this.model.append(new Option(this.wanted, this.wanted));
    this.model.value = this.wanted;
  }

  // Does it, and stays at the end of the list if it was there.
  scrolled(change) {
    const { list } = this;
    const wasAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    change();
    if (wasAtEnd) list.scrollTop = list.scrollHeight;
  }

  tick() {
    for (const turn of this.turns) if (turn.isOpen || turn.state() !== "ENDED") turn.tick();
  }
}

export class Chat {
  // say: to readers who do not see the page.
  constructor(parent, add, say) {
    this.parent = parent;
    this.add = add;
    this.say = say;
    // [label, names]: Ollama's models, and the troubles of the fake one.
    this.groups = [];
    this.keeping = null;
    this.outbox = new Outbox();
    const kept = JSON.parse(sessionStorage.getItem(STORE) ?? "null") ?? { tab: word(), serial: 0, sessions: [] };
    this.tab = kept.tab;
    this.serial = kept.serial;
    this.sessions = kept.sessions.map((each) => new Session(this, each));
    parent.append(...this.sessions.map((each) => each.element));
    for (const each of this.sessions) each.toEnd();
    add.addEventListener("click", () => this.open().input.focus());
    window.addEventListener("pagehide", () => this.keepNow());
    while (this.sessions.length < 2 && !kept.sessions.length) this.open();
    this.draw();
  }

  open() {
    this.serial += 1;
    const session = new Session(this, { id: `${this.tab}-${this.serial}` });
    this.sessions.push(session);
    this.parent.append(session.element);
    this.draw();
    this.keep();
    return session;
  }

  close(session) {
    for (const turn of session.open()) turn.stop();
    this.sessions = this.sessions.filter((each) => each !== session);
    session.element.remove();
    this.draw();
    this.keep();
    (this.sessions[0]?.input ?? this.add).focus();
  }

  draw() {
    this.add.disabled = this.sessions.length >= SESSIONS_MAX;
    this.add.title = this.add.disabled ? "A browser has six connections to a server: four answers, the watch, and Stop" : "";
  }

  seen(life) {
    this.sessions.find((each) => each.id === life.view.session_id)?.seen(life);
  }

  allSeen(names) {
    for (const session of this.sessions) session.allSeen(names);
  }

  models(models) {
    const chatting = models.filter(({ capabilities }) => !capabilities?.length || capabilities.includes("completion"));
    const isFake = models.length > 0 && models.every((each) => each.details?.family === "fake");
    const troubles = isFake ? Object.keys(TROUBLES).map((name) => FAKE + name) : [];
    const names = chatting.map((each) => each.name).filter((name) => !troubles.includes(name));
    this.groups = [["Ollama's models", names]];
    if (isFake) this.groups.push(["What the fake Ollama can do wrong", troubles]);
    for (const session of this.sessions) session.drawModels();
  }

  tick() {
    for (const session of this.sessions) session.tick();
  }

  // Soon: each chunk asks for it.
  keep() {
    this.keeping ??= setTimeout(() => this.keepNow(), 300);
  }

  keepNow() {
    clearTimeout(this.keeping);
    this.keeping = null;
    const { tab, serial } = this;
    const all = { tab, serial, sessions: this.sessions.map((each) => each.kept()) };
    try {
      sessionStorage.setItem(STORE, JSON.stringify(all));
    } catch {
      // It is full: what was kept before stays.
    }
  }
}

function word() {
  const numbers = crypto.getRandomValues(new Uint8Array(4));
  return `page-${[...numbers].map((each) => (each % 36).toString(36)).join("")}`;
}
