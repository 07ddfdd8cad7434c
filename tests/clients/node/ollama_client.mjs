// Ollama's own client for Node.
import { Ollama } from "ollama";

const TOOL = {
  type: "function",
  function: {
    name: "weather",
    description: "The weather of a city.",
    parameters: { type: "object", properties: { city: { type: "string" } } },
  },
};

const api = (url, session) =>
  new Ollama({ host: url, headers: { authorization: "Bearer devkey", "x-session-id": session } });

const usage_of = (answer) => ({ prompt: answer.prompt_eval_count, answer: answer.eval_count });

export async function whole(url, session, model, messages, withTools = false) {
  const tools = withTools ? { tools: [TOOL] } : {};
  const answer = await api(url, session).chat({ model, messages, ...tools });
  const { content, tool_calls } = answer.message;
  return { text: content, calls: tool_calls ?? [], usage: usage_of(answer) };
}

export async function* stream(url, session, model, messages, signal) {
  const one = api(url, session);
  signal?.addEventListener("abort", () => one.abort());
  const chunks = await one.chat({ model, messages, stream: true });
  for await (const chunk of chunks) {
    yield { text: chunk.message.content, usage: chunk.done ? usage_of(chunk) : null };
  }
}

export function toolTurn(call, result) {
  return [
    { role: "assistant", content: "", tool_calls: [call] },
    { role: "tool", tool_name: call.function.name, content: result },
  ];
}
