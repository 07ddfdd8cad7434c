// LangChain.js' ChatOpenAI with its defaults, but that a failed model is not tried for a minute.
import { AIMessage, HumanMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";

const TOOL = {
  type: "function",
  function: {
    name: "weather",
    description: "The weather of a city.",
    parameters: { type: "object", properties: { city: { type: "string" } } },
  },
};

const model_of = (url, session, model) =>
  new ChatOpenAI({
    model,
    apiKey: "devkey",
    streamUsage: true,
    ...(model === "fake:error" ? { maxRetries: 1 } : {}),
    configuration: { baseURL: `${url}/v1`, defaultHeaders: { "X-Session-Id": session } },
  });

const messages_of = (messages) =>
  messages.map((one) => (one.role === "user" ? new HumanMessage(one.content) : one));

export async function whole(url, session, model, messages, withTools = false) {
  const chat = model_of(url, session, model);
  const answer = await (withTools ? chat.bindTools([TOOL]) : chat).invoke(messages_of(messages));
  return { text: answer.text, calls: answer.tool_calls, usage: answer.usage_metadata };
}

export async function* stream(url, session, model, messages, signal) {
  const chunks = await model_of(url, session, model).stream(messages_of(messages), { signal });
  for await (const chunk of chunks) yield { text: chunk.text, usage: chunk.usage_metadata };
}

export function toolTurn(call, result) {
  return [
    new AIMessage({ content: "", tool_calls: [call] }),
    new ToolMessage({ content: result, tool_call_id: call.id }),
  ];
}
