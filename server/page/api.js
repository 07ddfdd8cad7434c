// How the server is asked, and how its answers are read: as JSON, or as messages (server-sent events).

// What a message may be besides an object.
export const DONE = "[DONE]";
export const PING = ": ping";

const KEY = "onestream.key";

// Of this tab alone; a copy of the tab gets one, other tabs do not.
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
};

// An answer that is an error, or none: status 0 where the server could not be reached.
export class Refusal extends Error {
  constructor(status, code, message, retryAfterS = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

// The response, with its body yet to be read. Throws Refusal, or AbortError.
export async function ask(path, { method = "GET", body = null, headers = {}, signal = null } = {}) {
  const all = { authorization: `Bearer ${key.get()}`, ...headers };
  if (body) all["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method, signal, headers: all, body: body && JSON.stringify(body),
      cache: "no-store", credentials: "omit", redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    // A key of other characters cannot be sent at all.
    const isSendable = /^[\x21-\x7e]*$/.test(key.get());
    throw isSendable
      ? new Refusal(0, "unreachable", "The server cannot be reached.")
      : new Refusal(401, "invalid_api_key", "A key is printable ASCII without spaces.");
  }
  if (!response.ok) throw await refusalOf(response);
  return response;
}

export async function json(path, options) {
  const response = await ask(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "cut", "The answer broke off.");
  }
}

async function refusalOf(response) {
  let error = {};
  try {
    const body = await response.json();
    // Under /api the error is a text, with its code next to it.
    error = typeof body.error === "string" ? { message: body.error, code: body.code } : body.error;
  } catch {
    // Of somebody between the server and here.
  }
  const message = error?.message ?? `The answer was ${response.status} ${response.statusText}.`;
  const after = Number.parseFloat(response.headers.get("retry-after"));
  return new Refusal(response.status, error?.code ?? `http_${response.status}`, message,
    Number.isFinite(after) ? after : null);
}

// The messages of a response: objects, DONE and PING. Ends without DONE where the connection does;
// throws where it breaks.
export async function* messages(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
        else if (line.startsWith(":")) yield PING;
        else if (line === "" && data.length) {
          const text = data.join("\n");
          data = [];
          yield text === DONE ? DONE : JSON.parse(text);
        }
      }
    }
  } finally {
    // Closes the connection: the server hears that its client has left.
    reader.cancel().catch(() => {});
  }
}
