// The watch of the own key's streams: one connection, made again whenever it ends.

import { DONE, ask, messages } from "./api.js";

const WAIT_MIN_S = 0.5;
const WAIT_MAX_S = 20;
// What is silent for longer than this is dead, whatever stands between: three pings of the server
// that have not come, if it says how often it sends one, and never less than this.
const SILENT_MIN_S = 65;
const PINGS_MISSED = 3;
// The longest that a browser's timer can be set to.
const TIMER_MAX_MS = 2 ** 31 - 1;

// The ways in which it is connected.
export const Link = { LIVE: "live", WAITING: "waiting", CLOSED: "closed", WRONG: "wrong" };

export class Watch {
  // onList, onStream: with a message. onLink: with a Link, a sentence, and the seconds to the next
  // attempt.
  constructor({ onList, onStream, onLink }) {
    this.onList = onList;
    this.onStream = onStream;
    this.onLink = onLink;
    this.waitS = WAIT_MIN_S;
    this.connection = null;
    this.timer = null;
    this.wanted = false;
    // A browser has six connections to a server: a tab that nobody sees leaves its own to others.
    document.addEventListener("visibilitychange", () => this.look());
  }

  start() {
    this.wanted = true;
    this.now();
  }

  // At once, whatever was waited for.
  now() {
    this.waitS = WAIT_MIN_S;
    this.drop();
    this.look();
  }

  look() {
    if (!this.wanted) return;
    if (document.hidden) {
      this.drop();
      this.onLink(Link.CLOSED, "Not watched while the tab is hidden.");
    } else if (!this.connection && !this.timer) this.connect();
  }

  drop() {
    clearTimeout(this.timer);
    this.timer = null;
    this.connection?.abort();
    this.connection = null;
  }

  async connect() {
    const connection = this.connection = new AbortController();
    let end;
    try {
      end = await this.read(connection);
    } catch (error) {
      end = error;
    }
    // It was dropped, or there is another by now.
    if (this.connection !== connection) return;
    this.connection = null;
    this.ended(end);
  }

  // Why it has ended.
  async read(connection) {
    let silent = null;
    let silentMs = SILENT_MIN_S * 1000;
    const heard = () => {
      clearTimeout(silent);
      silent = setTimeout(() => connection.abort(), silentMs);
    };
    try {
      heard();
      const response = await ask("v1/streams?watch", { signal: connection.signal });
      silentMs = silentMsOf(response.headers.get("x-ping-seconds"));
      heard();
      let error = null;
      for await (const message of messages(response)) {
        heard();
        if (message === DONE) return error;
        if (message.error) error = message.error;
        else if (message.object === "list") this.live(message);
        else if (message.object === "stream") this.onStream(message);
      }
      return error;
    } finally {
      clearTimeout(silent);
    }
  }

  live(list) {
    this.waitS = WAIT_MIN_S;
    const what = list.workers === "all" ? "Live." : "Live, of one worker of several.";
    this.onLink(Link.LIVE, list.message ? `${what} ${list.message}` : what);
    this.onList(list);
  }

  ended(error) {
    if (error?.status === 401 || error?.status === 403) {
      this.wanted = false;
      this.onLink(Link.WRONG, error.message, null, error);
      return;
    }
    const waitS = Math.max(this.waitS * (0.75 + Math.random() / 2), error?.retryAfterS ?? 0);
    this.waitS = Math.min(this.waitS * 2, WAIT_MAX_S);
    const why = error?.message && error.name !== "AbortError" && !(error instanceof TypeError)
      ? error.message : "The connection has ended.";
    this.onLink(Link.WAITING, why, waitS);
    this.timer = setTimeout(() => {
      this.timer = null;
      this.look();
    }, waitS * 1000);
  }
}

function silentMsOf(pingSeconds) {
  const pingS = Number.parseFloat(pingSeconds) || 0;
  return Math.min(Math.max(SILENT_MIN_S, PINGS_MISSED * pingS) * 1000, TIMER_MAX_MS);
}
