// What codes of the protocol mean to a reader. Of others the server's own sentence says more.

const MEANINGS = {
  stop: "",
  load: "",
  tool_calls: "",
  length: "Cut by the model at its limit of tokens.",
  superseded: "A newer prompt of the session has stopped it.",
  cancelled: "Stopped.",
  shutting_down: "The server ends.",
  session_busy: "Rejected: the session is busy.",
  queue_full: "Rejected: the session's queue is full.",
  queue_timeout: "Its turn in the queue has not come in time.",
  repetition: "A repetition of a prompt that was stopped: it stops nobody.",
  session_lease_lost: "Its worker could not renew the lease: another may have the session.",
  worker_lost: "Its worker is gone.",
  cut: "The connection broke off before the end.",
  unsent: "The page was reloaded before it was sent.",
  reloaded: "The page was reloaded before the server had named the stream.",
};

// The ends of an answer that is whole.
export const WHOLE = new Set(["stop", "length", "load", "tool_calls"]);

// The ends of a prompt that no server has taken.
export const NOT_TAKEN = new Set(["unreachable", "invalid_api_key"]);

// Who has cancelled a stream, as the end of the server's sentence says it.
const WHO = {
  requested_by_client: "Stopped: a client asked for it.",
  client_left: "Stopped: its client has left.",
  client_not_reading: "Stopped: its client did not read.",
};

// One sentence: ours, or the server's where there is none of ours.
export function told(code, message) {
  const who = code === "cancelled" && Object.keys(WHO).find((each) => message?.endsWith(each));
  return who ? WHO[who] : MEANINGS[code] ?? (message ? sentence(message) : code);
}

// A sentence as one begins and ends, unless it begins with a name: most of the server's end without
// a full stop.
export function sentence(text) {
  const begun = /^[a-z]+ /.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}

// The troubles of the fake Ollama, as models: tests compare them with the fake's own.
export const TROUBLES = {
  normal: "Answers, chunk by chunk.",
  slow: "Gives a long answer of many chunks, slowly.",
  "slow-load": "Takes long to load: silence, then the headers and the first chunk together.",
  "load-aborted": "Takes very long to load, and starts anew each time its caller leaves: prompted again faster than that, it never loads (ollama#8398).",
  "busy-queue": "Waits in silence until somebody else's call gives the slot back.",
  busy: "Refuses with 503: the queue is full.",
  missing: "Is not installed: 404.",
  unauthorized: "Refuses with 401 and a signin_url, as cloud models do.",
  "rate-limited": "Refuses with 429, as cloud models do.",
  "bad-gateway": "Refuses with 502, as cloud models do.",
  error: "Fails with 500 instead of the first chunk.",
  "error-midstream": "Sends an error line after some chunks; the status stays 200, no done follows.",
  cut: "Ends after some chunks with neither error nor done.",
  crash: "Breaks the connection off after some chunks.",
  "hang-before-headers": "Sends nothing, for ever.",
  "hang-midstream": "Sends some chunks, and then nothing, for ever.",
  pause: "Sends some chunks, is silent for a while, and goes on.",
  "ignores-disconnect": "Gives a long answer, slowly, and keeps its slot when its caller leaves, until it is reloaded (ollama#17131).",
  "late-notice": "Notices a close during prompt evaluation only after it (ollama#11889).",
  unicode: "Answers with U+0085, U+2028, emoji and CJK, split anywhere between segments.",
  "one-segment": "Sends all chunks in one TCP segment.",
  zeros: "Ends with metrics that are all zero, and therefore left out.",
  empty: "Answers with nothing but done.",
  thinking: "Thinks first, unless think is false.",
  tools: "Calls the first tool it is offered; without tools it answers as normal.",
};

export function seconds(ms) {
  return `${(ms / 1000).toFixed(1)} s`;
}

// A text that is the same is left alone, with what a reader has selected in it.
export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
