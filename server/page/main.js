// What belongs together: the key, the watch, the sessions and the streams.

import { json, key } from "./api.js";
import { Chat } from "./chat.js";
import { Streams } from "./life.js";
import { Link, Watch } from "./watch.js";
import { sentence } from "./words.js";

const part = (id) => document.getElementById(id);
const TICK_MS = window.matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 200;
const KEY_SAYS = part("key-says").cloneNode(true);

const chat = new Chat(part("sessions"), part("new-session"), (text) => { part("said").textContent = text; });
const streams = new Streams(
  part("streams"), part("more-streams"), part("streams-say"), part("window"), (life) => chat.seen(life),
);

const watch = new Watch({
  onList(list) {
    streams.list(list);
    chat.allSeen(new Set(list.data.map((view) => view.trace_id)));
    askModels();
  },
  onStream: (view) => streams.change(view),
  onLink,
});

let retryAt = null;

function onLink(link, why, waitS = null) {
  const wasWrong = part("link").className === Link.WRONG;
  part("link").className = link;
  part("link").textContent = sentence(why);
  retryAt = waitS === null ? null : performance.now() + waitS * 1000;
  part("link-now").hidden = link !== Link.WAITING;
  streams.stale(link !== Link.LIVE);
  const isWrong = link === Link.WRONG;
  part("key").setAttribute("aria-invalid", String(isWrong));
  part("key-says").className = isWrong ? "wrong" : "";
  if (isWrong) {
    part("link").textContent = "Not connected.";
    part("key-says").textContent = sentence(why);
    part("said").textContent = sentence(why);
    part("key").focus();
    return;
  }
  part("key-says").replaceChildren(...KEY_SAYS.cloneNode(true).childNodes);
  // What was said of the key holds no more.
  if (wasWrong) part("said").textContent = sentence(why);
}

async function askModels() {
  const says = part("models-say");
  try {
    const { models } = await json("api/tags");
    chat.models(models);
    says.textContent = models.length ? "" : "Ollama has no model: pull one.";
  } catch (error) {
    says.textContent = sentence(`Its models are not known: ${error.message}`);
  }
}

part("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(part("key").value.trim());
  part("link").textContent = "Connecting…";
  watch.start();
});
part("link-now").addEventListener("click", () => watch.now());

setInterval(() => {
  streams.tick();
  chat.tick();
  if (retryAt === null) return;
  const leftS = Math.max(Math.ceil((retryAt - performance.now()) / 1000), 0);
  const why = part("link").textContent.replace(/ Again in \d+ s\.$/, "");
  part("link").textContent = `${why} Again in ${leftS} s.`;
}, TICK_MS);

part("key").value = key.get();
if (key.get()) watch.start();
else part("key").focus();
