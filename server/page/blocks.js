// A text of a model or a person: what stands between lines of three backticks is code. All is
// inserted as text.

import { set } from "./words.js";

// With the name of a language behind it, or nothing.
const FENCE = /^ {0,3}```[\w+#.-]*[ \t]*(?:\n|$)/m;

// [is it code, text], in order; a block that is still being written goes on to the end.
function parts(text) {
  const found = [];
  let isCode = false;
  for (let rest = text; rest; isCode = !isCode) {
    const fence = FENCE.exec(rest);
    const end = fence ? fence.index : rest.length;
    // The line break before a fence, and that before what follows a block, are the block's own.
    found.push([isCode, fence ? rest.slice(0, end).replace(/\n$/, "") : rest]);
    rest = fence ? rest.slice(end + fence[0].length) : "";
  }
  return found.filter(([code, each]) => code || each);
}

// What is the same is left alone, with what a reader has selected in it.
export function drawText(element, text) {
  const wanted = parts(text);
  while (element.children.length > wanted.length) element.lastChild.remove();
  wanted.forEach(([isCode, each], number) => {
    const name = isCode ? "PRE" : "SPAN";
    let child = element.children[number];
    if (child?.tagName !== name) {
      const fresh = document.createElement(name);
      if (isCode) fresh.tabIndex = 0;
      child ? child.replaceWith(fresh) : element.append(fresh);
      child = fresh;
    }
    set(child, each);
  });
}
