// Plays every case with one client and prints one JSON object for each: `cases.mjs CLIENT URL`.
// The same cases as ../python/cases.py. A client is a module with `whole`, `stream`, `toolTurn`.

const [clientName, url, ...only] = process.argv.slice(2);
const client = await import(`./${clientName}.mjs`);

const HELLO = [{ role: "user", content: "hello" }];
const said = (text) => [{ role: "user", content: text }];
const soon = () => new Promise((done) => setTimeout(done, 10));

async function ask(path, method = "GET") {
  const answer = await fetch(url + path, { method, headers: { authorization: "Bearer devkey" } });
  return answer.json();
}

async function active(session, atLeast = 1) {
  for (;;) {
    const { data } = await ask("/v1/streams");
    const found = data.filter((one) => one.state === "ACTIVE" && JSON.stringify(one).includes(session));
    if (found.length >= atLeast) return found;
    await soon();
  }
}

async function read(session, model, messages = HELLO, onStart = () => {}) {
  let text = "", usage = null;
  for await (const part of client.stream(url, session, model, messages)) {
    text += part.text ?? "";
    usage = part.usage ?? usage;
    onStart();
  }
  return { text, usage };
}

function outcome(promise) {
  return promise.catch((error) => ({
    error: error.name ?? typeof error,
    status: error.statusCode ?? error.status ?? error.lastError?.statusCode ?? null,
    message: String(error.message ?? JSON.stringify(error)),
  }));
}

function signal() {
  let fire;
  const fired = new Promise((done) => { fire = done; });
  return { fire, fired };
}

const cases = {
  plain: () => client.whole(url, "plain", "fake:normal", HELLO),
  streamed: () => read("streamed", "fake:normal"),
  silent: () => read("silent", "fake:pause"),
  model_error: () => outcome(client.whole(url, "model_error", "fake:error", HELLO)),
  error_midstream: () => outcome(read("error_midstream", "fake:error-midstream")),
  async tools() {
    const first = await client.whole(url, "tools", "fake:tools", HELLO, true);
    const [call] = first.calls;
    const messages = [...HELLO, ...client.toolTurn(call, "4 C")];
    const second = await client.whole(url, "tools", "fake:tools", messages);
    return { call, text: second.text };
  },
  async stop() {
    // It leaves amid its reading: ollama-js aborts nothing before its answer has begun.
    const leave = new AbortController(), started = signal(), left = signal();
    const reading = (async () => {
      for await (const _ of client.stream(url, "stop", "fake:hang-midstream", HELLO, leave.signal)) {
        started.fire();
        await left.fired;
        break;
      }
    })().catch(() => {});
    await started.fired;
    const [stream] = await active("stop");
    leave.abort();
    left.fire();
    await reading;
    for (;;) {
      const found = await ask(`/v1/streams/${stream.trace_id}`);
      if (found.state === "ENDED") return { stream: found };
      await soon();
    }
  },
  async superseded_stream() {
    const session = "superseded_stream", started = signal();
    const first = outcome(read(session, "fake:hang-midstream", said("prompt 1"), started.fire));
    await started.fired;
    const second = await outcome(read(session, "fake:normal", said("prompt 2")));
    return { first: await first, second };
  },
  async superseded_whole() {
    const session = "superseded_whole", started = signal();
    const first = outcome(client.whole(url, session, "fake:hang-before-headers", said("prompt 1")));
    await active(session);
    let firstIsOver = false, secondIsOver = false;
    const second = outcome(read(session, "fake:hang-midstream", said("prompt 2"), started.fire));
    first.then(() => { firstIsOver = true; });
    second.then(() => { secondIsOver = true; started.fire(); });
    await started.fired;
    await Promise.race([first, second]);
    const killed = secondIsOver;
    // Whichever is left: prompt 2 as it should be, or a repetition of prompt 1.
    while (!(firstIsOver && secondIsOver)) {
      for (const stream of await active(session, 0)) {
        await ask(`/v1/streams/${stream.trace_id}/cancel`, "POST");
      }
      await soon();
    }
    const third = await outcome(read(session, "fake:normal", said("prompt 3")));
    return { first: await first, killed, second: await second, third };
  },
};

for (const name of only.length ? only : Object.keys(cases)) {
  const late = new Promise((_, fail) => setTimeout(() => fail(new Error("not within 200 s")), 200_000).unref());
  let result;
  try {
    result = await Promise.race([cases[name](), late]);
  } catch (error) {
    result = { failed: `${error.name}: ${error.message}` };
  }
  console.log(JSON.stringify({ case: name, ...result }));
}
process.exit(0);
