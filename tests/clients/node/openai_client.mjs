// openai-node with its defaults.
import OpenAI from "openai";

const TOOL = {
  type: "function",
  function: {
    name: "weather",
    description: "The weather of a city.",
    parameters: { type: "object", properties: { city: { type: "string" } } },
  },
};

const api = (url, session) =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey: "devkey", defaultHeaders: { "X-Session-Id": session } });

export async function whole(url, session, model, messages, withTools = false) {
  const tools = withTools ? { tools: [TOOL] } : {};
  const answer = await api(url, session).chat.completions.create({ model, messages, ...tools });
  const { content, tool_calls } = answer.choices[0].message;
  return { text: content, calls: tool_calls ?? [], usage: answer.usage };
}

export async function* stream(url, session, model, messages, signal) {
  const chunks = await api(url, session).chat.completions.create(
    { model, messages, stream: true, stream_options: { include_usage: true } }, { signal });
  for await (const chunk of chunks) {
    yield { text: chunk.choices[0]?.delta.content, usage: chunk.usage };
  }
}

export function toolTurn(call, result) {
  return [
    { role: "assistant", content: null, tool_calls: [call] },
    { role: "tool", tool_call_id: call.id, content: result },
  ];
}
